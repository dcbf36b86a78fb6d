"""Settings of the scaler: what it scales, what it reads, and what it may do. Imports no torch."""

from dataclasses import field
from datetime import UTC, tzinfo
from string import Template
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field

from grpo_gym.deployment.config import GuardConfig
from grpo_gym.envs.autoscaler.measured import LARGEST_PLAUSIBLE, MEASUREMENTS
from grpo_gym.settings import (
    ConfigError,
    NonNegative,
    Number,
    Positive,
    checked_dataclass,
    suggest,
)

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")]
"""A name of Kubernetes."""
_Seconds = Annotated[Number, Field(gt=0, le=86_400)]

# A pod is called DEPLOYMENT-HASH-SUFFIX; "web-.*" would be those of "web-api" too.
_PODS = 'namespace="$namespace",pod=~"$deployment-[a-z0-9]+-[a-z0-9]{5}"'
_CONTAINERS = _PODS + ',container!=""'
_DEPLOYMENT = 'namespace="$namespace",deployment="$deployment"'
_REQUESTS = f"sum(rate(http_requests_total{{{_PODS}}}[$window]))"
_SECONDS = f"http_request_duration_seconds_bucket{{{_PODS}}}"
_READY = f"max(kube_deployment_status_replicas_ready{{{_DEPLOYMENT}}})"
_NO_REQUESTS = f"{_REQUESTS} == 0"
"""0 where there are no requests, and nothing where that is unknown; a latency would be NaN."""

DEFAULT_QUERIES = {
    "cpu_percent": f"100 * sum(rate(container_cpu_usage_seconds_total{{{_CONTAINERS}}}[$window]))"
    f' / sum(kube_pod_container_resource_requests{{{_PODS},resource="cpu"}})',
    "memory_percent": f"100 * sum(container_memory_working_set_bytes{{{_CONTAINERS}}})"
    f' / sum(kube_pod_container_resource_limits{{{_PODS},resource="memory"}})',
    "network_mbit_per_s": "8e-6 * sum(rate(container_network_transmit_bytes_total"
    f"{{{_PODS}}}[$window]))",
    "disk_io_per_s": f"sum(rate(container_fs_reads_total{{{_CONTAINERS}}}[$window]))"
    f" + sum(rate(container_fs_writes_total{{{_CONTAINERS}}}[$window]))",
    "p50_latency_ms": f"1000 * histogram_quantile(0.5, sum by (le) (rate({_SECONDS}[$window])))"
    f" >= 0 or {_NO_REQUESTS}",
    "p99_latency_ms": f"1000 * histogram_quantile(0.99, sum by (le) (rate({_SECONDS}[$window])))"
    f" >= 0 or {_NO_REQUESTS}",
    "requests_per_s": _REQUESTS,
    "error_percent": f'100 * (sum(rate(http_requests_total{{{_PODS},code=~"5.."}}[$window]))'
    f" or 0 * {_REQUESTS}) / {_REQUESTS} >= 0 or {_NO_REQUESTS}",
    "queue_depth": f"clamp_min(sum(rate(http_request_duration_seconds_sum{{{_PODS}}}[$window]))"
    f" - $service_seconds * {_REQUESTS}, 0)",
    "replicas": f"max(avg_over_time(kube_deployment_status_replicas_ready{{{_DEPLOYMENT}}}"
    "[$window]))",
    "running": _READY,
    "pending": f"clamp_min(max(kube_deployment_spec_replicas{{{_DEPLOYMENT}}}) - {_READY}, 0)",
}
"""What is asked of Prometheus for each measurement: names of cAdvisor, kube-state-metrics, and of
Prometheus' clients. The queue's length is the number in the system, which by Little's law is the
seconds that requests spend there each second, less those in service."""


