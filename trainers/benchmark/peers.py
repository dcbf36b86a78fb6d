"""Training beside PPO of Stable-Baselines3, each with its best settings, in turn in one run.

Both train in the same environments: native ones through `to_sb3`, others in Stable-Baselines3's
own loop. On CartPole-v1 whole processes take turns as well, from start to end: that of
Stable-Baselines3 imports nothing of this package.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import from_mapping
from grpo_gym.trainers.benchmark.rates import take_turns, timed
from grpo_gym.trainers.comparison.settings import SB3Settings
from grpo_gym.trainers.comparison.training import GRPOTraining, Training
from grpo_gym.trainers.experiments import EVALUATION_SEED, shipped_settings
from grpo_gym.trainers.settings import new_model
from grpo_gym.trainers.shipped import shipped_config

CONTENDERS = ("grpo", "ppo")


@dataclass(frozen=True)
class Target:
    """A mean return that a training reaches in two evaluations in a row."""

    mean_return: float
    """What counts as solved, or what the best heuristic has."""
    every: int
    """Environment steps between two evaluations, rounded up to whole iterations."""
    episodes: int
    """Of an evaluation."""
    ppo_steps: int
    """Length of PPO's training, which its schedules span; GRPO's is in its shipped settings."""


TARGETS = {
    "CartPole-v1": Target(475.0, every=2_000, episodes=20, ppo_steps=100_000),
    "LoadBalancer-v0": Target(-266.0, every=10_000, episodes=100, ppo_steps=1_000_000),
}
Measurements = dict[str, Callable[[], dict[str, Any]]]


class Stopwatch:
    """Elapsed and processor time of this process, with pauses."""

    def __init__(self) -> None:
        self._seconds = self._cpu_seconds = 0.0

    def start(self) -> None:
        """Go on."""
        self._seconds -= time.perf_counter()
        self._cpu_seconds -= time.process_time()

    def pause(self) -> None:
        """Stop until the next `start`."""
        self._seconds += time.perf_counter()
        self._cpu_seconds += time.process_time()

    def read(self) -> dict[str, float]:
        """`seconds` and `cpu_seconds`, during a pause."""
        return {"seconds": self._seconds, "cpu_seconds": self._cpu_seconds}


def peer_measurements(seeds: int, seconds: float, repetitions: int) -> Measurements:
    """Measurements of both contenders in turn by key; picklable.

    Args:
        seeds: Trainings to the target, from seed 0.
        seconds: Least duration of one measurement of a rate.
        repetitions: Of such.
    """
    rows: Measurements = {}
    for env in TARGETS:
        rows[f"rate/{env}"] = partial(rates_of_pair, env, seconds, repetitions)
    for seed in range(seeds):
        rows[f"process/CartPole-v1/seed {seed}"] = partial(processes_of_pair, "CartPole-v1", seed)
        for env in TARGETS:
            rows[f"target/{env}/seed {seed}"] = partial(targets_of_pair, env, seed)
    return rows


def rates_of_pair(env: str, seconds: float, repetitions: int) -> dict[str, Any]:
    """Environment steps/s of both in training, by contender: a list each, in turn."""
    torch.set_num_threads(1)
    model = new_model(shipped_settings(env))
    ppo = _ppo(env, seed=0)
    iterations = {
        "grpo": lambda: model.train_iteration().rollout_steps,
        "ppo": lambda: ppo.learn(1, lambda _: None),
    }
    works = {name: timed(partial(_repeat, iterations[name], seconds)) for name in CONTENDERS}
    return {"steps_per_second": take_turns(works, repetitions)}


def targets_of_pair(env: str, seed: int) -> dict[str, Any]:
    """`until_target` of both contenders."""
    torch.set_num_threads(1)
    settings = shipped_settings(env)
    return {
        "grpo": until_target(GRPOTraining(settings, seed), env, settings.total_steps),
        "ppo": until_target(_ppo(env, seed), env, TARGETS[env].ppo_steps),
    }


def processes_of_pair(env: str, seed: int) -> dict[str, Any]:
    """Whole processes of both, from their start to the target.

    Returns:
        By contender `steps`, `reached`, and elapsed and processor time: `seconds`, `cpu_seconds`.
    """
    target, ppo = TARGETS[env], _sb3_settings(env)
    task = {
        "env": env,
        "seed": seed,
        "first_episode": EVALUATION_SEED,
        "target": target.mean_return,
        "every": target.every,
        "episodes": target.episodes,
        "total_steps": {"grpo": shipped_settings(env).total_steps, "ppo": target.ppo_steps},
        "num_envs": ppo.num_envs,
        "settings": ppo.settings,
    }
    found = {}
    for name in CONTENDERS:
        script = Path(__file__).with_name(f"{name}_process.py")
        command = [sys.executable, str(script), json.dumps(task)]
        started, cpu = time.perf_counter(), _cpu_seconds_of_children()
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = {
            **json.loads(ended.stdout),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": _cpu_seconds_of_children() - cpu,
        }
    return found


def until_target(training: Training, env: str, total_steps: int) -> dict[str, Any]:
    """Train until two evaluations in a row reach the target.

    Returns:
        `steps`; `seconds` and `cpu_seconds` without those of evaluations; `reached`, whether it
        came to that.
    """
    target = TARGETS[env]
    act = training.action_function(deterministic=True)
    last, successes = 0, 0
    learning = Stopwatch()

    class Reached(Exception):  # noqa: N818
        """Ends the training, whoever trains."""

    with closing(make_batch(env, {}, target.episodes)) as batch:

        def record(steps: int) -> None:
            nonlocal last, successes
            if steps - last < target.every:
                return
            last = steps
            learning.pause()
            played = evaluate(act, batch, target.episodes, EVALUATION_SEED)
            learning.start()
            successes = successes + 1 if played.mean_return >= target.mean_return else 0
            if successes == 2:
                raise Reached

        learning.start()
        with suppress(Reached):
            training.learn(total_steps, record)
        learning.pause()
    return {"steps": last, "reached": successes == 2, **learning.read()}


def _cpu_seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _repeat(iteration: Callable[[], int], seconds: float) -> int:
    """Iterate for at least so long; returns the steps."""
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        steps += iteration()
    return steps


def _ppo(env: str, seed: int) -> Training:
    from grpo_gym.trainers.comparison.sb3_training import SB3Training  # needs an extra

    return SB3Training(_sb3_settings(env), seed)


def _sb3_settings(env: str) -> SB3Settings:
    return from_mapping(SB3Settings, shipped_config(f"comparison/ppo/{env}"), f"PPO for {env}")
