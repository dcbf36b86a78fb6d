"""The records of a result file: what was asked for, and what each training gave.

Field names are the keys of the JSON file. Shapes: P points of a learning curve.
"""

from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from grpo_gym.settings import ConfigError, Count, Flag, Integer, Natural, Number, checked_dataclass

Episodes = Annotated[Integer, Field(ge=1, le=1_000_000)]
Axis = Literal["steps", "cpu_seconds", "wall_seconds"]


@checked_dataclass
class Budget:
    """How long each training takes, and how thoroughly it is evaluated."""

    total_steps: Count = 1_000_000
    """Environment steps of each training, rounded up to whole iterations."""
    evaluations: Count = 20
    """Points of each learning curve after the first, evenly spaced in steps."""
    curve_episodes: Episodes = 200
    """Episodes of each point."""
    final_episodes: Episodes = 1000
    """Episodes that every trained policy and baseline plays at the end."""


@checked_dataclass
class TrialBudget(Budget):
    """How long each trial takes, and how it is judged."""

    total_steps: Count = 300_000
    """Environment steps of each training."""
    evaluations: Count = 10
    """Points of each learning curve, at which a trial below the median is pruned."""
    curve_episodes: Episodes = 100
    """Episodes of each point."""
    final_episodes: Episodes = 500
    """Episodes after training; their mean return is a trial's value."""
    seeds_per_trial: Annotated[Integer, Field(ge=1, le=10_000)] = 1
    """Trainings of each trial, from seed 100; its value is their mean."""


@checked_dataclass
class Plan(Budget):
    """What all trainings of a comparison have in common."""

    env: str
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    deterministic: Flag = True
    """Whether evaluations use the most probable actions instead of samples."""
    evaluation_seed: Natural = 5_000_000
    """Seed of the first final episode; the episodes of the curve start a million later."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))


@checked_dataclass
class Task(Plan):
    """A plan, and where it was carried out."""

    versions: dict[str, str]
    """Versions of Python and packages."""
    machine: dict[str, Any]
    """`processor`, `cores` and `system`."""
    command: str
    """The command line that began the file."""


@checked_dataclass
class CurvePoint:
    """An evaluation during training."""

    steps: Integer
    """Environment steps so far."""
    cpu_seconds: Number
    """CPU time of the training so far, without evaluations."""
    wall_seconds: Number
    """Elapsed time so far, without evaluations."""
    mean_return: Number
    """Mean return of the evaluation's episodes."""


@checked_dataclass
class FinalReturn:
    """The evaluation of a trained policy or a baseline."""

    mean_return: Number
    """Mean return of the final episodes."""
    sem: Number
    """Its standard error."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Means of the quantities that the environment reports."""


@checked_dataclass
class TrainingResult:
    """One training, from untrained to evaluated."""

    settings: dict[str, Any]
    """All settings of the algorithm, resolved."""
    tuned: Flag
    """Whether they were tuned for this task."""
    parameters: Integer
    """Number of learned parameters, including a critic's."""
    policy_parameters: Integer
    """Number of those that choose actions."""
    peak_memory_mb: Number | None
    """Peak memory of the process until the end of training, MiB; None if unknown."""
    steps: Integer
    """Environment steps trained."""
    cpu_seconds: Number
    """CPU time of the training, without evaluations."""
    wall_seconds: Number
    """Elapsed time of the training, without evaluations."""
    weights_sha256: str = ""
    """Checksum of the trained weights."""
    curve: tuple[CurvePoint, ...]
    """Evaluations from before training (steps = 0) to its end."""
    final: FinalReturn
    """Evaluation after training, on other episodes than the curve's."""

    def __post_init__(self) -> None:
        if len(self.curve) < 2:
            raise ConfigError(f"curve must have at least 2 points, got {len(self.curve)}")
        for axis in ("steps", "cpu_seconds", "wall_seconds"):
            if (np.diff(self.times(axis)) < 0.0).any():
                raise ConfigError(f"{axis} of the curve must not fall, got {self.times(axis)}")

    def times(self, axis: Axis) -> np.ndarray:
        """Steps or seconds of each point of the curve, shape (P,), float64."""
        return np.array([getattr(point, axis) for point in self.curve], np.float64)

    @property
    def curve_returns(self) -> np.ndarray:
        """Mean return of each point of the curve, shape (P,), float64."""
        return np.array([point.mean_return for point in self.curve], np.float64)
