"""Settings of the routing core. Imports no torch."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_gym.deployment.config import GuardConfig, QuickAlarmConfig
from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Fraction,
    Integer,
    Positive,
    PositiveFraction,
    checked_dataclass,
)


def routing_guard(**changes: Any) -> GuardConfig:
    """Settings of a guard for requests, of which there are many a second.

    They differ from the guard's own defaults: longer blocks, because many requests are in flight
    when one ends; no deadline, because a network of ours does not hang and a thread costs time; a
    quick alarm; less history, saved less often.

    Args:
        **changes: Fields of `GuardConfig`, such as `mode`.

    Raises:
        ConfigError: If a value makes no sense.
    """
    usual: dict[str, Any] = {
        "policy_deadline_ms": None,
        "block_steps": 500,
        "warmup_steps": 100,
        "history_size": 100,
        "save_every": 1_000,
        "quick_alarm": QuickAlarmConfig(),
    }
    return GuardConfig(**{**usual, **changes})


@checked_dataclass
class RoutingConfig:
    """What the core observes, when an endpoint is ejected, and what it forgets."""

    service_ms: Positive | Literal["auto"] = "auto"
    """Mean service time of a request, the unit of times in observations; "auto": estimated from
    answers of endpoints that had nothing else to do."""
    observe_weights: Flag | None = None
    """Whether the policy sees the endpoints' weights. None: if they differ."""
    observe_sizes: Flag = False
    """Whether every request comes with a size, which the policy sees."""
    size_mean: Positive | Literal["auto"] = "auto"
    """Mean size of a request, in any unit, such as tokens; "auto": that of the sizes so far."""

    token_age_s: Positive = 300.0
    """Age at which an unfinished request is forgotten."""
    log_size: Annotated[Integer, Field(ge=16, le=1_000_000)] = 8_192
    """Requests that the log has room for. Half of them may be in flight; more are refused."""

    consecutive_errors: Count = 5
    """Errors in a row that eject an endpoint."""
    error_share: PositiveFraction = 0.5
    """Share of errors in a period that ejects an endpoint."""
    error_period_s: Positive = 10.0
    """Length of such a period."""
    error_period_requests: Count = 20
    """Answers in a period below which its share of errors says nothing."""
    ejection_s: Positive = 2.0
    """Length of an endpoint's first ejection; each further one takes twice as long as the one
    before."""
    longest_ejection_s: Positive = 60.0
    """The longest ejection; an endpoint that stays well for that long begins anew."""
    ejected_share: PositiveFraction = 0.5
    """Largest share of the endpoints that may be ejected at once; one always may, of several."""
    probe_successes: Count = 3
    """Good answers, one request at a time, that bring an endpoint back after an ejection."""
    choice_log: Path | None = None
    """File of the choices that are made in shadow, with what came of them, for `grpo-gym guard
    estimate`; None: none."""
    exploration: Fraction = 0.0
    """Share of the requests that go to a random endpoint in shadow: without random choices a log
    says nothing about other policies. It needs `choice_log`."""
    guard: GuardConfig = field(default_factory=routing_guard)
    """When the policy may act."""

    def __post_init__(self) -> None:
        if self.longest_ejection_s < self.ejection_s:
            raise ConfigError(
                f"longest_ejection_s must be at least ejection_s = {self.ejection_s:g}, got "
                f"{self.longest_ejection_s:g}"
            )
        if (self.choice_log is None) != (self.exploration == 0.0):
            raise ConfigError(
                "choice_log and exploration must be set together, got "
                f"choice_log={self.choice_log} and exploration={self.exploration:g}: a log "
                "without random choices says nothing about other policies, and random choices "
                "without a log teach nothing"
            )
