"""What scripts/variants.py compares: the variants of each part, and the tasks they train on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.experiments import shipped_settings
from grpo_gym.trainers.presets import PRESETS
from grpo_gym.trainers.settings import TrainSettings

SEEDS = 5
EPISODES = 200
"""Evaluation episodes of each trained policy, with the most probable actions."""
EVALUATION_SEED = 1_000_000
"""First seed of the evaluation episodes, which training never uses."""


@dataclass(frozen=True)
class Task:
    """An environment with settings and a number of training steps."""

    env: str
    preset: str | None
    steps: int
    """Environment steps."""
    branch_every: int = GRPOConfig.branch_every
    """Steps between branches, for variants that branch."""
    grpo: Mapping[str, Any] | None = None
    """Settings of GRPO instead of the shipped ones."""

    @property
    def name(self) -> str:
        """The name in the tables."""
        return self.env if self.preset is None else f"{self.env} {self.preset}"

    def settings(self, **grpo: Any) -> TrainSettings:
        """Settings with changes to GRPO's; without baselines of states, for presets."""
        changes = {"baseline": "time_step", **grpo}
        if grpo.get("grouping") == "branch":
            changes["branch_every"] = self.branch_every
        if self.grpo is None:
            return shipped_settings(self.env, self.preset, total_steps=self.steps, grpo=changes)
        own = GRPOConfig(**{**self.grpo, **changes})
        return TrainSettings(env=self.env, total_steps=self.steps, grpo=own)


@dataclass(frozen=True)
class Variant:
    """A task with changes to its GRPO settings."""

    task: Task
    changes: dict[str, Any] = field(default_factory=dict)
    iterations: int | None = None
    """Train for this many iterations instead of the task's steps."""


CARTPOLE = Task("CartPole-v1", None, 100_000)
ACROBOT = Task(
    "Acrobot-v1",
    None,
    200_000,
    branch_every=100,
    grpo={
        "num_groups": 4,
        "group_size": 8,
        "discount": 0.995,
        "learning_rate": 0.003,
        "num_minibatches": 8,
        "epochs": 4,
        "target_kl": 0.02,
    },
)
"""With the recipe of before baselines of states, which presets do not have."""
PRESET_TASKS = (Task("LoadBalancer-v0", "flaky", 1_000_000), CARTPOLE, ACROBOT)
GROUPING_TASKS = (
    Task("LunarLander-v3", None, 1_000_000),
    Task("MountainCarContinuous-v0", None, 100_000, branch_every=100),
    Task("LoadBalancer-v0", "park", 2_000_000),
    Task("Pendulum-v1", None, 500_000, branch_every=100),
    replace(ACROBOT, steps=500_000),
)
GROUPINGS: dict[str, dict[str, Any]] = {
    "shared": {"grouping": "shared"},
    "branching": {"grouping": "branch"},
    "unrelated": {"grouping": "unrelated"},
    "gpg_time": {**PRESETS["gpg_time"], "grouping": "shared"},
}
"""How a group starts: as in `default` and `vine`, unrelated, and the best of the other presets."""
SKIPPED = {("LunarLander-v3", "unrelated")}
"""Combinations that are left out because the simulator is slow."""
SIZE_TASKS = (CARTPOLE, ACROBOT)
GROUP_SIZES = (8, 16, 32, 64, 128)
GRADIENT_ITERATIONS = 25
"""Iterations at equal gradient steps; each has the same number of minibatches."""
BASELINES: dict[str, dict[str, Any]] = {
    "group": {},
    "critic": {"learned_baseline": True, "baseline": "none"},
    "group and critic": {"learned_baseline": True},
    "batch mean": {"baseline": "batch"},
}


def preset_variants() -> dict[str, Variant]:
    """Every preset, over the shipped settings of three tasks."""
    return {
        f"{task.name}/{preset}": Variant(task, changes)
        for task, (preset, changes) in product(PRESET_TASKS, PRESETS.items())
    }


def grouping_variants() -> dict[str, Variant]:
    """Groups with a shared reset, with branching, and of unrelated episodes."""
    return {
        f"{task.name}/{grouping}": Variant(task, changes)
        for task, (grouping, changes) in product(GROUPING_TASKS, GROUPINGS.items())
        if (task.env, grouping) not in SKIPPED
    }


def group_size_variants() -> dict[str, Variant]:
    """Group sizes, shared and unrelated, and baselines with and without a critic.

    At equal environment steps, the number of members of an iteration is constant, so there are
    fewer groups if they are larger. At equal gradient steps, an iteration is one group, so larger
    groups use more environment steps.
    """
    variants = {}
    for task in SIZE_TASKS:
        config = task.settings().grpo
        members = config.num_groups * config.group_size
        for grouping, size in product(("shared", "unrelated"), GROUP_SIZES):
            sizes = {"grouping": grouping, "group_size": size}
            variants[f"{task.name}/equal environment steps/{grouping}/{size}"] = Variant(
                task, {**sizes, "num_groups": max(1, members // size)}
            )
            # The learning rate is constant: a schedule needs an end in environment steps.
            variants[f"{task.name}/equal gradient steps/{grouping}/{size}"] = Variant(
                task,
                {**sizes, "num_groups": 1, "learning_rate_schedule": "constant"},
                GRADIENT_ITERATIONS,
            )
        for name, changes in BASELINES.items():
            variants[f"{task.name}/baseline/{name}"] = Variant(task, changes)
    return variants


PARTS: dict[str, Callable[[], dict[str, Variant]]] = {
    "presets": preset_variants,
    "branching": grouping_variants,
    "group_size": group_size_variants,
}
"""The variants of each part, by name."""
