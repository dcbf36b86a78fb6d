"""Measure Battleship: learning curves of the shipped settings, and the published experiment.

Every training is kept in a JSON file as soon as it has ended, so an interrupted experiment goes
on where it stopped. Boards of 5 x 5 are scored exactly, by playing all of them.

    python scripts/battleship.py --part microgrpo
    python scripts/battleship.py --part published
    python scripts/battleship.py --part classic --seeds 3
    python scripts/battleship.py --part density --seeds 3
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_enumerated
from grpo_gym.settings.config import from_mapping, load_yaml, replace
from grpo_gym.storage.results import Results
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.settings import TrainSettings

ENV = "Battleship-v0"
EVALUATION_SEED = 5_000_000
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILES = {
    "microgrpo": "Battleship-v0-microgrpo-5x5.yaml",
    "classic": "Battleship-v0.yaml",
    "density": "Battleship-v0-classic-10x10-density.yaml",
}
PUBLISHED: dict[str, Any] = {
    "num_groups": 4,
    "group_size": 16,
    "epochs": 10,
    "num_minibatches": 1,
    "learning_rate": 4e-4,
    "learning_rate_schedule": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 1e9,
    "clip_low": 0.9,
    "clip_high": 0.3,
    "returns": "outcome",
    "discount": 1.0,
    "baseline": "trajectory",
    "center": "leave_one_out",
    "loss_normalisation": "per_group",
    "refill_rounds": 3,
    "hidden_sizes": (25,),
    "normalise_observations": False,
}
"""github.com/superlinear-ai/microGRPO as a set of ours, but for the draw of the weights."""
SCALES: dict[str, Any] = {"LOOP": {"scale": "none"}, "Magistral": {"scale": "batch"}}
PUBLISHED_ITERATIONS = 2_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    part: Literal["microgrpo", "published", "classic", "density"]
    """What to measure; what is in its file already is not measured again."""
    results: Path = Path("docs/results")
    """Folder of the JSON files, battleship_<part>.json."""
    seeds: int = 5
    """Trainings of each setting, from seed 0; settings were found on seeds from 50."""
    episodes: int = 10_000
    """Games at the end of each training on boards that cannot all be played."""
    processes: int = 2
    """Trainings at a time; each uses one core."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    path = options.results / f"battleship_{options.part}.json"
    results = Results(path, Console(stderr=True, highlight=False).print)
    runs = {
        f"{name}/seed {seed}": partial(run, seed)
        for seed in range(options.seeds)
        for name, run in settings_of(options).items()
    }
    results.measure_all(runs, options.processes)
    return 0


def settings_of(options: Options) -> dict[str, Callable[[int], dict[str, Any]]]:
    """What a part trains with a seed, by name."""
    if options.part == "published":
        return {name: partial(train_as_published, scale) for name, scale in SCALES.items()}
    return {options.part: partial(train, CONFIGS / FILES[options.part], options.episodes)}


def train(config: Path, episodes: int, seed: int) -> dict[str, Any]:
    """The curve of the shipped settings, and the policy at its end."""
    torch.set_num_threads(1)
    settings = from_mapping(TrainSettings, load_yaml(config), str(config))
    model = GRPO(
        settings.policy,
        settings.env,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        config=replace(settings.grpo, seed=seed),
    )
    if settings.env_kwargs.get("preset") == "microgrpo-5x5":
        curve = learn(model, settings.total_steps, exact_score)
        return {"exact score of the most probable shots": curve[-1][2], "curve": curve}
    curve = learn(model, settings.total_steps, partial(mean_shots, 1_000))
    evaluation = model.evaluate(episodes, seed=EVALUATION_SEED)
    return {"shots": evaluation.summary()["length"], "curve": curve}


def train_as_published(scale: dict[str, Any], seed: int) -> dict[str, Any]:
    """The published experiment: score of sampled and of the most probable shots, exactly."""
    torch.set_num_threads(1)
    env_kwargs = {"preset": "microgrpo-5x5"}
    model = GRPO("mlp", ENV, env_kwargs=env_kwargs, seed=seed, **PUBLISHED, **scale)
    curve = []
    for iteration in range(PUBLISHED_ITERATIONS + 1):
        if iteration % 100 == 0:
            sampled = model.evaluate(4_096, seed=EVALUATION_SEED, deterministic=False)
            curve.append([iteration, sampled.mean_return, exact_score(model)])
        if iteration < PUBLISHED_ITERATIONS:
            model.train_iteration()
    return {"curve: iteration, sampled score, exact score": curve, "steps": model.num_steps}


def learn(
    model: GRPO, total_steps: int, measure: Callable[[GRPO], float]
) -> list[tuple[float, int, float]]:
    """Train to the end: seconds of training, environment steps, and what was measured there."""
    curve: list[tuple[float, int, float]] = []
    seconds, due = 0.0, 10.0

    def record(model: GRPO, stats: IterationStats) -> None:
        nonlocal seconds, due
        seconds += stats.collect_seconds + stats.update_seconds
        if seconds >= due or stats.num_steps >= total_steps:
            curve.append((round(seconds, 1), stats.num_steps, measure(model)))
            due = 1.25 * seconds

    model.learn(total_steps, callback=record)
    return curve


def exact_score(model: GRPO) -> float:
    """Mean return of the most probable shots over all boards."""
    worlds = make_enumerated(ENV, model.env_kwargs, 2_048)
    return evaluate(model.action_function(), worlds, worlds.num_initial_states, 0).mean_return


def mean_shots(episodes: int, model: GRPO) -> float:
    """Mean shots of games with the most probable shots."""
    return float(model.evaluate(episodes, seed=EVALUATION_SEED).lengths.mean())


if __name__ == "__main__":
    sys.exit(main())
