"""All that a comparison measured on one task, read from its result file.

Shapes: S trainings of one algorithm.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.settings import ConfigError, from_mapping
from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.records import Axis, FinalReturn, Task, TrainingResult
from grpo_gym.trainers.comparison.settings import OURS, SB3_CLASSES
from grpo_gym.trainers.comparison.statistics import Estimate

TITLES = {OURS: "GRPO", **{name: title for name, (_, title) in SB3_CLASSES.items()}}
"""Names of the algorithms for readers."""
RANDOM = "random"
"""The baseline that every environment has."""


@dataclass(frozen=True)
class TaskResults:
    """All trainings and baselines of one task.

    Attributes:
        path: The result file.
        task: What was asked for, and where it ran.
        trainings: By algorithm, ours first; each in the order of its seeds.
        baselines: Final returns by name.
    """

    path: Path
    task: Task
    trainings: Mapping[str, list[TrainingResult]]
    baselines: Mapping[str, FinalReturn]

    @property
    def name(self) -> str:
        """The environment with its arguments."""
        kwargs = dict(self.task.env_kwargs)
        words = [str(kwargs.pop("preset"))] if "preset" in kwargs else []
        words += [f"{name}={value}" for name, value in kwargs.items()]
        return " ".join([self.task.env, *words])

    @property
    def all_trainings(self) -> list[TrainingResult]:
        """The trainings of every algorithm."""
        return [training for trainings in self.trainings.values() for training in trainings]

    @property
    def untrained_return(self) -> float:
        """Return of random actions, or else the worst first point of a curve."""
        if RANDOM in self.baselines:
            return self.baselines[RANDOM].mean_return
        return min(training.curve[0].mean_return for training in self.all_trainings)

    @property
    def training_kwargs(self) -> dict[str, Mapping[str, Any]]:
        """Arguments of the environment that are others in training, by algorithm."""
        return {
            name: changed
            for name, runs in self.trainings.items()
            if (changed := runs[0].settings.get("training_env_kwargs"))
        }

    def final_returns(self, algorithm: str) -> np.ndarray:
        """Mean return of each training at its end, shape (S,), float64."""
        return np.array([training.final.mean_return for training in self.trainings[algorithm]])

    @cached_property
    def final_iqms(self) -> dict[str, Estimate]:
        """Interquartile mean of the final returns, by algorithm."""
        return {
            name: statistics.interquartile_mean(self.final_returns(name)) for name in self.trainings
        }

    def times_to(self, level: float, algorithm: str, axis: Axis) -> np.ndarray:
        """When each training first reaches a return, shape (S,); infinite if it never does."""
        return np.array(
            [
                statistics.first_reached(training.times(axis), training.curve_returns, level)
                for training in self.trainings[algorithm]
            ]
        )


def training_note(algorithm: str, training_kwargs: Mapping[str, Any]) -> str:
    """That an algorithm does not train on the task itself, in words."""
    changed = ", ".join(f"{name}={value}" for name, value in training_kwargs.items())
    return (
        f"{title(algorithm)} trains with {changed}; evaluations are of the task itself, with its "
        "own reward."
    )


def title(algorithm: str) -> str:
    """An algorithm's name for readers."""
    return TITLES.get(algorithm, algorithm)


def read_task(path: Path) -> TaskResults:
    """Read a result file; trainings may still be missing.

    Raises:
        ConfigError: If it cannot be read, is no result file of a comparison, or has no training.
    """
    rule = f"{path} must be a result file of compare"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{rule}: {error}") from error
    if not isinstance(values, dict) or "task" not in values:
        raise ConfigError(f"{rule}: it has no key 'task'")
    task = from_mapping(Task, values.pop("task"), f"{path}: task")
    trainings: dict[str, dict[int, TrainingResult]] = {}
    baselines = {}
    for key, value in values.items():
        first, _, second = key.partition("/")
        source = f"{path}: {key}"
        if first == "baseline":
            baselines[second] = from_mapping(FinalReturn, value, source)
        elif second.startswith("seed ") and second[5:].isdecimal():
            training = from_mapping(TrainingResult, value, source)
            trainings.setdefault(first, {})[int(second[5:])] = training
        else:
            raise ConfigError(
                f"{rule}, got the key {key!r}: keys are 'task', 'baseline/NAME' or "
                "'ALGORITHM/seed N'"
            )
    if not trainings:
        raise ConfigError(f"{path} has no finished training yet: let compare go on")
    order = sorted(trainings, key=lambda name: ([*TITLES, name].index(name), name))
    by_seed = {name: [trainings[name][seed] for seed in sorted(trainings[name])] for name in order}
    return TaskResults(path, task, by_seed, baselines)
