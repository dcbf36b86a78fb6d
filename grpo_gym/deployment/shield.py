"""The policy's action if it is fit to be taken, else an alternative, else the fallback's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_gym.deployment.actor import Actor, Proposal, check_finite
from grpo_gym.deployment.constraints import Constraint, check_constraints, violations_of
from grpo_gym.deployment.records import Arm, Context, GuardError, Source, Violation, describe

Alternatives = Sequence[Any] | Callable[[Any, Any], Iterable[Any]]


@dataclass(frozen=True)
class Situation:
    """What is known before it is chosen who acts."""

    observation: Any
    """As the guard was given it."""
    context: Context
    """For the constraints."""
    wanted: Proposal
    """By the policy."""
    usual: Proposal
    """By the fallback."""
    violations: tuple[Violation, ...]
    """Of the policy's action."""


@dataclass(frozen=True)
class Choice:
    """What is to be executed."""

    source: Source
    """Whose action it is."""
    action: Any
    """The action."""
    violations: tuple[Violation, ...]
    """Of the policy's action, and what else failed."""


class Shield:
    """Policy, fallback, constraints and alternatives."""

    def __init__(
        self,
        policy: Any,
        fallback: Any,
        constraints: Iterable[Constraint],
        alternatives: Alternatives,
    ) -> None:
        """Check that all of them can be used; see `Guard`.

        Raises:
            ConfigError: If one cannot.
        """
        self._policy = Actor(policy, "policy")
        self._fallback = Actor(fallback, "fallback")
        self._constraints = tuple(constraints)
        check_constraints(self._constraints)
        self._alternatives = alternatives if callable(alternatives) else tuple(alternatives)

    def look(self, observation: Any, context: Context) -> Situation:
        """Ask both for an action, whoever acts: a fallback that remembers must see everything."""
        wanted = self._policy.propose(observation)
        usual = self._fallback.propose(observation)
        if wanted.error is None:
            violations = violations_of(self._constraints, observation, wanted.action, context)
        else:
            violations = (Violation("policy", wanted.error),)
        return Situation(observation, context, wanted, usual, violations)

    def choose(self, situation: Situation, arm: Arm) -> Choice:
        """What the arm does in a situation.

        Raises:
            GuardError: If the fallback is needed and failed.
        """
        wanted, violations = situation.wanted, situation.violations
        if arm == "policy" and not violations:
            return Choice("policy", wanted.action, violations)
        if arm == "policy" and wanted.error is None:
            try:
                for action in self._allowed_alternatives(situation):
                    return Choice("alternative", action, violations)
            # The user's own function, as the policy is; there still is the fallback.
            except Exception as error:
                violations += (Violation("alternatives", describe(error)),)
        usual = situation.usual
        if usual.error is not None:
            raise GuardError(f"the fallback failed where it was needed: {usual.error}")
        return Choice("fallback", usual.action, violations)

    def _allowed_alternatives(self, situation: Situation) -> Iterable[Any]:
        candidates, observation = self._alternatives, situation.observation
        if callable(candidates):
            candidates = tuple(candidates(observation, situation.wanted.action))
        for action in candidates:
            check_finite(action)
            if not violations_of(self._constraints, observation, action, situation.context):
                yield action
