"""Settings of the autoscaler and their named presets."""

from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_gym.envs.arguments import check_preset
from grpo_gym.envs.autoscaler.records import TIMEOUTS_S
from grpo_gym.envs.csv_table import Column
from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Fraction,
    Integer,
    Natural,
    NoFlag,
    NonNegative,
    Number,
    Positive,
    PositiveFraction,
    checked_dataclass,
    from_mapping,
)

_LENGTH = Annotated[Number, Field(ge=0, le=10_080)]
Minutes = tuple[_LENGTH, _LENGTH]
_SHARE = Annotated[Number, Field(ge=0, le=1_000)]

_USUAL_NOISE = 0.02
_USUAL_BURSTS = 2.0


@checked_dataclass
class AutoScalerConfig:
    """One autoscaling task: demand, cluster, safety, and what is seen and rewarded."""

    action: Literal["scaling", "scaling_config", "flat", "multi", "replicas", "target"] = "scaling"
    """"scaling": add or remove replicas. "scaling_config": and change the configuration. "flat":
    and the share of traffic, all as one number; "multi": as three. "replicas": how many there are
    to be, as horizontal autoscalers such as Kubernetes' say it. "target": how busy the replicas are
    to be, in per cent: the number that operators tune by hand, chosen anew in each step."""

    episode_steps: Annotated[Integer, Field(ge=1, le=500_000)] = 1_440
    """Steps an episode (default: a day)."""
    step_seconds: Annotated[Number, Field(ge=1, le=86_400)] = 60.0
    """Time between decisions."""

    base_demand: Annotated[Number, Field(gt=0, le=1e9)] = 2_000.0
    """Mean demand of a weekday without bursts, requests/s."""
    daily_amplitude: Fraction = 0.6
    """Swing over the day, lowest at midnight, as a share of the mean."""
    half_daily_amplitude: Fraction = 0.15
    """Swing over half a day, as a share of the mean."""
    weekend_factor: Annotated[Number, Field(gt=0, le=1_000)] = 1.0
    """Demand on days six and seven over that of the others; other than 1, an episode begins on a
    day that is drawn if `random_start`, else on the first, and the time of week is observed."""
    noise_correlation: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    """Correlation of the logarithm of demand from step to step, beside the daily swing."""
    noise_sigma: Fraction | None = None
    """Standard deviation of what each step adds to it; None: 0.02, or 0 with `demand_csv`."""
    bursts_per_day: Annotated[Number, Field(ge=0, le=1_440)] | None = None
    """Mean number of bursts a day, at random moments; None: 2, or 0 with `demand_csv`."""
    burst_size: tuple[_SHARE, _SHARE] = (0.3, 1.5)
    """What a burst adds to demand at its height, as a share of it: drawn between these."""
    burst_rise_minutes: Minutes = (5.0, 5.0)
    """How long a burst rises, linearly: drawn between these."""
    burst_hold_minutes: Minutes = (0.0, 0.0)
    """How long it stays at its height: drawn between these."""
    burst_decay_minutes: Minutes = (15.0, 60.0)
    """Time in which it then falls to 1/e, exponentially: drawn between these."""
    random_start: Flag = False
    """Whether episodes begin at a random step of the day (of the week); else at midnight."""
    demand_csv: str | None = None
    """A CSV file with requests/s in each step, one a row, instead of the daily swing. An episode
    begins at a random row, whose number decides the time of day. docs/reference/csv_formats.md"""
    demand_column: Column | None = None
    """Name or number (from 1) of its column; None: the only one, or that named demand or value."""

    min_replicas: Count = 2
    """Fewest replicas."""
    max_replicas: Annotated[Integer, Field(ge=1, le=1_000)] = 100
    """Most replicas, those that start up included."""
    initial_replicas: Count | None = None
    """Replicas at the start; None: as many as `initial_utilisation` needs."""
    initial_utilisation: PositiveFraction = 0.7
    """Utilisation at the start, where the limits on replicas allow it."""
    start_up_steps: Annotated[Integer, Field(ge=0, le=120)] = 2
    """Steps in which a new replica is paid and does not serve yet."""
    dollars_per_replica_hour: NonNegative = 12.5
    """Price of a replica, $/h, also while it starts up."""

    batch_size: Annotated[Literal[1, 2, 4, 8, 16, 32], NoFlag] = 1
    """Requests that a server takes at once, at the start."""
    timeout_s: Positive = 4.0
    """How long clients wait for an answer, at the start: 0.25, 0.5, 1, 2 or 4 seconds; what takes
    longer counts as an error."""
    concurrency: Annotated[Literal[1, 2, 3, 4, 6, 8, 12], NoFlag] = 4
    """Servers (workers) a replica, at the start."""
    batch_overhead_ms: NonNegative = 30.0
    """Service time of a batch of n is this + n `request_ms`: 25 requests/s for n = 1."""
    request_ms: Positive = 10.0
    """What each request adds to it."""
    batch_wait_ms: NonNegative = 100.0
    """How long a batch waits to be filled; then it goes as it is."""
    service_scv: NonNegative = 1.0
    """Squared coefficient of variation of service times; 1: exponential."""
    contention: NonNegative = 0.05
    """Share of the work of a replica that its servers do one after the other (Gunther's sigma)."""
    coherency: NonNegative = 0.01
    """Cost of each pair of servers of a replica keeping consistent (Gunther's kappa)."""
    patience_s: Positive = 1.0
    """Longest backlog, in seconds of work: what is beyond is dropped. Longer waits are errors."""
    max_utilisation: Annotated[Number, Field(ge=0.5, lt=1)] = 0.99
    """Latencies beyond this utilisation are those at it, with the backlog on top: a steady state
    of a queue that is full would never be reached."""
    error_rate: Fraction = 0.0002
    """Share of requests that fail whatever the load."""
    retry_share: Fraction = 0.0
    """Share of the dropped requests that come again in the next step."""
    mbit_per_request: NonNegative = 0.25
    """Network traffic of a request, Mbit."""
    disk_io_per_request: NonNegative = 5.0
    """Disk operations of a request."""
    remote_latency_ms: NonNegative = 60.0
    """What the way to the second region adds to its latency."""
    remote_dollars_per_million: NonNegative = 60.0
    """Price of a million requests there; an own replica that is always busy serves them for 35."""

    constraints: Flag = True
    """Whether unsafe changes of the number of replicas are masked, and clipped if sent anyway."""
    cooldown_steps: Natural = 5
    """Steps from one change of the number of replicas to the next, with constraints."""
    largest_change_share: Fraction = 0.5
    """Share of the replicas by which their number changes at most, with constraints ..."""
    largest_change_replicas: Count = 2
    """... or this many, if that is more."""

    history: Annotated[Integer, Field(ge=0, le=1_440)] = 0
    """Steps of metrics that are observed; 0: only the last, as a vector."""
    observe_pending: Flag = True
    """Whether the number of replicas that start up is observed."""
    observe_time: Flag = True
    """Whether the time of day is observed (with `weekend_factor`, and of the week)."""

    reward: Literal["chapter", "dollars"] = "chapter"
    """"chapter": weighted cost, performance, reliability, efficiency. "dollars": minus what was
    paid and lost."""
    reward_weights: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (
        0.3, 0.3, 0.25, 0.15,
    )  # fmt: skip
    """Weights of cost, performance, reliability and efficiency in "chapter"."""
    cost_scale_dollars_per_hour: Positive = 1_000.0
    """What "chapter" measures cost by."""
    sla_p99_ms: Positive = 200.0
    """Promised 99th percentile of latency."""
    sla_dollars_per_step: NonNegative = 10.0
    """Penalty for each step in which it is broken."""
    lost_request_dollars: NonNegative = 0.001
    """What a request is worth that gets no answer in time."""

    def __post_init__(self) -> None:
        if self.daily_amplitude + self.half_daily_amplitude > 1.0:
            raise ConfigError(
                "daily_amplitude + half_daily_amplitude must be <= 1, got "
                f"{self.daily_amplitude + self.half_daily_amplitude}: demand would be negative"
            )
        for name in ("burst_size", "burst_rise_minutes", "burst_hold_minutes",
                     "burst_decay_minutes"):  # fmt: skip
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name} must be from low to high, got {(low, high)}")
        if self.demand_column is not None and self.demand_csv is None:
            raise ConfigError(
                f"demand_column must be None without demand_csv, got {self.demand_column!r}"
            )
        if self.timeout_s not in TIMEOUTS_S:
            raise ConfigError(f"timeout_s must be one of {TIMEOUTS_S}, got {self.timeout_s}")
        if self.min_replicas > self.max_replicas:
            raise ConfigError(
                f"min_replicas must be <= max_replicas = {self.max_replicas}, got "
                f"{self.min_replicas}"
            )
        initial = self.initial_replicas
        if initial is not None and not self.min_replicas <= initial <= self.max_replicas:
            raise ConfigError(
                f"initial_replicas must be from {self.min_replicas} to {self.max_replicas}, got "
                f"{initial}"
            )

    @property
    def steps_per_day(self) -> int:
        """Steps in 24 hours, rounded."""
        return max(1, round(86_400.0 / self.step_seconds))

    @property
    def noise(self) -> float:
        """`noise_sigma`, or what stands for it."""
        usual = 0.0 if self.demand_csv is not None else _USUAL_NOISE
        return usual if self.noise_sigma is None else self.noise_sigma

    @property
    def bursts(self) -> float:
        """`bursts_per_day`, or what stands for it."""
        usual = 0.0 if self.demand_csv is not None else _USUAL_BURSTS
        return usual if self.bursts_per_day is None else self.bursts_per_day

    @property
    def observe_week(self) -> bool:
        """Whether the time of the week is observed."""
        return self.observe_time and self.weekend_factor != 1.0

    @property
    def observe_configuration(self) -> bool:
        """Whether the configuration is observed: where actions change it."""
        return self.action in ("scaling_config", "flat", "multi")


