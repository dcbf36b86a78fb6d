"""Select what to execute: the policy's action if allowed, an alternative, or the fallback's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_gym.deployment.constraints import Constraint, check_constraints, violations_of
from grpo_gym.deployment.controller import Controller, Proposal, check_finite
from grpo_gym.deployment.records import Arm, Context, GuardError, Source, Violation, describe

Alternatives = Sequence[Any] | Callable[[Any, Any], Iterable[Any]]


@dataclass(frozen=True)
class Situation:
    """One decision's inputs, before an arm is chosen."""

    observation: Any
    context: Context
    policy: Proposal
    fallback: Proposal
    violations: tuple[Violation, ...]
    """Violations by the policy's action."""


@dataclass(frozen=True)
class Selection:
    """What to execute."""

    source: Source
    """Whose action it is."""
    action: Any
    violations: tuple[Violation, ...]
    """Violations by the policy's action, and an error of the alternatives."""


class Shield:
    """Policy, fallback, constraints and alternatives of a guard."""

    def __init__(
        self,
        policy: Any,
        fallback: Any,
        constraints: Iterable[Constraint],
        alternatives: Alternatives,
    ) -> None:
        """Check and keep the arguments of `Guard`.

        Raises:
            ConfigError: If one cannot be used.
        """
        self._policy = Controller(policy, "policy")
        self._fallback = Controller(fallback, "fallback")
        self._constraints = tuple(constraints)
        check_constraints(self._constraints)
        self._alternatives = alternatives if callable(alternatives) else tuple(alternatives)

    def assess(self, observation: Any, context: Context) -> Situation:
        """Ask both controllers in every mode: one with a memory must see all observations."""
        policy = self._policy.propose(observation)
        fallback = self._fallback.propose(observation)
        if policy.error is None:
            violations = violations_of(self._constraints, observation, policy.action, context)
        else:
            violations = (Violation("policy", policy.error),)
        return Situation(observation, context, policy, fallback, violations)

    def select(self, situation: Situation, arm: Arm) -> Selection:
        """What an arm executes in a situation.

        Raises:
            GuardError: If the fallback is needed and failed.
        """
        policy, fallback = situation.policy, situation.fallback
        violations = situation.violations
        if arm == "policy" and not violations:
            return Selection("policy", policy.action, violations)
        if arm == "policy" and policy.error is None:
            try:
                for action in self._allowed_alternatives(situation):
                    return Selection("alternative", action, violations)
            # Alternatives may be the user's function, which may raise anything.
            except Exception as error:
                violations += (Violation("alternatives", describe(error)),)
        if fallback.error is not None:
            raise GuardError(f"the fallback failed where it was needed: {fallback.error}")
        return Selection("fallback", fallback.action, violations)

    def _allowed_alternatives(self, situation: Situation) -> Iterable[Any]:
        candidates, observation = self._alternatives, situation.observation
        if callable(candidates):
            candidates = tuple(candidates(observation, situation.policy.action))
        for action in candidates:
            check_finite(action)
            if not violations_of(self._constraints, observation, action, situation.context):
                yield action
