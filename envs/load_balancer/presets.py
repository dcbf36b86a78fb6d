"""Settings of the load balancer and their named presets.

Every quantity of time is in milliseconds; sizes are the milliseconds a request takes on a
server of rate 1. Per-server settings are one number for all servers or one number each.
"""

import math
from dataclasses import field
from itertools import cycle, islice
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from grpo_gym.envs.arguments import check_count, check_preset
from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Fraction,
    Integer,
    NonNegative,
    Number,
    Positive,
    PositiveFraction,
    checked_dataclass,
    from_mapping,
)

FaultKind = Literal["degraded", "slow", "erroring", "down"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


@checked_dataclass
class LoadBalancerConfig:
    """One load-balancing task: servers, traffic, faults, and what is seen and rewarded."""

    service_rates: tuple[Positive, ...] = (1.0, 0.8, 0.5, 1.1)
    """Work each server does per unit of time; its length is the number of servers."""
    episode_length: Count = 400
    """Requests an episode."""
    dynamics: Literal["queue", "decaying_load"] = "queue"
    """"queue": first come, first served, one worker a server. "decaying_load": no queues; the
    number of active requests shrinks by `load_decay` after each one (tiny-grpo)."""

    arrival_process: Literal["poisson", "deterministic", "diurnal", "markov_modulated"] = "poisson"
    """How requests arrive. All have the same long-run rate, set by `utilisation`."""
    utilisation: Positive = 0.65
    """Offered work over the total service rate of healthy servers; 1 and above overloads."""
    diurnal_amplitude: Fraction = 0.6
    """Swing of the diurnal rate around its mean, as a share of it."""
    diurnal_period_ms: Positive = 2_000.0
    """Length of a diurnal cycle; its phase is drawn at reset."""
    burst_ratio: Annotated[Number, Field(ge=1)] = 4.0
    """Rate in a burst over the rate in calm, for Markov-modulated arrivals."""
    mean_calm_ms: Positive = 800.0
    """Mean time between bursts (exponential)."""
    mean_burst_ms: Positive = 200.0
    """Mean length of a burst (exponential)."""

    size_distribution: Literal[
        "exponential", "deterministic", "lognormal", "pareto", "hyperexponential"
    ] = "exponential"
    """Distribution of the work a request brings."""
    size_mean: Positive = 20.0
    """Mean work of a request."""
    size_scv: NonNegative = 4.0
    """Squared coefficient of variation, for lognormal and hyperexponential (>= 1) sizes."""
    size_shape: Annotated[Number, Field(gt=1)] = 1.5
    """Tail index of Pareto sizes; the variance is infinite up to 2."""
    integer_times: Flag = False
    """Round arrival gaps and sizes down to whole numbers, as Park does."""

    base_latency_ms: NonNegative | tuple[NonNegative, ...] = 0.0
    """Latency that occupies no worker, such as the network's."""
    latency_per_request_ms: NonNegative | tuple[NonNegative, ...] = 0.0
    """Extra latency per request at the server, the new one included."""
    error_rates: Fraction | tuple[Fraction, ...] = 0.0
    """Probability that a healthy server answers with an error."""
    error_per_request: NonNegative = 0.0
    """What each request at the server, the new one included, adds to that probability."""
    load_decay: Fraction | tuple[Fraction, ...] = 0.9
    """Share of active requests left after each step (rounded down), for "decaying_load"."""

    mean_time_to_failure_ms: Positive | None = None
    """Mean healthy time of a server before a random fault (exponential); None: no such faults."""
    mean_time_to_recovery_ms: Positive = 500.0
    """Mean length of a random fault (exponential)."""
    fault_mix: dict[FaultKind, NonNegative] = field(default_factory=lambda: {"degraded": 1.0})
    """Weights of the kinds of random faults: "slow" multiplies service time by `slow_factor`,
    "erroring" sets the error probability to `fault_error_rate`, "degraded" does both, "down"
    refuses new requests and stops serving."""
    fault_schedule: tuple[tuple[Integer, FaultKind, Integer, Integer], ...] = ()
    """Faults at fixed requests: (server, kind, first request, first request after it). A server
    that is named here has no random faults; what begins after an episode's end never happens."""
    slow_factor: Annotated[Number, Field(ge=1)] = 9.0
    """Service time in a slow or degraded fault over the healthy one (20 ms -> 180 ms)."""
    fault_error_rate: Fraction = 0.06
    """Error probability in an erroring or degraded fault."""
    recovery_ramp_ms: NonNegative = 0.0
    """Time over which the effects of a fault fade out linearly after it ended; a server that
    was down is slow at first."""
    down_response_ms: NonNegative = 1.0
    """Time until a server that is down refuses a request."""

    metrics_weight: PositiveFraction = 0.2
    """Weight of a new response in the moving averages of latency and errors."""
    staleness_ms: NonNegative = 0.0
    """Period at which each server's metrics are published, each at a phase of its own, with the
    first arrival after it; 0: always current."""

    observation: Literal["per_server", "aggregate"] = "per_server"
    """"per_server": features of every server. "aggregate": the worst case over servers of load,
    latency, errors and queue (tiny-grpo)."""
    observe_size: Flag = False
    """Whether the balancer knows the sizes of requests: of the waiting one, of those in flight at
    each server, and so the service time per size. In queueing practice they are known where
    requests are of known kinds or lengths, such as tokens of a prompt."""
    reward: Literal["latency", "demo", "park"] = "latency"
    """"latency": -response / `latency_scale_ms` - `error_penalty` * error probability. "demo":
    -(response + 1500 * error probability + 0.3 * queue). "park": minus the time integral of the
    number of requests in the system until the next arrival; summed over an episode, minus the
    total response time."""
    latency_scale_ms: Positive = 100.0
    """Latency that costs one unit of reward."""
    error_penalty: NonNegative = 1.5
    """Cost of a certain error, in units of reward."""
    infos: Literal["basic", "full"] = "full"
    """"full" adds `oracle_action`, `regret` and `estimated_rewards`, which take a look at every
    server in every step."""

    def __post_init__(self) -> None:
        servers = self.num_servers
        if servers < 1:
            raise ConfigError("service_rates must name at least one server, got none")
        for name in PER_SERVER_FIELDS:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != servers:
                raise ConfigError(
                    f"{name} must be one number or one per server ({servers}), got {len(value)}: "
                    "give it the length of service_rates"
                )
        if self.size_distribution == "hyperexponential" and self.size_scv < 1.0:
            raise ConfigError(
                f"size_scv must be >= 1 with hyperexponential sizes, got {self.size_scv}: "
                "use lognormal sizes for less variation"
            )
        if not 0.0 < sum(self.fault_mix.values()) < math.inf:
            raise ConfigError(
                f"fault_mix must have a finite weight above 0, got {self.fault_mix!r}"
            )
        _check_fault_schedule(self.fault_schedule, servers)
        if self.dynamics == "decaying_load" and self.reward == "park":
            raise ConfigError(
                'reward must not be "park" with dynamics "decaying_load", which has no queues: '
                'use "demo" or "latency"'
            )

    @property
    def num_servers(self) -> int:
        """Number of servers, N."""
        return len(self.service_rates)

    @property
    def mean_gap_ms(self) -> float:
        """Long-run mean time between arrivals that gives `utilisation`."""
        return self.size_mean / (self.utilisation * sum(self.service_rates))

    def per_server(self, name: str) -> np.ndarray:
        """A per-server setting as an array, shape (N,), float64."""
        return np.broadcast_to(np.asarray(getattr(self, name), np.float64), (self.num_servers,))


PER_SERVER_FIELDS = (
    "service_rates",
    "base_latency_ms",
    "latency_per_request_ms",
    "error_rates",
    "load_decay",
)


def _check_fault_schedule(schedule: tuple[tuple[int, str, int, int], ...], servers: int) -> None:
    busy_until = dict.fromkeys(range(servers), 0)
    for server, kind, first, last in schedule:
        entry = f"fault_schedule entry {(server, kind, first, last)}"
        if not 0 <= server < servers:
            raise ConfigError(f"{entry} must name a server from 0 to {servers - 1}, got {server}")
        if not 0 <= first < last:
            raise ConfigError(f"{entry} must end after it begins, at or after request 0")
        if first < busy_until[server]:
            raise ConfigError(f"{entry} must not overlap an earlier one: list them in order")
        busy_until[server] = last


def _park_rates(num_servers: int) -> tuple[float, ...]:
    return tuple(np.linspace(0.15, 1.05, num_servers).tolist())


_FLAKY: dict[str, Any] = {
    "service_rates": (1.0, 0.8, 0.5, 1.1),
    "error_rates": 0.001,
    "mean_time_to_failure_ms": 4_000.0,
    "mean_time_to_recovery_ms": 500.0,
    "observe_size": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Heterogeneous servers that degrade and recover at random, 20 -> 180 ms, 0.1 -> 6 %.
    "flaky": _FLAKY,
    # The servers of flaky; sizes of infinite variance, so a few requests are most of the work.
    "heavy-tails": {**_FLAKY, "size_distribution": "pareto", "size_shape": 1.5},
    # The servers of flaky under traffic that comes in bursts, six times as dense as the calm.
    "bursts": {**_FLAKY, "arrival_process": "markov_modulated", "burst_ratio": 6.0},
    # The demonstration of github.com/karimluna/tiny-grpo: server 0 degrades, then recovers.
    "tiny-grpo": {
        "service_rates": (1.0, 1.0, 1.0, 1.0),
        "dynamics": "decaying_load",
        "episode_length": 3_000,
        "arrival_process": "deterministic",
        "size_distribution": "deterministic",
        "base_latency_ms": (20.0, 40.0, 80.0, 25.0),
        "latency_per_request_ms": (3.0, 2.0, 1.0, 3.5),
        "error_rates": (0.001, 0.003, 0.002, 0.05),
        "load_decay": (0.92, 0.90, 0.88, 0.90),
        "error_per_request": 0.01,
        "fault_schedule": ((0, "degraded", 1_000, 2_000),),
        "observation": "aggregate",
        "reward": "demo",
    },
    # Park's load_balance (Mao et al., NeurIPS 2019): heavy-tailed jobs, servers 1 to 7 fast.
    "park": {
        "service_rates": _park_rates(10),
        "episode_length": 1_000,
        "utilisation": 10.0 / 11.0,
        "size_distribution": "pareto",
        "size_mean": 300.0,
        "size_shape": 1.5,
        "integer_times": True,
        "observe_size": True,
        "reward": "park",
    },
    # Equal exponential servers of rate 1 and mean size 1: times read as in queueing theory.
    "mm4": {
        "service_rates": (1.0, 1.0, 1.0, 1.0),
        "episode_length": 20_000,
        "utilisation": 0.7,
        "size_mean": 1.0,
        "latency_scale_ms": 1.0,
    },
    # A fast and a slow exponential server: when is the slow one worth using?
    "hetero2": {
        "service_rates": (1.0, 0.25),
        "utilisation": 0.6,
        "size_mean": 1.0,
        "latency_scale_ms": 1.0,
    },
}
"""Each is the settings of a named task."""


def make_config(
    preset: str = "flaky", num_servers: int | None = None, **overrides: Any
) -> LoadBalancerConfig:
    """The settings of a preset with any of them replaced.

    Args:
        preset: A name from `PRESETS`.
        num_servers: How many servers; by default the preset's number. Per-server settings of
            the preset are repeated in turn (park: spread over the same range of rates).
        **overrides: Fields of `LoadBalancerConfig`.

    Raises:
        ConfigError: If a name is unknown or a value makes no sense.
    """
    check_preset(preset, PRESETS)
    rates = overrides.get("service_rates")
    count = len(rates) if isinstance(rates, (tuple, list)) else None
    if num_servers is not None:
        num_servers = check_count("num_servers", num_servers)
        if count not in (None, num_servers):
            raise ConfigError(
                f"service_rates must have num_servers = {num_servers} entries, got {count}: "
                "give one of the two"
            )
        count = num_servers
    settings = PRESETS[preset] if count is None else _for_servers(preset, count)
    return from_mapping(LoadBalancerConfig, {**settings, **overrides}, f"LoadBalancer ({preset})")


def _for_servers(preset: str, count: int) -> dict[str, Any]:
    """The settings of a preset for another number of servers."""
    settings = dict(PRESETS[preset])
    for name in PER_SERVER_FIELDS:
        if isinstance(settings.get(name), tuple):
            settings[name] = tuple(islice(cycle(settings[name]), count))
    return settings | ({"service_rates": _park_rates(count)} if preset == "park" else {})
