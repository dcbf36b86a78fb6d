"""Records of the guard: decisions, violations, transitions, status."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from grpo_gym.deployment.config import Mode

Arm = Literal["policy", "fallback"]
Source = Literal["policy", "alternative", "fallback"]
Author = Literal["guard", "operator"]
_LONGEST_REASON = 300
_PLAIN = (int, str, bool, type(None))
"""Types that `plain` returns as they are."""


class GuardError(RuntimeError):
    """An operation that the guard's present state does not allow; the message has a remedy."""


@dataclass(frozen=True)
class Violation:
    """Why the policy's action was rejected."""

    constraint: str
    """Name of the constraint; "policy" if the policy itself failed."""
    reason: str
    """What was wrong; for an exception its type and text."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One action, and how it was chosen.

    In the guard's history, actions are JSON values: arrays become lists, and values that JSON
    cannot represent become text.
    """

    number: int
    """Counted from 0."""
    time_s: float
    """When, by the guard's clock."""
    mode: Mode
    """Mode of the guard."""
    percentage: float
    """Percentage of the guard; 0 in shadow, 100 in full."""
    arm: Arm
    """Arm of the block."""
    source: Source
    """Whose action it is: the arm's, or after a violation another."""
    action: Any
    """The action to execute."""
    policy_action: Any
    """The policy's action; None if it failed."""
    fallback_action: Any
    """The fallback's action; None if it failed."""
    fallback_error: str | None
    """Why the fallback failed; the guard raises only where it needs the fallback."""
    violations: tuple[Violation, ...]
    """Violations by the policy's action."""
    block: int
    """Number of the block."""
    block_step: int
    """Position within the block, from 0."""


@dataclass(frozen=True)
class Transition:
    """A change of mode or percentage: from what to what, who decided it, and why."""

    time_s: float
    """When, by the guard's clock."""
    from_mode: Mode
    from_percentage: float
    to_mode: Mode
    to_percentage: float
    by: Author
    reason: str


@dataclass(frozen=True)
class Context:
    """What a constraint may use besides the observation and the action."""

    now_s: float
    """Time by the guard's clock."""
    history: tuple[Decision, ...]
    """Last decisions, newest last; their `action` was executed."""
    history_is_complete: bool
    """Whether these are all decisions ever made."""


@dataclass(frozen=True, kw_only=True)
class QuickAlarmStatus:
    """The quick alarm in figures."""

    checks: int
    """Checks since leaving shadow."""
    failed_checks: int
    """Failed ones among the last ones that count."""
    last_failure: str
    """What was wrong in the last check that failed; empty if none has."""
    policy_requests: int
    """Requests of the policy since the last check."""
    policy_success_percentage: float | None
    """How many of them succeeded, in %; None without any."""
    policy_p99_ms: float | None
    """Their 99th percentile; None without latencies."""
    fallback_requests: int
    """Requests of the fallback that the policy's are compared with, so far."""
    fallback_success_percentage: float | None
    fallback_p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class GuardStatus:
    """State of a guard in figures."""

    mode: Mode
    """Current mode."""
    percentage: float
    """Current percentage; 0 in shadow, 100 in full."""
    decisions: int
    """Decisions since the guard first started."""
    missed_deadlines: int
    """Decisions for which the policy had no action in time, since the guard first started."""
    violations_in_window: int
    """Violating actions of the policy among the last `window`."""
    clean_hours: float
    """Hours that count towards the next step-up or resumption."""
    waiting_for: str
    """What the next automatic promotion waits for; empty if none is to come."""
    evidence: float
    """Evidence since leaving shadow that the policy is worse; 1 / false_alarm_rate rolls back."""
    policy_blocks: int
    """The policy's blocks with outcomes, since leaving shadow."""
    fallback_blocks: int
    """The fallback's blocks with outcomes, since leaving shadow."""
    policy_outcome: float | None
    """Mean outcome of the policy's blocks, unclipped."""
    fallback_outcome: float | None
    """Mean outcome of the fallback's blocks, unclipped."""
    late_outcomes: int
    """Outcomes that were ignored because their block had ended."""
    save_error: str | None
    """Why the last save failed; nothing is promoted until one succeeds."""
    quick_alarm: QuickAlarmStatus | None = None
    """The quick alarm; None if there is none."""


def describe(error: BaseException) -> str:
    """An exception's type and text, shortened for a record."""
    return f"{type(error).__name__}: {error}"[:_LONGEST_REASON]


def plain(value: Any) -> Any:
    """A value in JSON types; numbers that are not finite and unknown types become text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else repr(number)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # Arrays and their scalars, and torch's tensors.
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)[:_LONGEST_REASON]


def plain_decision(decision: Decision) -> Decision:
    """The decision with its actions in JSON types, as the history keeps it."""
    actions = decision.action, decision.policy_action, decision.fallback_action
    if all(type(action) in _PLAIN for action in actions):  # nothing to replace, which is slow
        return decision
    return replace(
        decision,
        action=plain(decision.action),
        policy_action=plain(decision.policy_action),
        fallback_action=plain(decision.fallback_action),
    )


def decision_from(values: Mapping[str, Any]) -> Decision:
    """A decision from its fields in JSON types."""
    violations = tuple(Violation(**each) for each in values["violations"])
    return Decision(**{**values, "violations": violations})
