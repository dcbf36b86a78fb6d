"""The endpoints as the balancer knows them: the simulator's records, filled by real requests.

So the observation of `LoadBalancer-v0` is the same code here and there, and so are the baselines,
which read a simulator.

Shapes: N endpoints, D features, T requests in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from typing_extensions import override

from grpo_gym.deployment.routing import kernels
from grpo_gym.deployment.routing.records import Endpoint
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.records import NO_REQUEST
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

_LATENCY_SCALE = 5.0
"""The latency that costs one unit of reward, in mean service times, as in the preset `flaky`."""
_NOBODY = (Endpoint("nobody", ""),)
"""Stands in for the endpoints where there are none, as a simulator has at least one server."""


@dataclass(frozen=True)
class Layout:
    """Which observation of `LoadBalancer-v0` a policy reads.

    Attributes:
        observation: "per_server" or "aggregate".
        sizes: Whether it has sizes.
        weights: Whether it has weights.
        slots: The servers that it has room for; None: as many as there are.
        padded: Whether there may be fewer.
        metrics_weight: Weight of a new answer in the moving averages.
    """

    observation: Literal["per_server", "aggregate"] = "per_server"
    sizes: bool = False
    weights: bool = False
    slots: int | None = None
    padded: bool = False
    metrics_weight: float = 0.2


class LiveSimulator(LoadBalancerSimulator):
    """The memory of a simulator, for requests that are real.

    Attributes:
        allowed: Endpoints that may be chosen now, shape (N,), bool.
    """

    def __init__(self, config: LoadBalancerConfig) -> None:
        """Allocate an episode as long as the log, in which nothing has happened yet."""
        super().__init__(config, 1)
        self.allowed = np.ones(config.server_slots, np.bool_)
        self.seed(np.zeros(1, np.uint64))
        self.reset()
        self.episodes["now_ms"] = 0.0
        self.servers["next_change_ms"] = np.inf

    @property
    @override
    def present(self) -> np.ndarray:
        return (self.weights > 0.0) & self.allowed


class Fleet:
    """Requests in flight, moving averages and ages of N endpoints.

    Attributes:
        endpoints: The endpoints, by index.
        simulator: Holds everything, and is what baselines are bound to.
    """

    def __init__(self, endpoints: Sequence[Endpoint], layout: Layout, log_size: int) -> None:
        """Start without requests; `log_size` is T."""
        self.endpoints = tuple(endpoints)
        self.layout = layout
        known = self.endpoints or _NOBODY
        weights = np.array([endpoint.weight for endpoint in known])
        workers = np.array([endpoint.workers for endpoint in known])
        # A weight is rate times workers, and a mean server has rate 1.
        rates = weights / workers
        self.simulator = LiveSimulator(
            LoadBalancerConfig(
                service_rates=tuple((rates / rates.mean()).tolist()),
                workers=tuple(workers.tolist()),
                weights=tuple(weights.tolist()),
                max_servers=layout.slots,
                episode_length=log_size,
                observation=layout.observation,
                observe_size=layout.sizes,
                observe_weights=layout.weights,
                metrics_weight=layout.metrics_weight,
                infos="basic",
            )
        )
        self.log_size = log_size
        self._moves = np.empty(log_size + 1, np.int64)
        memory = self.simulator.memory
        self._sending = memory.episodes, memory.servers, memory.requests, memory.arrivals
        self._leaving = memory.servers, memory.requests, memory.parameters
        self._answering = memory.servers, memory.requests, memory.constants, memory.parameters
        self.servers = memory.servers[0]
        self._idle = self.servers[0].copy()

    def set_scale(self, service_ms: float, size_mean: float) -> None:
        """Set the mean service time, and the mean size in the unit of `arrive`."""
        parameters = self.simulator.parameters
        parameters["feature_time_ms"] = 0.1 * service_ms
        parameters["size_mean"] = size_mean
        parameters["latency_scale_ms"] = _LATENCY_SCALE * service_ms

    @property
    def is_full(self) -> bool:
        """Whether the log has no room for another request."""
        return bool(self.simulator.episodes["step"][0] >= self.log_size)

    def in_flight(self) -> list[int]:
        """Requests in flight of each endpoint."""
        counts: list[int] = self.servers["in_flight"].tolist()
        return counts[: len(self.endpoints)]

    def arrive(self, now_ms: float, size: float) -> None:
        """A request arrives; it waits for `send`."""
        episode = self.simulator.episodes[0]
        episode["now_ms"] = now_ms
        self.simulator.arrivals[0, episode["step"]] = now_ms, size, 1.0

    def observe(self) -> np.ndarray:
        """The observation for the waiting request, shape (D,), float32; a new array."""
        observation: np.ndarray = self.simulator.observe()[0]
        return observation

    def send(self, n: int) -> int:
        """Send the waiting request to endpoint n, and return its slot in the log."""
        return int(kernels.send(*self._sending, n))

    def answer(self, slot: int, now_ms: float, response_ms: float, end: int) -> None:
        """Note how a request ended: one of the four ends in `kernels`."""
        kernels.answer(*self._answering, slot, now_ms, response_ms, end)

    def withdraw(self, slot: int, now_ms: float, waited_ms: float) -> None:
        """Take a request back, of which only is known that it would have taken longer."""
        kernels.withdraw(*self._leaving, slot, now_ms, waited_ms)

    def redirect(self, slot: int, n: int, now_ms: float) -> None:
        """Note that a request's endpoint failed it, and that endpoint n has it since."""
        kernels.redirect(*self._leaving, slot, n, now_ms)

    def forget_answers(self, n: int) -> None:
        """Judge endpoint n by new answers only, as if it had given none so far."""
        server = self.servers[n]
        for name in _ANSWERS:
            server[name] = self._idle[name]

    def compact(self) -> np.ndarray:
        """Make room in the log; each slot's new place, or -1, shape (T + 1,), int64."""
        memory = self.simulator.memory
        memory.episodes["episode"] += 1  # baselines draw other numbers at the same places
        kernels.compact(
            memory.episodes, memory.servers, memory.requests, self.log_size // 2, self._moves
        )
        return self._moves

    def warm_up(self) -> None:
        """Compile what requests run, before the first one waits; nothing changes in this fleet."""
        other = Fleet(_NOBODY, replace(self.layout, slots=None), log_size=16)
        for answered in (True, True, False):
            other.arrive(1.0, 1.0)
            other.observe()
            slot = other.send(0)
            if answered:
                other.answer(slot, 2.0, 1.0, kernels.ANSWERED)
            else:
                other.redirect(slot, 0, 2.0)
                other.withdraw(slot, 2.0, 0.0)
        other.compact()

    def rebuilt(self, endpoints: Sequence[Endpoint], layout: Layout) -> "Fleet":
        """The same requests and averages, for other endpoints or another observation.

        Endpoints keep theirs by name. Requests of those that are gone are no longer in the log.
        """
        other = Fleet(endpoints, layout, self.log_size)
        old, new = self.simulator, other.simulator
        places = np.full(len(self.servers), NO_REQUEST)
        index = {endpoint.name: n for n, endpoint in enumerate(endpoints)}
        for n, endpoint in enumerate(self.endpoints):
            if endpoint.name in index:
                places[n] = index[endpoint.name]
                new.servers[0, places[n]] = old.servers[0, n]
        new.episodes[:] = old.episodes
        new.arrivals[:] = old.arrivals
        new.requests[:] = old.requests
        sent = old.requests["server"][0] >= 0
        new.requests["server"][0, sent] = places[old.requests["server"][0, sent]]
        for name in ("feature_time_ms", "size_mean", "latency_scale_ms"):
            new.parameters[name] = old.parameters[name]
        return other


_ANSWERS = (
    "last_departure_ms",
    "latency_ms",
    "service_ms",
    "pace",
    "mean_size",
    "error_rate",
    "observed_at_ms",
    "consecutive_errors",
)
"""What answers show of a server, of `SERVER`."""
