"""Settings of the load balancer.

Every quantity of time is in milliseconds; sizes are the milliseconds a request takes on a
server of rate 1. Per-server settings are one number for all servers or one number each.
"""

import math
from dataclasses import field
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from grpo_gym.envs.load_balancer.distributions import Distribution, parse
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
)

FaultKind = Literal["degraded", "slow", "erroring", "down"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
MOST_SERVERS = 10_000
_Servers = Annotated[Count, Field(le=MOST_SERVERS)]


@checked_dataclass
class LoadBalancerConfig:
    """One load-balancing task: servers, traffic, faults, and what is seen and rewarded."""

    service_rates: tuple[Positive, ...] = (1.0, 0.8, 0.5, 1.1)
    """Work that each worker of a server does per unit of time; its length is the number of
    servers."""
    workers: Count | tuple[Count, ...] = 1
    """Workers of each server: the requests that it serves side by side."""
    weights: Positive | tuple[Positive, ...] | None = None
    """What the balancer is told about the servers' speeds: only ratios matter. None: the true ones,
    rate times workers."""
    connection_limit: Count | tuple[Count, ...] | None = None
    """Requests in flight at which a server refuses one more; None: no limit."""
    max_servers: _Servers | None = None
    """Servers that observations and actions have room for; None: no more than there are."""
    episode_length: Count = 400
    """Requests an episode."""
    dynamics: Literal["queue", "decaying_load"] = "queue"
    """"queue": first come, first served. "decaying_load": no queues and no workers; the
    number of active requests shrinks by `load_decay` after each one (tiny-grpo)."""

    num_balancers: Annotated[Count, Field(le=10_000)] = 1
    """Balancers that share the servers. Each request comes to one at random, and a balancer sees
    only its own requests and their answers."""
    timeout_ms: Positive | None = None
    """Time after which a request without an answer has failed, and its server drops it; None:
    never."""
    retry: Flag = False
    """Whether a request that failed is sent once more, at that moment: to the server, other than
    the one that failed it, with the least (requests in flight + 1) / weight. Its cost is part of
    the reward of the step in which it is sent."""

    arrivals_csv: str | None = None
    """A file of recorded arrivals: each episode replays a part of them, with gaps scaled to
    `utilisation`, in place of `arrival_process`; docs/reference/csv_formats.md has the format."""
    arrivals_time_column: Integer | str | None = None
    """Name or number (from 1) of its column of times; None: see there, as for the next two."""
    arrivals_size_column: Integer | str | None = None
    """Name or number of its column of sizes, which are scaled to `size_mean` and replace
    `size_distribution`."""
    arrivals_time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of times that are numbers."""
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
    """Round arrival gaps and sizes down to whole numbers, as Park does; recorded ones too, once
    they are scaled."""

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
    """Time over which the effects of a fault fade out linearly after it ended: a slow start, in
    which a server that was down is `slow_factor` times slower at first."""
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
    observe_weights: Flag = False
    """Whether the balancer's observation has the servers' weights, as ratios to their mean."""
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
    """"full" adds to steps what they find out about every server: `oracle_action`, `regret` and
    `estimated_rewards`, and what the balancer sees of them."""
    distributions: dict[str, Any] = field(default_factory=dict)
    """Settings that each episode draws anew at reset, its fleet: `num_servers` and fields, for
    which the other fields hold an example. `make_config` collects them."""

    def __post_init__(self) -> None:
        servers = self.num_servers
        if servers < 1:
            raise ConfigError("service_rates must name at least one server, got none")
        if self.max_servers is not None and self.max_servers < servers:
            raise ConfigError(
                f"max_servers must be at least the number of servers, {servers}, got "
                f"{self.max_servers}"
            )
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
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.reward == "park" and (self.dynamics == "decaying_load" or self.retry):
            what = "retries" if self.retry else 'dynamics "decaying_load", which has no queues'
            raise ConfigError(f'reward must not be "park" with {what}: use "demo" or "latency"')
        for name in ("mean_calm_ms", "mean_burst_ms"):
            shortest_ms = self.mean_gap_ms / _MOST_CHANGES
            if self.arrival_process == "markov_modulated" and getattr(self, name) < shortest_ms:
                raise ConfigError(
                    f"{name} must be at least {shortest_ms:.3g} ms, the mean time between arrivals "
                    f"over {_MOST_CHANGES:,}, got {getattr(self, name)}: use Poisson arrivals"
                )
        if self.num_balancers > 1:
            for name, usual in (("dynamics", "queue"), ("staleness_ms", 0.0)):
                if getattr(self, name) != usual:
                    raise ConfigError(
                        f"{name} must be {usual!r} with several balancers, which observe answers "
                        f"of queues themselves, got {getattr(self, name)!r}"
                    )
        for name in ("arrivals_time_column", "arrivals_size_column", "arrivals_time_unit"):
            if getattr(self, name) is not None and self.arrivals_csv is None:
                raise ConfigError(
                    f"{name} must come with arrivals_csv, got {getattr(self, name)!r}"
                )

    @cached_property
    def laws(self) -> dict[str, Distribution]:
        """The distributions, ready to draw from."""
        return {name: parse(name, value) for name, value in self.distributions.items()}

    @property
    def num_servers(self) -> int:
        """Number of servers, N; the largest number if it is drawn at reset."""
        return len(self.service_rates)

    @property
    def server_slots(self) -> int:
        """Servers that observations and actions have room for."""
        return self.max_servers or self.num_servers

    @property
    def balancer_slots(self) -> int:
        """Balancers that any episode may have."""
        law = self.laws.get("num_balancers")
        return self.num_balancers if law is None else int(max(law.extremes()))

    @cached_property
    def is_padded(self) -> bool:
        """Whether there is room for servers that an episode may not have."""
        return self.server_slots > self.num_servers or "num_servers" in self.distributions

    @property
    def mean_gap_ms(self) -> float:
        """Long-run mean time between arrivals that gives `utilisation`."""
        rates, workers = self.per_server("service_rates"), self.per_server("workers")
        return self.size_mean / (self.utilisation * sum((rates * workers).tolist()))

    def per_server(self, name: str) -> np.ndarray:
        """A per-server setting as an array, shape (N,), float64."""
        return np.broadcast_to(np.asarray(getattr(self, name), np.float64), (self.num_servers,))


PER_SERVER_FIELDS = (
    "service_rates",
    "workers",
    "weights",
    "connection_limit",
    "base_latency_ms",
    "latency_per_request_ms",
    "error_rates",
    "load_decay",
)
_MOST_CHANGES = 100_000
"""Changes between calm and bursts in a mean time between arrivals."""
WHOLE_NUMBERS = ("num_servers", "num_balancers", "workers", "connection_limit")
"""Settings that count something, of those that can be drawn at reset."""


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
