"""GRPO against MaskablePPO of sb3-contrib on Battleship: equal steps, and equal minutes.

Both train on our vector environment, on one core, with the same rewards and layers for the policy
(MaskablePPO has a critic besides), their learning rates fall to the same share, and their discount
moves alike; then they play the same boards, which are all boards of microgrpo-5x5. Every training
is kept in a JSON file as soon as it has ended, so an interrupted experiment goes on where it
stopped.

    python scripts/maskable_ppo.py --board microgrpo
    python scripts/maskable_ppo.py --board classic

It needs `pip install -e ".[compare]"`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from grpo_gym import GRPO
from grpo_gym.envs.sb3 import to_sb3
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch, make_enumerated
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.settings import from_mapping, load_yaml
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.networks import MaskableBoardActorCritic, board_policy_kwargs
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.settings import TrainSettings

ENV = "Battleship-v0"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
EVALUATION_SEED = 5_000_000
GAMES = 1_000


@dataclass(frozen=True)
class Task:
    """A board and how long to train on it.

    Attributes:
        config: Our settings.
        steps: Of equal steps.
        budget: Our steps of equal time.
        ppo_budget: MaskablePPO's; both were chosen to take two minutes.
        num_envs: Of MaskablePPO.
        ppo: Settings of MaskablePPO, found on seed 50.
    """

    config: str
    steps: int
    budget: int
    ppo_budget: int
    num_envs: int
    ppo: dict[str, Any]


TASKS = {
    "microgrpo": Task(
        config="Battleship-v0-microgrpo-5x5.yaml",
        steps=1_000_000,
        budget=2_800_000,
        ppo_budget=1_100_000,
        num_envs=256,
        ppo={"n_steps": 32, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "gamma": 1.0},
    ),
    "classic": Task(
        config="Battleship-v0.yaml",
        steps=100_000,
        budget=220_000,
        ppo_budget=85_000,
        num_envs=64,
        ppo={
            "n_steps": 128,
            "batch_size": 1024,
            "n_epochs": 4,
            "learning_rate": 1e-3,
            "gamma": 0.9,
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    board: Literal["microgrpo", "classic"]
    """What to play."""
    results: Path = Path("docs/results")
    """Folder of the JSON files, maskable_ppo_<board>.json."""
    seeds: int = 5
    """Trainings of each algorithm, from seed 0."""
    processes: int = 2
    """Trainings at a time; each uses one core."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    path = options.results / f"maskable_ppo_{options.board}.json"
    results = Results(path, Console(stderr=True, highlight=False).print)
    task = TASKS[options.board]
    runs = {}
    for seed in range(options.seeds):
        runs[f"GRPO, equal steps/seed {seed}"] = partial(train_grpo, task, task.steps, seed)
        runs[f"GRPO, equal minutes/seed {seed}"] = partial(train_grpo, task, task.budget, seed)
        runs[f"MaskablePPO, equal steps/seed {seed}"] = partial(train_ppo, task, task.steps, seed)
        minutes = partial(train_ppo, task, task.ppo_budget, seed)
        runs[f"MaskablePPO, equal minutes/seed {seed}"] = minutes
    results.measure_all(runs, options.processes)
    return 0


def train_grpo(task: Task, total_steps: int, seed: int) -> dict[str, Any]:
    """Our curve."""
    torch.set_num_threads(1)
    settings = settings_of(task)
    model = GRPO(
        settings.policy,
        ENV,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        config=replace(settings.grpo, seed=seed),
    )
    curve = Curve(partial(play_grpo, model, evaluation_batch(settings.env_kwargs)))

    def record(_: GRPO, stats: IterationStats) -> None:
        curve.record(stats.num_steps, at_end=stats.num_steps >= total_steps)

    model.learn(total_steps, callback=record)
    return {"curve": curve.points, "parameters": count_parameters(model.policy)}


