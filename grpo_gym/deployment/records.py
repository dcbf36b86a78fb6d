"""What the guard hands out and keeps: decisions, violations, transitions, its status."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from grpo_gym.deployment.config import Mode

Arm = Literal["policy", "fallback"]
Source = Literal["policy", "alternative", "fallback"]
_LONGEST_REASON = 300


class GuardError(RuntimeError):
    """Something that the guard cannot do in its present state; the message says what can be."""


@dataclass(frozen=True)
class Violation:
    """Why a policy's action was not fit to be taken."""

    constraint: str
    """Name of the constraint; "policy" if the policy itself failed."""
    reason: str
    """What was wrong; for an error its type and text."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One action and how it came about.

    In the guard's history, actions are as JSON has them: arrays are lists, and what JSON cannot
    say is text.
    """

    number: int
    """Counts from 0."""
    time_s: float
    """When, by the guard's clock."""
    mode: Mode
    """In which it was taken."""
    percentage: float
    """Of `gradual`; 0 in shadow, 100 in full."""
    arm: Arm
    """Whose block it is."""
    source: Source
    """Whose action it is: in its block the policy's, or after a violation another."""
    action: Any
    """What to execute."""
    policy_action: Any
    """What the policy wanted; None if it failed."""
    fallback_action: Any
    """What the fallback wanted; None if it failed."""
    fallback_error: str | None
    """Why it failed; the guard then acts as long as it needs no fallback."""
    violations: tuple[Violation, ...]
    """Of the policy's action."""
    block: int
    """Number of the block."""
    block_step: int
    """Which of the block's decisions this is, from 0."""


@dataclass(frozen=True)
class Transition:
    """A change of mode or percentage."""

    time_s: float
    """When, by the guard's clock."""
    from_mode: Mode
    """Before."""
    from_percentage: float
    """Before."""
    to_mode: Mode
    """After."""
    to_percentage: float
    """After."""
    by: Literal["guard", "operator"]
    """Who decided."""
    reason: str
    """Why."""


@dataclass(frozen=True)
class Context:
    """What a constraint may know beside the observation and the action."""

    now_s: float
    """Time by the guard's clock."""
    history: tuple[Decision, ...]
    """Last decisions, newest last; their `action` is what was executed."""
    history_is_complete: bool
    """Whether these are all there ever were."""


@dataclass(frozen=True, kw_only=True)
class GuardStatus:
    """How a guard is doing."""

    mode: Mode
    """Now."""
    percentage: float
    """Now; 0 in shadow, 100 in full."""
    decisions: int
    """Since the guard first started."""
    violations_in_window: int
    """Violating actions of the policy among the last `window`."""
    clean_hours: float
    """Hours that count towards the next step-up or resumption."""
    waiting_for: str
    """What the next automatic promotion waits for; empty if there is none to come."""
    evidence: float
    """That the policy is worse, since `gradual` began: 1 / false_alarm_rate rolls back."""
    policy_blocks: int
    """Blocks with outcomes of the policy's, since `gradual` began."""
    fallback_blocks: int
    """Blocks with outcomes of the fallback's, since `gradual` began."""
    policy_outcome: float | None
    """Mean outcome of the policy's blocks, unclipped."""
    fallback_outcome: float | None
    """Mean outcome of the fallback's blocks, unclipped."""
    late_outcomes: int
    """Outcomes that came after their block had ended, and were ignored."""
    save_error: str | None
    """Why the state could not be saved the last time; nothing is promoted until it can."""


def describe(error: Exception) -> str:
    """An error's type and text, cut to a length that a record can bear."""
    return f"{type(error).__name__}: {error}"[:_LONGEST_REASON]


def plain(value: Any) -> Any:
    """A value as JSON has it; a number that is not finite, or anything unknown, as text."""
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
    # Arrays and their scalars, torch's tensors.
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)[:_LONGEST_REASON]


def plain_decision(decision: Decision) -> Decision:
    """The decision as the history keeps it."""
    return replace(
        decision,
        action=plain(decision.action),
        policy_action=plain(decision.policy_action),
        fallback_action=plain(decision.fallback_action),
    )


def decision_from(values: Mapping[str, Any]) -> Decision:
    """The decision that `decision_as_mapping` was given."""
    violations = tuple(Violation(**each) for each in values["violations"])
    return Decision(**{**values, "violations": violations})


def decision_as_mapping(decision: Decision) -> dict[str, Any]:
    """What `decision_from` needs. Not `dataclasses.asdict`, whose copies would take the longest."""
    return {**vars(decision), "violations": [vars(each) for each in decision.violations]}
