"""Settings of the routing core. Imports no torch."""

from typing import Literal

from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Positive,
    PositiveFraction,
    checked_dataclass,
)


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
    size_mean: Positive = 20.0
    """Mean size of a request, in any unit; only with `observe_sizes`."""
    metrics_weight: PositiveFraction = 0.2
    """Weight of a new answer in the moving averages, as in `LoadBalancer-v0`."""

    token_age_s: Positive = 300.0
    """Age at which an unfinished request is forgotten."""
    log_size: Count = 4_096
    """Requests that the log has room for, those in flight included."""

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

    def __post_init__(self) -> None:
        if self.longest_ejection_s < self.ejection_s:
            raise ConfigError(
                f"longest_ejection_s must be at least ejection_s = {self.ejection_s:g}, got "
                f"{self.longest_ejection_s:g}"
            )
