"""A routing core in simulated time, and episodes of the simulator to replay through it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from grpo_gym.deployment.routing import (
    Endpoint,
    Pick,
    RoutingConfig,
    RoutingCore,
    routing_guard,
)
from grpo_gym.deployment.routing.fleet import Fleet, Layout
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator


def endpoints(count: int, **settings: Any) -> list[Endpoint]:
    """Endpoints named a, b, c and so on."""
    return [Endpoint(chr(97 + n), f"http://{chr(97 + n)}", **settings) for n in range(count)]


class Script:
    """A policy that prefers what it is told to, and keeps what it has seen."""

    layout = Layout()
    needs_service_time = False

    def __init__(self, *wanted: int, layout: Layout | None = None) -> None:
        self.wanted = list(wanted)
        self.layout = Layout() if layout is None else layout
        self.observations: list[np.ndarray] = []
        self.learnt: list[tuple[int, bool, float]] = []
        self.fleet: Fleet

    def check(self, count: int) -> None:
        pass

    def bind(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        self.observations.append(observation)
        scores = np.zeros(len(allowed))
        if self.wanted:
            scores[self.wanted[0]] = 1.0
            del self.wanted[: len(self.wanted) > 1]
        return scores

    def sent(self, n: int) -> int:
        return n

    def learn(self, memo: int, ok: bool, latency_ms: float) -> None:
        self.learnt.append((memo, ok, latency_ms))

    def log_moved(self) -> None:
        pass


@dataclass
class Bench:
    """A core whose time is `now_s`; its policy acts on every request unless settings say else."""

    core: RoutingCore = field(init=False)
    now_s: float = 0.0

    def pick(self, **arguments: Any) -> Pick:
        return self.core.pick(**arguments)

    def one(self, ok: bool = True, latency_ms: float = 10.0, **arguments: Any) -> str:
        """A request that ends after a time; where it went."""
        pick = self.core.pick(**arguments)
        self.now_s += latency_ms / 1_000.0
        assert self.core.finish(pick.token, ok)
        return pick.endpoints[0]


def bench(
    policy: Any = "least_connections", count: int = 4, *, state_path: Any = None, **settings: Any
) -> Bench:
    """A bench; `settings` are of `RoutingConfig`, and `guard` a mapping of changes."""
    guard = {
        "mode": "full",
        "holdout_percentage": 0.0,
        "outcome_test": False,
        "quick_alarm": None,
    } | settings.pop("guard", {})
    names = settings.pop("endpoints", None) or endpoints(count)
    world = Bench()
    world.core = RoutingCore(
        names,
        policy,
        RoutingConfig(guard=routing_guard(**guard), **settings),
        clock=lambda: world.now_s,
        guard_clock=lambda: world.now_s,
        state_path=state_path,
    )
    return world


class Request(NamedTuple):
    """A request of an episode, and how it ended."""

    arrival_ms: float
    size: float
    server: int
    departure_ms: float
    response_ms: float
    error: bool
    timed_out: bool

    @property
    def refused(self) -> bool:
        return self.departure_ms == self.arrival_ms


def episode(simulator: LoadBalancerSimulator, seed: int) -> Iterator[tuple[np.ndarray, Request]]:
    """Each request of an episode that is routed at random, with the observation before it."""
    simulator.seed(np.array([seed], np.uint64))
    simulator.reset()
    generator = np.random.default_rng(seed)
    for step in range(simulator.config.episode_length):
        observation = simulator.observe()[0]
        size = float(simulator.arrivals[0, step]["size"])
        server = int(generator.integers(simulator.config.num_servers))
        simulator.step(np.array([server]))
        sent = simulator.requests[0, step]
        yield (
            observation,
            Request(
                float(sent["arrival_ms"]),
                size,
                server,
                float(sent["departure_ms"]),
                float(sent["response_ms"]),
                bool(sent["error"]),
                bool(sent["timed_out"]),
            ),
        )