@checked_dataclass
class ScalerSettings:
    """A deployment, its metrics, the policy that scales it, and the limits on what that may do."""

    deployment: _Name
    """Name of the Deployment that is scaled."""
    namespace: _Name = "default"
    """Its namespace."""

    prometheus: str = "http://127.0.0.1:9090"
    """URL of Prometheus, or of what answers like it."""
    bearer_token_file: str | None = None
    """File with a token for it, read anew for each request, as tokens rotate."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers for it, such as X-Scope-OrgID."""
    queries: dict[str, str] = field(default_factory=dict)
    """PromQL by measurement, in place of the defaults (docs/how_to/keda.md); each gives one
    series."""
    limits: dict[str, Positive] = field(default_factory=dict)
    """The largest plausible value by measurement; what is beyond counts as missing."""
    poll_seconds: _Seconds = 15.0
    """Time between readings."""
    query_seconds: _Seconds = 5.0
    """Longest wait for the answers of a reading."""
    stale_seconds: _Seconds = 60.0
    """How far an answer's own time may be from this clock; beyond, it counts as missing."""
    hold_seconds: Annotated[Number, Field(ge=0, le=86_400)] = 300.0
    """How long the last decision is repeated after the next one was due, while metrics are missing
    or the guard has no safe action; then KEDA gets an error, and falls back."""

    policy: str = "hpa"
    """A baseline of AutoScaler-v0, an exported .safetensors file, a checkpoint, or a run's
    folder."""
    fallback: str = "hpa"
    """What the guard falls back to: a baseline, with its own terms."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of AutoScaler-v0 that describe this service (docs/tutorials/autoscaler.md), over
    those that a policy was trained with. `step_seconds` is the time between decisions."""
    time_zone: str = "UTC"
    """Where the day begins at midnight, such as Europe/Berlin."""
    answer: Literal["replicas", "target"] = "replicas"
    """What KEDA is told: "replicas": their number. "target": the present load, and the utilisation
    at which it needs that number, which KEDA gets only from a trigger of type external-push."""

    largest_change_share: NonNegative = 1.0
    """Share of the replicas that the policy may add or remove at once, ..."""
    largest_change_replicas: NonNegative = 4.0
    """... or so many, if that is more."""
    cooldown_seconds: NonNegative = 0.0
    """Time from one change to the policy's next."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Settings of the guard (docs/how_to/deployment.md)."""
    state_path: str | None = None
    """File of the guard's state, which survives restarts; None: each start is in the mode of
    `guard`."""

    def __post_init__(self) -> None:
        for name in ("queries", "limits"):
            for measurement in getattr(self, name):
                if measurement not in MEASUREMENTS:
                    raise ConfigError(
                        f"{name} must be by measurement, got {measurement!r}."
                        f"{suggest(measurement, MEASUREMENTS)}"
                    )
        check_url("prometheus", self.prometheus)
        _ = self.zone

    @property
    def zone(self) -> tzinfo:
        """The time zone.

        Raises:
            ConfigError: If it is unknown here.
        """
        if self.time_zone == "UTC":  # known without a database of time zones
            return UTC
        try:
            return ZoneInfo(self.time_zone)
        except (LookupError, OSError, ValueError) as error:
            raise ConfigError(
                f"time_zone must be a name such as Europe/Berlin, got {self.time_zone!r}: where "
                "no name is known, pip install tzdata"
            ) from error

    @property
    def largest_plausible(self) -> dict[str, float]:
        """The largest plausible value of each measurement."""
        return {**LARGEST_PLAUSIBLE, **self.limits}

    def all_queries(self, window_seconds: float, service_seconds: float) -> dict[str, str]:
        """PromQL of each measurement.

        Args:
            window_seconds: Over which default queries average.
            service_seconds: Of one request on an idle replica.
        """
        known = {
            "namespace": self.namespace,
            "deployment": self.deployment,
            "window": f"{max(window_seconds, 1.0):.0f}s",
            "service_seconds": f"{service_seconds:g}",
        }
        defaults = {
            name: Template(query).substitute(known) for name, query in DEFAULT_QUERIES.items()
        }
        return {**defaults, **self.queries}


def check_url(name: str, url: str) -> None:
    """Refuse what is no URL of HTTP.

    Raises:
        ConfigError: If it is not "http://HOST[:PORT]" or "https://HOST[:PORT]" with an optional
            path.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise ConfigError(f"{name} must be http://HOST[:PORT], got {url!r}")
