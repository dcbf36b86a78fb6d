"""What to compare returns with: the time step, the state in closed form, or a learned value.

Part "critic" asks what is left of "critics are needed" (arXiv 2511.03527) in Hopper-v5, where
members fall at different times; part "worlds" what state values do where members share a world.
All else is equal. An interrupted experiment resumes where it stopped.

    python scripts/baselines.py --part critic       # needs gymnasium[mujoco]
    python scripts/baselines.py --part worlds
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import tyro

from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.settings import TrainSettings

EPISODES = {"critic": 20, "worlds": 500}
BASELINES: dict[str, dict[str, Any]] = {
    "whole trajectories (GRPO)": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "gae_lambda": 1.0,
    },
    "time step": {"baseline": "time_step", "gae_lambda": 1.0},
    "state": {"baseline": "state", "gae_lambda": 1.0},
    "state, GAE(0.95)": {"baseline": "state", "gae_lambda": 0.95},
    "state or time step": {"baseline": "auto", "gae_lambda": 0.95},
    "learned value": {"baseline": "none", "learned_baseline": True, "gae_lambda": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    part: Literal["critic", "worlds", "all"] = "all"
    """What to measure, into baselines_<part>.json."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    tasks = {
        "critic": {"Hopper-v5": experiments.shipped_settings("Hopper-v5", total_steps=300_000)},
        "worlds": {
            "Acrobot-v1": experiments.shipped_settings("Acrobot-v1", total_steps=200_000),
            "flaky": experiments.shipped_settings(
                "LoadBalancer-v0", "flaky", total_steps=1_000_000
            ),
            "park": experiments.shipped_settings("LoadBalancer-v0", "park", total_steps=1_000_000),
        },
    }
    for part, settings_of in tasks.items():
        if options.part in (part, "all"):
            trainings = {
                f"{task}/{name}": partial(measure, settings, changes, EPISODES[part])
                for task, settings in settings_of.items()
                for name, changes in BASELINES.items()
            }
            options.measure(f"baselines_{part}", trainings)


def measure(
    settings: TrainSettings, changes: dict[str, Any], episodes: int, seed: int
) -> dict[str, Any]:
    """Train with a baseline, and play unseen episodes with the most probable actions."""
    changed = replace(settings, grpo=replace(settings.grpo, **changes))
    trained = experiments.train(changed, seed)
    return {
        "return": trained.model.evaluate(episodes, seed=EVALUATION_SEED).mean_return,
        "training_steps": trained.model.num_steps,
        "training_cpu_seconds": round(trained.cpu_seconds, 1),
    }


if __name__ == "__main__":
    main()
