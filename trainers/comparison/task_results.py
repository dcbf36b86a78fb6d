"""What a comparison measured on one task, read from its result file and checked.

Shapes: S runs of one algorithm, P points of a curve.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from grpo_gym.settings import ConfigError

OURS = "grpo"
"""The algorithm that all others are compared with."""
TITLES = {
    "grpo": "GRPO",
    "ppo": "PPO",
    "a2c": "A2C",
    "trpo": "TRPO",
    "maskable_ppo": "MaskablePPO",
    "recurrent_ppo": "RecurrentPPO",
}
"""Names of the algorithms for readers."""
RANDOM = "random"
"""The baseline that every environment has."""
_POINT = ("steps", "cpu_seconds", "wall_seconds", "mean_return")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        seed: Its seed.
        settings: All settings of the algorithm, resolved.
        tuned: Whether they are shipped for this task.
        parameters: Learned numbers, a critic's included.
        policy_parameters: Those that choose actions.
        peak_memory_mb: Most memory that its process held at once.
        steps: Environment steps trained.
        cpu_seconds: Of its process in training, evaluations left out.
        wall_seconds: By the clock, evaluations left out.
        curve: By "steps", "cpu_seconds", "wall_seconds", "mean_return": shape (P,), float64.
        mean_return: At the end, over the final episodes.
    """

    seed: int
    settings: Mapping[str, Any]
    tuned: bool
    parameters: int
    policy_parameters: int
    peak_memory_mb: float
    steps: int
    cpu_seconds: float
    wall_seconds: float
    curve: Mapping[str, np.ndarray]
    mean_return: float


@dataclass(frozen=True)
class TaskResults:
    """All runs and baselines of one task.

    Attributes:
        path: The file.
        task: What was asked for, as the file has it.
        runs: By algorithm, ours first; each by seed.
        baselines: Mean return and its standard error, by name.
    """

    path: Path
    task: Mapping[str, Any]
    runs: Mapping[str, list[Run]]
    baselines: Mapping[str, tuple[float, float]]

    @property
    def name(self) -> str:
        """The environment with its arguments."""
        kwargs = dict(self.task["env_kwargs"])
        words = [str(kwargs.pop("preset"))] if "preset" in kwargs else []
        words += [f"{name}={value}" for name, value in kwargs.items()]
        return " ".join([self.task["env"], *words])

    def final_returns(self, algorithm: str) -> np.ndarray:
        """Mean return of each run at its end, shape (S,), float64."""
        return np.array([run.mean_return for run in self.runs[algorithm]])

    def start(self) -> float:
        """The return of whoever knows nothing: random actions, or else the worst first point."""
        if RANDOM in self.baselines:
            return self.baselines[RANDOM][0]
        return min(float(run.curve["mean_return"][0]) for run in all_runs(self))


def title(algorithm: str) -> str:
    """An algorithm's name for readers."""
    return TITLES.get(algorithm, algorithm)


def all_runs(results: TaskResults) -> Iterable[Run]:
    """The runs of every algorithm."""
    return (run for runs in results.runs.values() for run in runs)


def read_task(path: Path) -> TaskResults:
    """Read a result file; it may lack runs that are still to come.

    Raises:
        ConfigError: If it is not there, is no result file of a comparison, or has no run yet.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a result file of a comparison: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} must be a result file of a comparison, got a JSON {_kind(values)}"
        )
    reader = _Reader(path)
    task = _read_head(reader, values)
    runs: dict[str, list[Run]] = {}
    baselines = {}
    for key, value in values.items():
        first, _, second = key.partition("/")
        if first == "baseline":
            numbers = (reader.number(value, name, key) for name in ("mean_return", "sem"))
            baselines[second] = (next(numbers), next(numbers))
        elif second.startswith("seed ") and second[5:].isdecimal():
            runs.setdefault(first, []).append(_read_run(reader, value, key, int(second[5:])))
        elif key != "task":
            reader.refuse(f'no key {key!r}: keys are "task", "baseline/..." or ".../seed ..."')
    if not runs:
        raise ConfigError(f"{path} has no finished run yet: let the comparison go on")
    order = sorted(runs, key=lambda name: ([*TITLES, name].index(name), name))
    by_seed = {name: sorted(runs[name], key=lambda run: run.seed) for name in order}
    return TaskResults(path, task, by_seed, baselines)


class _Reader:
    """Takes values out of a file, and says where one is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, rule: str) -> NoReturn:
        raise ConfigError(
            f"{self.path} must have {rule}. It is not of this version's compare: measure again "
            "into another file"
        )

    def take(self, values: Any, name: str, where: str, *kinds: type) -> Any:
        """A value of one of these kinds."""
        if not isinstance(values, dict) or name not in values:
            self.refuse(f"{name!r} in {where!r}")
        value = values[name]
        # True is an int for Python, and for nobody else.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.refuse(f"{name!r} in {where!r} of type {kinds[0].__name__}, got {_kind(value)}")
        return value

    def number(self, values: Any, name: str, where: str) -> float:
        """A finite number."""
        value = float(self.take(values, name, where, float, int))
        if not math.isfinite(value):
            self.refuse(f"a finite {name!r} in {where!r}, got {value}")
        return value


def _read_head(reader: _Reader, values: Mapping[str, Any]) -> Mapping[str, Any]:
    task: dict[str, Any] = reader.take(values, "task", "the file", dict)
    reader.take(task, "env", "task", str)
    reader.take(task, "command", "task", str)
    reader.take(task, "deterministic", "task", bool)
    for name in ("env_kwargs", "versions", "machine"):
        reader.take(task, name, "task", dict)
    for name in ("total_steps", "evaluation_seed", "curve_episodes", "final_episodes"):
        reader.take(task, name, "task", int)
    return task


def _read_run(reader: _Reader, value: Any, key: str, seed: int) -> Run:
    points = reader.take(value, "curve", key, list)
    if len(points) < 2:
        reader.refuse(f"a curve of at least 2 points in {key!r}, got {len(points)}")
    curve = {
        name: np.array([reader.number(point, name, f"{key}, curve") for point in points])
        for name in _POINT
    }
    for name in _POINT[:3]:
        if (np.diff(curve[name]) < 0.0).any():
            reader.refuse(f"a curve of {key!r} whose {name!r} rise")
    final = reader.take(value, "final", key, dict)
    return Run(
        seed=seed,
        settings=reader.take(value, "settings", key, dict),
        tuned=reader.take(value, "tuned", key, bool),
        parameters=reader.take(value, "parameters", key, int),
        policy_parameters=reader.take(value, "policy_parameters", key, int),
        peak_memory_mb=reader.number(value, "peak_memory_mb", key),
        steps=reader.take(value, "steps", key, int),
        cpu_seconds=reader.number(value, "cpu_seconds", key),
        wall_seconds=reader.number(value, "wall_seconds", key),
        curve=curve,
        mean_return=reader.number(final, "mean_return", f"{key}, final"),
    )


def _kind(value: Any) -> str:
    return type(value).__name__