_OPERATED = {"action": "target", "constraints": False}
"""What operators of horizontal autoscalers decide, with nothing between it and the replicas."""

PRESETS: dict[str, dict[str, Any]] = {
    # A day with two bursts on average; the demand of the published baselines.
    "diurnal": {},
    # The same day for what decides on a utilisation.
    "diurnal-target": _OPERATED,
    # The same day, where configuration and traffic are decided too.
    "diurnal-joint": {"action": "multi"},
    # Bursts that one sees coming for some minutes, and replicas that take as long to start. Here
    # and in the next, broken promises cost what they cost: by the minute and the request.
    "bursty": {
        **_OPERATED,
        "reward": "dollars",
        "bursts_per_day": 8.0,
        "start_up_steps": 5,
        "retry_share": 0.3,
    },
    # Demand that multiplies within a minute or two, stays there, and goes.
    "flash-crowd": {
        **_OPERATED,
        "reward": "dollars",
        "bursts_per_day": 4.0,
        "burst_size": (0.5, 2.0),
        "burst_rise_minutes": (1.0, 2.0),
        "burst_hold_minutes": (10.0, 40.0),
        "burst_decay_minutes": (2.0, 5.0),
        "start_up_steps": 3,
        "retry_share": 0.3,
    },
    # Seven days, quieter on the last two.
    "weekly": {"episode_steps": 10_080, "weekend_factor": 0.6},
    # Nothing changes: what queueing theory says exactly.
    "constant": {
        "daily_amplitude": 0.0,
        "half_daily_amplitude": 0.0,
        "noise_sigma": 0.0,
        "bursts_per_day": 0.0,
    },
}
"""Each is the settings of a named task."""


def make_config(preset: str = "diurnal", **overrides: Any) -> AutoScalerConfig:
    """The settings of a preset with any of them replaced.

    Args:
        preset: A name from `PRESETS`.
        **overrides: Fields of `AutoScalerConfig`.

    Raises:
        ConfigError: If a name is unknown or a value makes no sense.
    """
    check_preset(preset, PRESETS)
    return from_mapping(
        AutoScalerConfig, {**PRESETS[preset], **overrides}, f"AutoScaler ({preset})"
    )
