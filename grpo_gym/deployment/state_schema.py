"""What the state of a guard holds: a checksum tells that it is whole, not that it makes sense."""

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from grpo_gym.deployment.config import Mode
from grpo_gym.deployment.records import Arm, Author, Source
from grpo_gym.deployment.sequential import BET_SIZES
from grpo_gym.settings import Flag, Fraction, Integer, NonNegative, Number

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Count = Annotated[Integer, Field(ge=0, le=2**53)]
_Percentage = Annotated[Number, Field(ge=0, le=100)]
_AnyNumber = Annotated[float, Field(allow_inf_nan=True)]
"""Outcomes may be infinite; as JSON has no word for that, it is text."""


class TransitionState(TypedDict):
    """`records.Transition`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    time_s: Number
    from_mode: Mode
    from_percentage: _Percentage
    to_mode: Mode
    to_percentage: _Percentage
    by: Author
    reason: str


class RolloutState(TypedDict):
    """`Rollout.state`; the optional ones are absent from older files."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    mode: Mode
    percentage: _Percentage
    violated: list[Flag]
    missed: NotRequired[_Count]
    missed_in_a_row: NotRequired[_Count]
    clean_s: NonNegative
    transitions: list[TransitionState]
    last_time_s: Number | None
    measured_at_change: _Count
    was_rolled_back: Flag


class BlockState(TypedDict):
    """`experiment.Block`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    number: _Count
    share: Fraction
    arm: Arm
    steps: _Count
    outcomes: _Count
    total: _AnyNumber


class LevelState(TypedDict):
    """`sequential.OutcomeLevel`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    mean: Number | None
    deviation: NonNegative


class OutcomeTestState(TypedDict):
    """`sequential.OutcomeTest`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    wealth: Annotated[
        list[Annotated[_AnyNumber, Field(ge=0)]],
        Field(min_length=len(BET_SIZES), max_length=len(BET_SIZES)),
    ]
    blocks: _Count


class ExperimentState(TypedDict):
    """`Experiment.state`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    block: BlockState | None
    next_number: _Count
    measured: _Count
    late: _Count
    level: LevelState
    test: OutcomeTestState
    counts: dict[Arm, _Count]
    totals: dict[Arm, _AnyNumber]


class ViolationState(TypedDict):
    """`records.Violation`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    constraint: str
    reason: str


class DecisionState(TypedDict):
    """`records.Decision`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    number: _Count
    time_s: Number
    mode: Mode
    percentage: _Percentage
    arm: Arm
    source: Source
    action: Any
    policy_action: Any
    fallback_action: Any
    fallback_error: str | None
    violations: list[ViolationState]
    block: _Count
    block_step: _Count


class RequestsState(TypedDict):
    """`quick_alarm.Requests`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    count: _Count
    errors: _Count
    latencies: dict[Annotated[str, Field(pattern="^[0-9]{1,4}$")], _Count]


class AlarmState(TypedDict):
    """`QuickAlarm.state`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    checks: list[Flag]
    total: _Count
    last_failure: str
    policy: RequestsState
    fallback: RequestsState
    reference: RequestsState | None
    reference_s: Number
    began_s: Number | None
    decisions: _Count
    is_blind: Flag


class GuardState(TypedDict):
    """`Course.state`, and the config it was made with."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    config: dict[str, Any]
    decisions: _Count
    rollout: RolloutState
    experiment: ExperimentState
    history: list[DecisionState]
    alarm: NotRequired[AlarmState]
