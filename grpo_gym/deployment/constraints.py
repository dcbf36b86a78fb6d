"""Constraints on the policy's actions, and ready-made rules for scaling replicas.

An action is a number of replicas to add or remove unless `change` converts it, and the present
number is `observation["replicas"]` unless `replicas` reads it. A number that is missing or not
finite raises, which counts as a violation: a broken sensor stops a policy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from grpo_gym.deployment.records import Context, Violation, describe
from grpo_gym.settings import ConfigError, NonNegative, checked_dataclass

SCALING_ALTERNATIVES = (0, 1, -1)
"""Changes of replicas to try instead of a forbidden one: maintain, one more, one less."""


class Constraint(Protocol):
    """A named rule; any object with these two members will do."""

    @property
    def name(self) -> str:
        """Name in records, unique among a guard's constraints."""

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """Whether the action is allowed. An exception counts as a violation and is recorded."""


@dataclass(frozen=True, kw_only=True)
class _ScalingRule:
    change: Callable[[Any], float] = float
    """Number of replicas that an action adds."""

    def _change(self, action: Any) -> float:
        return _finite("change", self.change(action))


@dataclass(frozen=True, kw_only=True)
class _ReplicaRule(_ScalingRule):
    replicas: Callable[[Any], float] = lambda observation: float(observation["replicas"])
    """Present number of replicas in an observation."""

    def _present(self, observation: Any) -> float:
        return _finite("replicas", self.replicas(observation))


@checked_dataclass
class MaximumChange(_ReplicaRule):
    """Change at most a share of the replicas at once, or `at_least` replicas if that is more."""

    share: NonNegative = 0.5
    """Share of the present replicas."""
    at_least: NonNegative = 2.0
    """Replicas that may always be added or removed."""
    name: str = "maximum_change"
    """Name in records."""

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """Whether the change is small enough."""
        change, present = self._change(action), self._present(observation)
        return abs(change) <= max(self.share * present, self.at_least)


@checked_dataclass
class MinimumReplicas(_ReplicaRule):
    """Never go below a number of replicas; if there are fewer already, only add."""

    minimum: NonNegative = 2.0
    """Number of replicas."""
    name: str = "minimum_replicas"
    """Name in records."""

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """Whether enough replicas remain."""
        change, present = self._change(action), self._present(observation)
        return present + change >= self.minimum or change > 0.0


@checked_dataclass
class Cooldown(_ScalingRule):
    """At most one change within a time, including changes by the fallback.

    `change` also reads the history's actions, whose arrays are lists.
    """

    seconds: NonNegative = 300.0
    """Seconds from one change to the next."""
    name: str = "cooldown"
    """Name in records."""

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """Whether the last change is long enough ago."""
        if self._change(action) == 0.0:
            return True
        for past in reversed(context.history):
            if context.now_s - past.time_s >= self.seconds:
                return True
            if _finite("past change", self.change(past.action)) != 0.0:
                return False
        if not context.history_is_complete:
            raise ValueError(f"history is shorter than {self.seconds:g} s: raise history_size")
        return True


def violations_of(
    constraints: tuple[Constraint, ...], observation: Any, action: Any, context: Context
) -> tuple[Violation, ...]:
    """Violations by an action: of constraints that forbid it, raise, or return no bool."""
    found = []
    for constraint in constraints:
        try:
            allowed = constraint(observation, action, context)
            if allowed not in (True, False):
                raise TypeError(f"it must return True or False, got {allowed!r}")
            reason = "not allowed"
        # A user's rule may raise anything; the action was then not shown to be safe.
        except Exception as error:
            allowed, reason = False, describe(error)
        if not allowed:
            found.append(Violation(constraint.name, reason))
    return tuple(found)


def check_constraints(constraints: tuple[Constraint, ...]) -> None:
    """Raise ConfigError if one is not callable, or its name is missing, reserved or not unique."""
    names = ["policy", "alternatives"]
    for constraint in constraints:
        name = getattr(constraint, "name", None)
        if not callable(constraint) or not isinstance(name, str) or not name:
            raise ConfigError(
                f"constraints must be callable and have a name, got {constraint!r}: "
                "see grpo_gym.deployment.Constraint"
            )
        if name in names:
            raise ConfigError(f"name {name!r} is taken: give each constraint a name of its own")
        names.append(name)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return value
