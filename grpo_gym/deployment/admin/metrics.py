"""Metrics for Prometheus, from a service's status at each scrape: docs/reference/admin_port.md."""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from grpo_gym.deployment.admin.service import ScalingStatus, Service, Status
from grpo_gym.deployment.admin.traffic import ARMS, BUCKETS_S, EndpointTally, Traffic
from grpo_gym.deployment.config import GuardConfig, Mode
from grpo_gym.deployment.records import GuardStatus
from grpo_gym.deployment.routing import RoutingStatus

_BOUNDS = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")

# Name without "grpo_gym_", description, and how to read it; None gives no sample.
_Read = Callable[[Any], float | None]
_Table = tuple[tuple[str, str, _Read], ...]

_ENDPOINT_GAUGES: _Table = (
    ("requests_in_flight", "Requests not yet answered.", lambda each: each.in_flight),
    ("endpoint_share_ratio", "Share of the last picks.", lambda each: each.share),
    ("endpoint_healthy", "1 if the policy may choose the endpoint.", lambda each: each.healthy),
    ("endpoint_ejected", "1 while it is ejected for errors.", lambda each: each.ejected),
    ("endpoint_weight", "Configured weight.", lambda each: each.weight),
    (
        "endpoint_latency_seconds",
        "Moving average of the latency, as the policy observes it.",
        lambda each: None if each.latency_ms is None else each.latency_ms / 1000.0,
    ),
    (
        "endpoint_error_ratio",
        "Moving average of the errors, as the policy observes it.",
        lambda each: each.error_rate,
    ),
    ("endpoint_age_seconds", "Time since the last answer.", lambda each: each.age_s),
)
_ROUTING_COUNTERS: _Table = (
    (
        "expired_requests",
        "Requests forgotten by age, whose end nobody told.",
        lambda status: status.expired,
    ),
    (
        "unknown_tokens",
        "Reported ends of requests that are unknown, or were forgotten.",
        lambda status: status.unknown_tokens,
    ),
    (
        "choice_log_rows",
        "Choices that were logged.",
        lambda status: None if status.choice_log is None else status.choice_log.rows,
    ),
    (
        "choice_log_dropped_rows",
        "Choices that the disk had no room or no time for.",
        lambda status: None if status.choice_log is None else status.choice_log.dropped,
    ),
)
_SCALING_COUNTERS: _Table = (
    ("scaler_decisions", "Decisions of the scaler.", lambda status: status.decisions),
    (
        "scaler_failures",
        "Readings without usable metrics, or without a safe action.",
        lambda status: status.failures,
    ),
)
_SCALING_GAUGES: _Table = (
    ("scaler_replicas", "Last answer, in replicas.", lambda status: status.replicas),
    ("scaler_target", "Last answer, as a target.", lambda status: status.target),
    ("scaler_metrics_age_seconds", "Age of the newest metrics.", lambda status: status.age_s),
)
_GUARD_COUNTERS: _Table = (
    ("guard_decisions", "Decisions of the guard.", lambda guard: guard.decisions),
    (
        "guard_missed_deadlines",
        "Decisions for which the policy had no action in time.",
        lambda guard: guard.missed_deadlines,
    ),
    (
        "guard_late_outcomes",
        "Outcomes that came after their block.",
        lambda guard: guard.late_outcomes,
    ),
)
_GUARD_GAUGES: _Table = (
    (
        "guard_policy_ratio",
        "The guard's percentage as a ratio: 0 in shadow, 1 in full.",
        lambda guard: guard.percentage / 100.0,
    ),
    (
        "guard_evidence",
        "Evidence that the policy is worse than the fallback.",
        lambda guard: guard.evidence,
    ),
    (
        "guard_window_violations",
        "Violating actions of the policy in the window.",
        lambda guard: guard.violations_in_window,
    ),
    (
        "guard_clean_seconds",
        "Time that counts towards the next step-up.",
        lambda guard: guard.clean_hours * 3600.0,
    ),
    (
        "guard_save_failing",
        "1 while the guard's state cannot be saved.",
        lambda guard: guard.save_error is not None,
    ),
)
_ALARM_GAUGES: _Table = (
    (
        "guard_alarm_failed_checks",
        "Failed checks of the quick alarm among those that count.",
        lambda alarm: alarm.failed_checks,
    ),
)
_ALARM_LIMITS: _Table = (
    (
        "guard_alarm_failed_checks_limit",
        "Failed checks at which the policy is rolled back.",
        lambda config: config.failed_checks,
    ),
)
_GUARD_LIMITS: _Table = (
    (
        "guard_evidence_limit",
        "Evidence at which the policy is rolled back.",
        lambda config: 1.0 / config.false_alarm_rate,
    ),
    (
        "guard_window_violations_limit",
        "Violations in the window above which the policy is rolled back.",
        lambda config: config.most_violations,
    ),
)


