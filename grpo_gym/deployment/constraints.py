"""What every action of a policy must satisfy, and ready-made rules for changing replicas.

An action is a number of replicas to add or remove unless `change` says how to read it, and the
present number is `observation["replicas"]` unless `replicas` says where to find it. A number
that is missing or not finite raises, and what raises is violated: a broken sensor stops a policy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from grpo_gym.deployment.records import Context, Violation, describe
from grpo_gym.settings import ConfigError

SCALING_ALTERNATIVES = (0, 1, -1)
"""Changes of replicas to try in place of one that is not allowed: maintain, one more, one less."""


class Constraint(Protocol):
    """A named rule; any object with these two members will do."""

    @property
    def name(self) -> str:
        """What it is called in records; each of a guard's constraints has its own."""

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """Whether the action is allowed. Raising counts as a violation, and is recorded."""


def _change(action: Any) -> float:
    return float(action)


def _replicas(observation: Any) -> float:
    return float(observation["replicas"])


@dataclass(frozen=True, kw_only=True)
class MaximumChange:
    """At most a share of the replicas at once, or a few of them, whichever is more."""

    share: float = 0.5
    """Of the present replicas, >= 0."""
    at_least: float = 2.0
    """Replicas that may always be added or removed, >= 0."""
    change: Callable[[Any], float] = _change
    """Replicas that an action adds."""
    replicas: Callable[[Any], float] = _replicas
    """Present replicas by the observation."""
    name: str = "maximum_change"
    """In records."""

    def __post_init__(self) -> None:
        _check_not_negative("share", self.share)
        _check_not_negative("at_least", self.at_least)

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """See `Constraint`."""
        change = _finite("change", self.change(action))
        present = _finite("replicas", self.replicas(observation))
        return abs(change) <= max(self.share * present, self.at_least)


@dataclass(frozen=True, kw_only=True)
class MinimumReplicas:
    """Never fewer replicas than these; where there are fewer already, only more."""

    minimum: float = 2.0
    """Replicas, >= 0."""
    change: Callable[[Any], float] = _change
    """Replicas that an action adds."""
    replicas: Callable[[Any], float] = _replicas
    """Present replicas by the observation."""
    name: str = "minimum_replicas"
    """In records."""

    def __post_init__(self) -> None:
        _check_not_negative("minimum", self.minimum)

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """See `Constraint`."""
        change = _finite("change", self.change(action))
        present = _finite("replicas", self.replicas(observation))
        return present + change >= self.minimum or change > 0.0


@dataclass(frozen=True, kw_only=True)
class Cooldown:
    """At most one change within some time, whoever made it."""

    seconds: float = 300.0
    """From one change to the next, >= 0."""
    change: Callable[[Any], float] = _change
    """Replicas that an action adds; also read from the history, where arrays are lists."""
    name: str = "cooldown"
    """In records."""

    def __post_init__(self) -> None:
        _check_not_negative("seconds", self.seconds)

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        """See `Constraint`."""
        if _finite("change", self.change(action)) == 0.0:
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
    """The constraints that do not allow an action, or fail, or do not say True or False."""
    found = (_violation(each, observation, action, context) for each in constraints)
    return tuple(violation for violation in found if violation is not None)


def check_constraints(constraints: tuple[Constraint, ...]) -> None:
    """Refuse constraints that could not be called or told apart.

    Raises:
        ConfigError: If one is not callable, or has no name or another's, or that of a policy.
    """
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


def _violation(
    constraint: Constraint, observation: Any, action: Any, context: Context
) -> Violation | None:
    try:
        allowed = constraint(observation, action, context)
        if allowed not in (True, False):
            raise TypeError(f"it must return True or False, got {allowed!r}")
    # Whatever a rule dies of, the action was not found to be safe.
    except Exception as error:
        return Violation(constraint.name, describe(error))
    return None if allowed else Violation(constraint.name, "not allowed")


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return value


def _check_not_negative(name: str, value: float) -> None:
    # A nan is not >= 0 either.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ConfigError(f"{name} must be a finite number >= 0, got {value!r}")
