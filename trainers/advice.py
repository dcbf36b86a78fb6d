"""What a user should know of a training early on, each of it said once.

Few iterations, a constant reward, and groups that have nothing to compare: such a training ends
without an error, and without having learned much.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings import Count, check_value, from_mapping
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import FEWEST_ITERATIONS
from grpo_gym.trainers.iteration import IterationStats, Learner
from grpo_gym.trainers.schedule import Schedule
from grpo_gym.trainers.shipped import default_config

CONSTANT_FOR = 3
"""Iterations whose returns are all the same, before a reward counts as constant."""
WINDOW = 5
"""Iterations whose groups are looked at together."""
MOSTLY = 0.75
"""Fraction of uniform groups that is told of, unless returns are better than at first."""
_ROUNDING = 1e-9
"""Relative difference up to which the returns of different groups are the same."""

_log = logging.getLogger(__name__)


class Advised(Learner, Protocol):
    """What advice reads of a model in training.

    Attributes:
        env_source: What makes its environment.
        env_kwargs: The environment's arguments.
        config: The settings.
    """

    env_source: EnvSource
    env_kwargs: Mapping[str, Any]
    config: GRPOConfig


class Advice:
    """A callback of `GRPO.learn` that warns."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._said: set[str] = set()
        self._begin(Schedule(start=0, end=0))

    def __call__(self, model: Advised, stats: IterationStats) -> None:
        """Look at one more iteration; a call of `learn` begins anew, but says nothing again."""
        if model.schedule != self._schedule:
            self._begin(model.schedule)
        self._uniform.append(stats.uniform_groups)
        self._returns.append(stats.rollout["return_mean"])
        allowed = _ROUNDING * abs(self._returns[0])
        differences = stats.rollout["return_std"], abs(self._returns[-1] - self._returns[0])
        self._same.append(stats.uniform_groups == 1.0 and max(differences) <= allowed)
        for topic, message in self._findings(model, stats):
            if topic not in self._said:
                self._said.add(topic)
                _log.warning("%s", message)

    def _begin(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._uniform: list[float] = []
        self._returns: list[float] = []
        self._same: list[bool] = []

    def _findings(self, model: Advised, stats: IterationStats) -> Iterator[tuple[str, str]]:
        """What there is to say now, by topic."""
        number = len(self._returns)
        if number == 1:
            steps = self._schedule.end - self._schedule.start
            iterations = max(1, round(steps / stats.rollout_steps))
            if iterations < FEWEST_ITERATIONS and not _is_known_to_suffice(model, steps):
                plural = "iteration" if iterations == 1 else "iterations"
                yield (
                    "iterations",
                    f"{steps:,} steps are about {iterations} {plural} of "
                    f"{stats.rollout_steps:,}, and most tasks need {FEWEST_ITERATIONS} or more: "
                    "raise total_steps, lower num_groups or group_size, or set max_episode_steps",
                )
        if all(self._same):
            if number == CONSTANT_FOR:
                yield (
                    "differences",
                    f"every episode of {CONSTANT_FOR} iterations returned {self._returns[0]:.6g}: "
                    "the reward is constant, or so sparse that none was found; look at what it "
                    "depends on, shape it, or make groups larger",
                )
        elif number >= WINDOW:
            share = sum(self._uniform[-WINDOW:]) / WINDOW
            latest, first = sum(self._returns[-WINDOW:]), sum(self._returns[:WINDOW])
            if share >= MOSTLY and latest <= first:
                yield (
                    "differences",
                    f"in {share:.0%} of the groups of {WINDOW} iterations all members did equally "
                    f"well (their mean return is {latest / WINDOW:.6g}), so that they taught "
                    "nothing: make groups larger, or give the task a finer or less sparse reward",
                )


def _is_known_to_suffice(model: Advised, steps: int) -> bool:
    """Whether environments take as many steps each as with the settings that ship for the task."""
    if not isinstance(model.env_source, str):
        return False
    shipped = default_config(model.env_source, model.env_kwargs)
    if not shipped:
        return False
    steps_of_shipped = check_value("total_steps", shipped["total_steps"], Count)
    grpo = from_mapping(GRPOConfig, shipped["grpo"], "shipped settings")
    return steps / model.config.num_envs >= steps_of_shipped / grpo.num_envs
