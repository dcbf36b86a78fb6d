"""Measure all variants: presets, branching, group sizes, and learned baselines.

Each part has its own file of results, so parts can run in parallel. An interrupted experiment
resumes where it stopped.

    python scripts/variants.py --part presets
    python scripts/variants.py --part branching
    python scripts/variants.py --part group_size
    python scripts/variants.py --report docs/results/variants.md  # tables of what has been measured
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from variants_protocol import EPISODES, EVALUATION_SEED, PARTS, Variant
from variants_report import write_report

from grpo_gym.rollouts.snapshot_check import SnapshotError
from grpo_gym.trainers import experiments


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    part: Literal["presets", "branching", "group_size", "all"] | None = None
    """What to measure, into variants_<part>.json."""
    report: Path | None = None
    """Write the tables of everything measured so far to this file."""
    episodes: int = EPISODES
    """Evaluation episodes of each trained policy, with the most probable actions."""


def main() -> None:
    """Measure what is missing, then write the tables."""
    options = tyro.cli(Options, description=__doc__)
    for part, make_variants in PARTS.items():
        if options.part in (part, "all"):
            trainings = {
                name: partial(measure, variant, options.episodes)
                for name, variant in make_variants().items()
            }
            options.measure(f"variants_{part}", trainings)
    if options.report is not None:
        write_report(options.results, options.report)


def measure(variant: Variant, episodes: int, seed: int) -> dict[str, Any]:
    """Train and evaluate one variant, or give the reason why the environment refuses it."""
    settings = variant.task.settings(**variant.changes)
    try:
        trained = experiments.train(settings, seed, iterations=variant.iterations)
    except SnapshotError as error:
        return {"refused": str(error)}
    return {
        "return": trained.model.evaluate(episodes, seed=EVALUATION_SEED).mean_return,
        "training_steps": trained.model.num_steps,
        "iterations": trained.model.iteration,
        "training_seconds": round(trained.wall_seconds, 1),
    }


if __name__ == "__main__":
    main()
