"""Select what to execute: the policy's action if allowed, an alternative, or the fallback's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_gym.deployment.constraints import Constraint, check_constraints, violations_of
from grpo_gym.deployment.deadline import DeadlineCall, DeadlineError
from grpo_gym.deployment.records import Arm, Context, GuardError, Source, Violation, describe
from grpo_gym.settings import ConfigError

Alternatives = Sequence[Any] | Callable[[Any, Any], Iterable[Any]]


@dataclass(frozen=True)
class Proposal:
    """An action, or None and the error that prevented one."""

    action: Any
    error: str | None = None
    missed_deadline: bool = False


class Controller:
    """A callable `observation -> action`, or a model with Stable-Baselines3's `predict`.

    An object that is both is used as a model. A model is asked for its deterministic action; its
    recurrent state is passed back to it.
    """

    def __init__(self, behaviour: Any, name: str, deadline_ms: float | None = None) -> None:
        """Wrap a callable or a model, and wait for it no longer than a deadline.

        Raises:
            ConfigError: If it is neither.
        """
        self._is_model = callable(getattr(behaviour, "predict", None))
        if not self._is_model and not callable(behaviour):
            raise ConfigError(
                f"{name} must be a callable observation -> action or have a method predict, "
                f"got {behaviour!r}"
            )
        self._behaviour = behaviour
        self._state: Any = None
        self._ask: Callable[[Any], Any] = self._finite_action
        if deadline_ms is not None:
            self._ask = DeadlineCall(self._finite_action, deadline_ms)

    def propose(self, observation: Any) -> Proposal:
        """The action for an observation, or the error where there is none that is finite."""
        try:
            return Proposal(self._ask(observation))
        except DeadlineError as error:
            return Proposal(None, str(error), missed_deadline=True)
        except KeyboardInterrupt:
            raise
        # A policy may fail in any way, sys.exit() included; the guard exists to survive that.
        except BaseException as error:
            return Proposal(None, describe(error))

    def propose_on_a_copy(self, observation: Any) -> Proposal:
        """The same for a finite observation, without a chance to change what others see."""
        try:
            own = _copy(observation)
        except Exception as error:  # of the user's types
            return Proposal(None, f"the observation cannot be copied: {describe(error)}")
        try:
            _check_observation(own)
        except Exception as error:  # of the user's types
            return Proposal(None, describe(error))
        return self.propose(own)

    def _finite_action(self, observation: Any) -> Any:
        if self._is_model:
            action, self._state = self._behaviour.predict(
                observation, state=self._state, deterministic=True
            )
        else:
            action = self._behaviour(observation)
        _check_action(action)
        return action


@dataclass(frozen=True)
class Situation:
    """One decision's inputs, before an arm is chosen."""

    observation: Any
    context: Context
    policy: Proposal
    fallback: Proposal
    violations: tuple[Violation, ...]
    """Violations by the policy's action."""


class Shield:
    """Policy, fallback, constraints and alternatives of a guard."""

    def __init__(
        self,
        policy: Any,
        fallback: Any,
        constraints: Iterable[Constraint],
        alternatives: Alternatives,
        policy_deadline_ms: float | None,
    ) -> None:
        """Keep the arguments of `Guard`; raise ConfigError if one cannot be used."""
        self._policy = Controller(policy, "policy", policy_deadline_ms)
        self._fallback = Controller(fallback, "fallback")
        self._constraints = tuple(constraints)
        check_constraints(self._constraints)
        self._alternatives = alternatives if callable(alternatives) else tuple(alternatives)

    @property
    def has_constraints(self) -> bool:
        """Whether there is any rule to read a context."""
        return bool(self._constraints)

    def assess(self, observation: Any, context: Context) -> Situation:
        """Ask both controllers in every mode: one with a memory must see all observations."""
        policy = self._policy.propose_on_a_copy(observation)
        fallback = self._fallback.propose(observation)
        if policy.error is None:
            violations = violations_of(self._constraints, observation, policy.action, context)
        else:
            violations = (Violation("policy", policy.error),)
        return Situation(observation, context, policy, fallback, violations)

    def select(self, situation: Situation, arm: Arm) -> tuple[Source, Any, tuple[Violation, ...]]:
        """The source and action that an arm executes, and all violations of the decision.

        Raises:
            GuardError: If the fallback is needed and failed.
        """
        policy, fallback = situation.policy, situation.fallback
        violations = situation.violations
        if arm == "policy" and not violations:
            return "policy", policy.action, violations
        if arm == "policy" and policy.error is None:
            try:
                for action in self._allowed_alternatives(situation):
                    return "alternative", action, violations
            # Alternatives may be the user's function, which may raise anything.
            except Exception as error:
                violations += (Violation("alternatives", describe(error)),)
        if fallback.error is not None:
            raise GuardError(f"the fallback failed where it was needed: {fallback.error}")
        return "fallback", fallback.action, violations

    def _allowed_alternatives(self, situation: Situation) -> Iterable[Any]:
        candidates, observation = self._alternatives, situation.observation
        if callable(candidates):
            candidates = tuple(candidates(observation, situation.policy.action))
        for action in candidates:
            _check_action(action)
            if not violations_of(self._constraints, observation, action, situation.context):
                yield action


def _check_action(action: Any) -> None:
    """Raise ValueError for an action that is or contains None, a nan or an infinity."""
    for part in _leaves(action):
        if part is None:
            raise ValueError("action must not be None")
        if not _is_finite(part):
            raise ValueError(f"action must be finite, got {part!r}")


def _check_observation(observation: Any) -> None:
    """Raise ValueError for an observation that contains a nan or an infinity."""
    for part in _leaves(observation):
        if not _is_finite(part):
            raise ValueError(f"the observation must be finite, got {part!r}")


def _leaves(value: Any) -> Iterator[Any]:
    """What mappings, lists and tuples contain in the end."""
    if type(value) in (int, str, bool, np.ndarray):  # most; the rest are slow to tell apart
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


def _copy(observation: Any) -> Any:
    """A deep copy; for an array of numbers its own method, which is ten times faster."""
    if type(observation) is np.ndarray and observation.dtype.kind in "biuf":
        return observation.copy()
    return deepcopy(observation)


def _is_finite(value: Any) -> bool:
    """False for numbers that are not all finite; true for everything that is no number."""
    if type(value) in (int, str, bool):  # what most actions are
        return True
    numbers = np.asarray(value)
    return numbers.dtype.kind not in "fc" or bool(np.isfinite(numbers).all())