class ServiceCollector(Collector):
    """Reads a service at every scrape; keeps nothing itself."""

    def __init__(self, service: Service, traffic: Traffic) -> None:
        """Choose the service, and the counts of its requests."""
        self._service = service
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        """All metrics now."""
        status = self._service.status()
        yield _policy(status)
        yield from _guard(status.guard, self._service.guard.config)
        if isinstance(status, RoutingStatus):
            yield from _routing(status, self._traffic)
        if isinstance(status, ScalingStatus):
            yield from _scaling(status)


def make_registry(service: Service, traffic: Traffic) -> CollectorRegistry:
    """A registry of its own with the metrics of a service, and of this process where known."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service, traffic))
    ProcessCollector(registry=registry)
    return registry


def _policy(status: Status) -> Metric:
    info = InfoMetricFamily("grpo_gym_policy", "The policy behind the guard.")
    info.add_metric([], {"policy": status.policy})
    return info


def _guard(status: GuardStatus, config: GuardConfig) -> Iterator[Metric]:
    mode = GaugeMetricFamily("grpo_gym_guard_mode", "1 for the guard's mode.", labels=["mode"])
    for each in get_args(Mode):
        mode.add_metric([each], float(each == status.mode))
    yield mode
    yield from _plain(CounterMetricFamily, _GUARD_COUNTERS, status)
    yield from _plain(GaugeMetricFamily, _GUARD_GAUGES, status)
    yield from _plain(GaugeMetricFamily, _GUARD_LIMITS, config)
    if status.quick_alarm is not None:
        yield from _plain(GaugeMetricFamily, _ALARM_GAUGES, status.quick_alarm)
        yield from _plain(GaugeMetricFamily, _ALARM_LIMITS, config.quick_alarm)
    blocks = GaugeMetricFamily(
        "grpo_gym_guard_blocks", "Blocks with outcomes since leaving shadow.", labels=["arm"]
    )
    outcome = GaugeMetricFamily(
        "grpo_gym_guard_outcome", "Mean outcome of the blocks; higher is better.", labels=["arm"]
    )
    for arm in ARMS:
        blocks.add_metric([arm], getattr(status, f"{arm}_blocks"))
        if (mean := getattr(status, f"{arm}_outcome")) is not None:
            outcome.add_metric([arm], mean)
    yield from (blocks, outcome)


def _routing(status: RoutingStatus, traffic: Traffic) -> Iterator[Metric]:
    yield from _plain(CounterMetricFamily, _ROUTING_COUNTERS, status)
    for name, text, read in _ENDPOINT_GAUGES:
        gauge = GaugeMetricFamily(f"grpo_gym_{name}", text, labels=["endpoint"])
        for each in status.endpoints:
            if (value := read(each)) is not None:
                gauge.add_metric([each.name], float(value))
        yield gauge
    yield from _requests(traffic.of([each.name for each in status.endpoints]))


def _requests(endpoints: dict[str, EndpointTally]) -> Iterable[Metric]:
    labels = ["endpoint", "arm"]
    picks = CounterMetricFamily(
        "grpo_gym_picks", "Requests sent to the endpoint, retries included.", labels=labels
    )
    requests = CounterMetricFamily(
        "grpo_gym_requests", "Requests that ended.", labels=[*labels, "outcome"]
    )
    durations = HistogramMetricFamily(
        "grpo_gym_request_duration_seconds",
        "Time from the pick to the end of the answer, or to the failure.",
        labels=labels,
    )
    for name, endpoint in endpoints.items():
        for arm, tally in endpoint.arms.items():
            picks.add_metric([name, arm], tally.picks)
            requests.add_metric([name, arm, "success"], tally.successes)
            requests.add_metric([name, arm, "error"], tally.errors)
            requests.add_metric([name, arm, "cancelled"], tally.cancelled)
            buckets = list(zip(_BOUNDS, accumulate(tally.buckets), strict=True))
            durations.add_metric([name, arm], buckets, tally.total_s)
    return picks, requests, durations


def _scaling(status: ScalingStatus) -> Iterator[Metric]:
    yield from _plain(CounterMetricFamily, _SCALING_COUNTERS, status)
    yield from _plain(GaugeMetricFamily, _SCALING_GAUGES, status)


def _plain(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily], table: _Table, source: Any
) -> Iterator[Metric]:
    """The metrics of a table that have no labels."""
    for name, text, read in table:
        if (value := read(source)) is not None:
            yield family(f"grpo_gym_{name}", text, value=float(value))
