"""What each variant is worth: all presets, branching, group sizes, and learned baselines.

Every run is kept in a JSON file as soon as it has ended, so an interrupted experiment goes on
where it stopped; parts have files of their own, so that they can run side by side.

    python scripts/variants.py --part presets
    python scripts/variants.py --part branching
    python scripts/variants.py --part group_size
    python scripts/variants.py --report docs/variants.md      # tables of what has been measured
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.rollouts.snapshots import SnapshotError
from grpo_gym.settings.config import from_mapping, replace, to_mapping
from grpo_gym.storage.results import Results
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.presets import PRESETS
from grpo_gym.trainers.settings import TrainSettings, default_config

EVALUATION_SEED = 1_000_000
"""First seed of the evaluation episodes, which no training has seen."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    part: Literal["presets", "branching", "group_size", "all"] | None = None
    """What to measure; what is in its file already is not measured again."""
    report: Path | None = None
    """Write the tables of everything measured so far to this file."""
    results: Path = Path("docs/results")
    """Folder of the JSON files, variants_<part>.json."""
    seeds: int = 5
    """Training runs of each setting, from seed 0; settings were found on seeds from 50."""
    episodes: int = 200
    """Evaluation episodes of each trained policy, with the most probable actions."""


@dataclass(frozen=True)
class Task:
    """An environment with its shipped settings, and how long to train in it.

    Attributes:
        env: Its id.
        preset: The environment's own preset, or None.
        steps: Environment steps.
    """

    env: str
    preset: str | None
    steps: int

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.env if self.preset is None else f"{self.env} {self.preset}"

    def settings(self) -> TrainSettings:
        """The shipped settings."""
        kwargs = {} if self.preset is None else {"preset": self.preset}
        values = {"env": self.env, "env_kwargs": kwargs, **default_config(self.env, kwargs)}
        return from_mapping(TrainSettings, {**values, "total_steps": self.steps}, self.name)


FLAKY = Task("LoadBalancer-v0", "flaky", 1_000_000)
PARK = Task("LoadBalancer-v0", "park", 2_000_000)
CARTPOLE = Task("CartPole-v1", None, 100_000)
ACROBOT = Task("Acrobot-v1", None, 200_000)
PRESET_TASKS = (FLAKY, CARTPOLE, ACROBOT)
BRANCHING_TASKS = (
    Task("LunarLander-v3", None, 1_000_000),
    Task("MountainCarContinuous-v0", None, 100_000),
    PARK,
    Task("Pendulum-v1", None, 500_000),
    Task("Acrobot-v1", None, 500_000),
)
GROUPINGS: dict[str, dict[str, Any]] = {
    "shared": {"grouping": "shared"},
    "branching": {"grouping": "branch"},
    "unrelated": {"grouping": "unrelated"},
    "gpg_time": {**PRESETS["gpg_time"], "grouping": "shared"},
}
"""How a group starts, and the best preset beside `default` ("shared") and `vine` ("branching")."""
SKIPPED = {("LunarLander-v3", "unrelated")}
"""Pairs of environment and grouping that are left out: the simulator is slow."""
GROUP_SIZES = (8, 16, 32, 64, 128)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the tables."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    torch.set_num_threads(1)
    parts = {"presets": run_presets, "branching": run_branching, "group_size": run_group_sizes}
    for name, run in parts.items():
        if options.part in (name, "all"):
            path = options.results / f"variants_{name}.json"
            run(Results(path, Console(stderr=True, highlight=False).print), options)
    if options.report is not None:
        from variants_report import write_report  # which reads this module's tasks

        write_report(options.results, options.report)
    return 0


def run_presets(results: Results, options: Options) -> None:
    """Every preset over the shipped settings of three tasks."""
    for seed in range(options.seeds):
        for task in PRESET_TASKS:
            for preset, changes in PRESETS.items():
                key = f"{task.name}/{preset}/seed {seed}"
                results.measure(key, partial(train, task, changes, seed, options))


def run_branching(results: Results, options: Options) -> None:
    """Groups that share their start, that branch, and that share nothing."""
    for seed in range(options.seeds):
        for task in BRANCHING_TASKS:
            for grouping, changes in GROUPINGS.items():
                if (task.env, grouping) in SKIPPED:
                    continue
                key = f"{task.name}/{grouping}/seed {seed}"
                results.measure(key, partial(train, task, changes, seed, options))


def run_group_sizes(results: Results, options: Options) -> None:
    """Sizes of groups, with proper groups and without, with a critic and without.

    At equal environment steps the number of members in an iteration stays the same, so larger
    groups are fewer; at equal gradient steps the number of groups stays the same, so larger
    groups are more environment steps.
    """
    for seed in range(options.seeds):
        for task in (CARTPOLE, ACROBOT):
            config = task.settings().grpo
            members = config.num_groups * config.group_size
            for grouping in ("shared", "unrelated"):
                for size in GROUP_SIZES:
                    groups = max(1, members // size)
                    same_steps = {"grouping": grouping, "num_groups": groups, "group_size": size}
                    key = f"{task.name}/equal environment steps/{grouping}/{size}/seed {seed}"
                    results.measure(key, partial(train, task, same_steps, seed, options))
                    # A schedule needs an end in environment steps.
                    one = {**same_steps, "num_groups": 1, "learning_rate_schedule": "constant"}
                    key = f"{task.name}/equal gradient steps/{grouping}/{size}/seed {seed}"
                    iterations = GRADIENT_ITERATIONS[task.env]
                    results.measure(key, partial(train, task, one, seed, options, iterations))
            for name, changes in BASELINES.items():
                key = f"{task.name}/baseline/{name}/seed {seed}"
                results.measure(key, partial(train, task, changes, seed, options))


GRADIENT_ITERATIONS = {"CartPole-v1": 25, "Acrobot-v1": 25}
"""Iterations of a run at equal gradient steps; each is the same number of minibatches."""
BASELINES: dict[str, dict[str, Any]] = {
    "group": {},
    "critic": {"learned_baseline": True, "baseline": "none"},
    "group and critic": {"learned_baseline": True},
    "batch mean": {"baseline": "batch"},
}


def train(
    task: Task,
    changes: dict[str, Any],
    seed: int,
    options: Options,
    iterations: int | None = None,
) -> dict[str, Any]:
    """Statistics of the policy at the end of training; why there is none where it is refused."""
    settings = task.settings()
    grpo = from_mapping(GRPOConfig, {**to_mapping(settings.grpo), **changes}, task.name)
    try:
        model = GRPO(
            settings.policy,
            settings.env,
            env_kwargs=settings.env_kwargs,
            training_env_kwargs=settings.training_env_kwargs,
            config=replace(grpo, seed=seed),
        )
        model.prepare()
    except SnapshotError as error:
        return {"refused": str(error)}
    started = time.perf_counter()
    if iterations is None:
        model.learn(task.steps)
    else:
        for _ in range(iterations):
            model.train_iteration()
    seconds = time.perf_counter() - started
    evaluation = model.evaluate(options.episodes, seed=EVALUATION_SEED)
    return {
        "return": evaluation.mean_return,
        "training_steps": model.num_steps,
        "iterations": model.iteration,
        "training_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
