"""Train shipped recipes on seeds that no search has seen, and play unseen episodes.

Some need gymnasium[mujoco] or minigrid. An interrupted run resumes where it
stopped.

    python scripts/recipes.py --out docs/results/recipes.json
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED

EPISODES = {
    "FrozenLake-v1": 500,
    "Acrobot-v1": 200,
    "Taxi-v4": 500,
    "doorkey:DoorKey-v0": 200,
    "InvertedDoublePendulum-v5": 100,
}
"""Episodes that each trained policy plays with its most probable actions, by environment."""
FIRST_SEED = 1000
"""Recipes were found on seeds below."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path
    """File of the results; existing results are not measured again."""
    seeds: int = 5
    """Trainings of each recipe."""
    only: tuple[str, ...] = tuple(EPISODES)
    """Environments."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    measurements = {
        f"{env}/seed {seed}": partial(measure, env, seed)
        for env in options.only
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds)
    }
    experiments.measure(options.out, measurements)


def measure(env: str, seed: int) -> dict[str, Any]:
    """Train with the shipped settings; the mean return of the policy at the end."""
    trained = experiments.train(experiments.shipped_settings(env), seed)
    return {
        "return": trained.model.evaluate(EPISODES[env], seed=EVALUATION_SEED).mean_return,
        "training_steps": trained.model.num_steps,
        "training_cpu_seconds": round(trained.cpu_seconds, 1),
    }


if __name__ == "__main__":
    main()