def train_ppo(task: Task, total_steps: int, seed: int) -> dict[str, Any]:
    """The curve of MaskablePPO."""
    torch.set_num_threads(1)
    settings = settings_of(task)
    kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
    venv = to_sb3(gym.make_vec(ENV, num_envs=task.num_envs, autoreset_mode="SameStep", **kwargs))
    policy: Any = "MlpPolicy"
    policy_kwargs: dict[str, Any] = {"net_arch": list(settings.grpo.hidden_sizes)}
    if settings.policy == "board":
        policy = MaskableBoardActorCritic
        policy_kwargs = board_policy_kwargs(settings.grpo.channels, settings.grpo.blocks)
    rate, final = task.ppo["learning_rate"], settings.grpo.final_learning_rate
    model = MaskablePPO(
        policy,
        venv,
        seed=seed,
        policy_kwargs=policy_kwargs,
        device="cpu",
        **{**task.ppo, "learning_rate": lambda left: rate * (final + (1.0 - final) * left)},
    )
    curve = Curve(partial(play_ppo, model, evaluation_batch(settings.env_kwargs)))
    model.learn(total_steps, callback=RecordCurve(curve, settings.grpo.final_discount))
    curve.record(model.num_timesteps, at_end=True)
    return {"curve": curve.points, "parameters": count_parameters(model.policy)}


def settings_of(task: Task) -> TrainSettings:
    """Our shipped settings."""
    path = CONFIGS / task.config
    return from_mapping(TrainSettings, load_yaml(path), str(path))


def evaluation_batch(env_kwargs: dict[str, Any]) -> tuple[EnvBatch, int, int]:
    """Boards to play after training, how many, and the first seed."""
    if env_kwargs.get("preset") == "microgrpo-5x5":
        worlds = make_enumerated(ENV, env_kwargs, 2_048)
        return worlds, worlds.num_initial_states, 0
    return make_batch(ENV, env_kwargs, 500), GAMES, EVALUATION_SEED


def play_grpo(model: GRPO, games: tuple[EnvBatch, int, int]) -> float:
    """Mean return of our most probable shots."""
    return evaluate(model.action_function(), *games).mean_return


def play_ppo(model: MaskablePPO, games: tuple[EnvBatch, int, int]) -> float:
    """Mean return of MaskablePPO's most probable shots."""
    shape = model.observation_space.shape

    def action_function(
        observations: np.ndarray, masks: np.ndarray | None, state: Any, _: np.ndarray
    ) -> tuple[np.ndarray, Any]:
        images = observations.reshape(-1, *shape)
        return model.predict(images, action_masks=masks, deterministic=True)[0], state

    return evaluate(action_function, *games).mean_return


class Curve:
    """Seconds of training, environment steps, and the mean return there.

    Seconds are those of the processor, as others may use it at the same time; on one thread alone
    they are the clock's.

    Attributes:
        points: What was measured.
    """

    def __init__(self, measure: Callable[[], float]) -> None:
        self.points: list[tuple[float, int, float]] = []
        self._measure = measure
        self._due = 10.0
        self._start = time.process_time()

    def record(self, steps: int, at_end: bool = False) -> None:
        """Measure if it is time to; that does not count as training."""
        seconds = time.process_time() - self._start
        if at_end or seconds >= self._due:
            self.points.append((round(seconds, 1), steps, self._measure()))
            self._due = 1.25 * seconds
        self._start = time.process_time() - seconds


class RecordCurve(BaseCallback):  # type: ignore[misc,unused-ignore]
    """Fills the curve between updates, and moves the discount as ours does."""

    def __init__(self, curve: Curve, final_discount: float | None) -> None:
        super().__init__()
        self._curve = curve
        self._final_discount = final_discount
        self._discount = 0.0

    def _on_training_start(self) -> None:
        self._discount = self.model.gamma

    def _on_rollout_start(self) -> None:
        self._curve.record(self.num_timesteps)
        if self._final_discount is not None:
            done = 1.0 - self.model._current_progress_remaining
            discount = self._discount + done * (self._final_discount - self._discount)
            self.model.gamma = self.model.rollout_buffer.gamma = discount

    def _on_step(self) -> bool:
        return True


def count_parameters(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    sys.exit(main())
