"""Settings of the guard. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Natural,
    NonNegative,
    Number,
    Positive,
    PositiveFraction,
    checked_dataclass,
)

Mode = Literal["shadow", "gradual", "full"]
Percentage = Annotated[Number, Field(gt=0, le=100)]


@checked_dataclass
class QuickAlarmConfig:
    """Thresholds on the policy's requests, and how many failed checks roll it back.

    Checks each minute, 5 failed ones, and 99 % are what Flagger's documentation begins with.
    """

    check_seconds: Positive = 60.0
    """Seconds from one check to the next."""
    failed_checks: Count = 5
    """Failed checks among the last ones that roll the policy back."""
    of_last_checks: Count = 10
    """How many last checks count."""
    minimum_requests: Count = 500
    """Requests of the policy that a check needs to pass; with fewer it is skipped, and the next one
    judges them too. It fails as soon as so many cannot pass any more."""
    minimum_success_percentage: Annotated[Number, Field(ge=0, le=100)] = 99.0
    """Least share of the policy's requests that must succeed, in %; 0: no limit."""
    maximum_p99_ms: Positive | None = None
    """Largest 99th percentile of the policy's latencies; None: no fixed limit."""
    maximum_p99_ratio: Annotated[Number, Field(ge=1)] | None = 1.5
    """The same as a multiple of the fallback's; None: not compared."""
    reference_requests: Count = 2000
    """Latest requests of the fallback whose p99 that is; with fewer it is not compared."""
    largest_reference_age_minutes: Positive = 60.0
    """Age at which the fallback's requests are too old to compare with, as load changes."""
    unobserved_decisions: Count | None = 10
    """Decisions of the policy since the last check that make the next one fail if not one request,
    of either arm, was observed meanwhile; None: missing observations fail no check."""

    def __post_init__(self) -> None:
        if self.of_last_checks < self.failed_checks:
            raise ConfigError(
                f"of_last_checks must be >= failed_checks, got {self.of_last_checks} and "
                f"{self.failed_checks}: so many could never fail"
            )


@checked_dataclass
class GuardConfig:
    """When a policy may act, when its share of the traffic grows, and when it is rolled back.

    The defaults of the rollout (10 % of 100, 10 % an hour, 1000 actions) follow its published
    description; those of the outcome test were chosen by simulation (docs/how_to/deployment.md).
    """

    mode: Mode = "shadow"
    """Initial mode of a guard without saved state. "shadow": the policy's action is recorded, the
    fallback's executed; "gradual": the policy acts in a share of the blocks; "full": in all but
    the holdout."""
    start_percentage: Percentage = 10.0
    """Share of the blocks, in %, when `gradual` begins."""
    step_percentage: Percentage = 10.0
    """Percentage points that each clean period adds; at 100 the mode becomes `full`."""
    clean_hours: Positive = 1.0
    """Hours without a violation before a step-up."""
    largest_gap_minutes: Positive = 10.0
    """Longest gap between two decisions that counts as clean, so that a stopped service or a jump
    of the clock promotes nothing."""
    resume_after_hours: Positive | None = None
    """Clean hours in shadow after which a policy that was rolled back may start again; None: only
    an operator restarts it."""
    violation_limit_percentage: Annotated[Number, Field(ge=0, lt=100)] = 10.0
    """Largest share of violating actions in the window, in %; above it, shadow."""
    window: Count = 100
    """Last actions of the policy, executed or not, whose violations are counted. The limit is a
    number of actions, so a policy whose first actions are bad need not fill the window."""
    policy_deadline_ms: Annotated[Number, Field(gt=0, le=86_400_000)] | None = 1_000.0
    """Longest wait for the policy's action, in real time; then the fallback acts. The policy runs
    in a thread of its own, and is not asked again before it has returned. None: it runs in the
    thread that calls `act`, and may block it for ever."""
    missed_deadline_limit: Count = 3
    """Consecutive actions of the policy that come too late, or not at all, which roll it back."""
    history_size: Count = 1000
    """Number of decisions, and of transitions, to keep."""
    outcome_test: Flag = True
    """Whether to compare outcomes. A step-up then needs a block with outcomes."""
    false_alarm_rate: Annotated[Number, Field(gt=0, lt=1)] = 0.01
    """Largest probability that a policy which is no worse is ever rolled back for its outcomes,
    between leaving shadow and returning to it, however long that takes."""
    tolerance: NonNegative = 0.0
    """How much worse than the fallback's the policy's outcomes may be, in their unit."""
    holdout_percentage: Annotated[Number, Field(ge=0, le=50)] = 5.0
    """Share of the blocks, in %, that the fallback keeps in `full`, to detect a policy that becomes
    worse. 0: none, and outcomes are not compared in `full`."""
    block_steps: Count = 15
    """Consecutive decisions by one arm: long enough for actions to affect the outcomes."""
    warmup_steps: Natural = 3
    """First decisions of a block, whose outcomes are ignored: the previous arm caused them."""
    outcome_minimum: Number | None = None
    """Worst outcome of a block; lower ones are clipped. None: no bound."""
    outcome_maximum: Number | None = None
    """Best outcome of a block; higher ones are clipped. None: no bound."""
    clip_deviations: Positive | None = 4.0
    """Outcomes are clipped at this many recent mean deviations from their recent level. None: only
    the bounds clip, so the means themselves are compared, more slowly."""
    level_weight: PositiveFraction = 0.2
    """Weight of the latest block in that level and deviation."""
    restart_blocks: Count = 100
    """Blocks between restarts of the test, which detect a policy that turns bad after long."""
    quick_alarm: QuickAlarmConfig | None = None
    """Thresholds on the requests that `Guard.observe_request` tells of; None: no quick alarm."""
    save_every: Count = 1
    """Calls of `act` and `report` between saves of the state; transitions are saved immediately.
    1: a restart loses nothing."""
    seed: Natural = 0
    """Determines which blocks the policy gets; give each guard of a fleet its own seed."""

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.block_steps:
            raise ConfigError(
                f"warmup_steps must be < block_steps, got {self.warmup_steps} of "
                f"{self.block_steps}: no outcome would count"
            )
        if self.history_size < self.window:
            raise ConfigError(
                f"history_size must be >= window, got {self.history_size} and {self.window}: "
                "keep the actions that a rollback is for"
            )
        minimum, maximum = self.outcome_minimum, self.outcome_maximum
        if minimum is None or maximum is None:
            if self.clip_deviations is None:
                raise ConfigError(
                    "outcome_minimum and outcome_maximum must be numbers when clip_deviations "
                    f"is None, got {minimum} and {maximum}: the test needs bounded outcomes"
                )
        elif maximum - minimum <= self.tolerance:
            raise ConfigError(
                f"outcome_maximum - outcome_minimum must be > tolerance = {self.tolerance}, got "
                f"{maximum} - {minimum}: no outcome could be worse"
            )

    @property
    def most_violations(self) -> float:
        """Largest number of violations that the window may hold."""
        return self.violation_limit_percentage * self.window / 100.0
