"""Routing rules in common use, with a trained model's `predict`, to compare policies with.

They read the metrics that the policy observes. The privileged ones also read the simulator.

Shapes: B environments, N servers.
"""

from typing import Any

import numpy as np
from typing_extensions import override

from grpo_gym.envs.baseline import Baseline, baseline_maker
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

State = tuple[np.ndarray, ...]


class Router(Baseline):
    """A routing rule; by default it takes the server of least `costs`.

    Attributes:
        rates: Service rate of each server, shape (N,), float64.
    """

    simulator_class = LoadBalancerSimulator

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed, **settings)
        self.rates = np.resize(
            self.simulator.config.per_server("service_rates"), self.simulator.config.server_slots
        )

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        return self._least(self.costs()), state

    def costs(self) -> np.ndarray:
        """Estimate what choosing each server would cost, shape (B, N)."""
        raise NotImplementedError

    def _least(self, costs: np.ndarray) -> np.ndarray:
        """The server of least cost, ties broken at random, shape (B,)."""
        tied = costs == costs.min(axis=1, keepdims=True)
        return np.where(tied, self._noise(costs.shape[1]), 0.0).argmax(axis=1)


class TwoChoices(Router):
    """A rule that takes the cheaper of two distinct servers drawn at random."""

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        costs = self.costs()
        servers = costs.shape[1]
        counts = np.array([servers, max(servers - 1, 1)])
        # The noise is in (0, 1]: the rare 1 wraps to 0.
        first, skip = ((self._noise(2) * counts).astype(np.int64) % counts).T
        second = (first + 1 + skip) % servers
        members = np.arange(len(costs))
        return np.where(costs[members, second] < costs[members, first], second, first), state


class Random(Router):
    """A server at random."""

    name = "random"

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        return self._noise(len(self.rates)).argmax(axis=1), state


class WeightedRandom(Router):
    """A server at random, with probabilities proportional to the service rates."""

    name = "weighted_random"

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        edges = np.cumsum(self.rates) / self.rates.sum()
        actions = np.searchsorted(edges, self._noise(1)[:, 0])
        return np.minimum(actions, len(edges) - 1), state


class RoundRobin(Router):
    """Each server in turn."""

    name = "round_robin"

    @override
    def initial_state(self) -> State:
        return (np.zeros(self.simulator.num_envs, np.int64),)

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        (turn,) = state
        return turn, ((turn + 1) % len(self.rates),)


class WeightedRoundRobin(Router):
    """Each server in proportion to its rate, evenly spread: NGINX's smooth weighted round robin."""

    name = "weighted_round_robin"

    @override
    def initial_state(self) -> State:
        return (np.zeros(self.simulator.servers.shape),)

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        (credit,) = state
        credit = credit + self.rates
        actions = credit.argmax(axis=1)
        credit[np.arange(len(actions)), actions] -= self.rates.sum()
        return actions, (credit,)


class LeastConnections(Router):
    """The server with the fewest requests in flight: NGINX's `least_conn`."""

    name = "least_connections"

    @override
    def costs(self) -> np.ndarray:
        return self.simulator.metrics["in_flight"]


class PowerOfTwo(TwoChoices, LeastConnections):
    """Of two servers drawn at random, the one with fewer requests in flight.

    Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (IEEE TPDS 2001).
    """

    name = "power_of_two"


class ShortestExpectedDelay(Router):
    """The server with the least (requests in flight + 1) / rate: scheduler `sed` of Linux IPVS."""

    name = "shortest_expected_delay"

    @override
    def costs(self) -> np.ndarray:
        return (self.simulator.metrics["in_flight"] + 1) / self.rates


class PeakEwma(Router):
    """The server with the least (requests in flight + 1) * latency.

    The latency is a moving average that jumps to peaks at once. A server without a response so far
    is free for its first request, and avoided until that is answered.

    Source: the load metric of Finagle's `PeakEwma`, applied to all servers.
    """

    name = "peak_ewma"

    @override
    def costs(self) -> np.ndarray:
        seen = self.simulator.metrics
        unknown = np.where(seen["in_flight"] > 0, np.inf, 0.0)
        known = seen["latency_ms"] * (seen["in_flight"] + 1)
        costs = np.where(seen["observed_at_ms"] < 0.0, unknown, known)
        return np.minimum(costs, 1e300)


class PeakEwmaP2c(TwoChoices, PeakEwma):
    """Of two servers drawn at random, the better one by `peak_ewma`: Linkerd 2, Finagle."""

    name = "peak_ewma_p2c"


class OutlierEjection(Router):
    """Least connections among the servers that are not ejected for errors.

    A server is ejected after five errors in a row, or when its error rate exceeds 1 % and the mean
    by 1.9 standard deviations (impossible with fewer than five servers): for 60 mean service times,
    multiplied by the number of the server's ejections so far. At most 10 % of the servers are
    ejected at once, but always one. A server that has returned is judged by new responses only.

    Source: Envoy's outlier detection, with its thresholds, and times relative to service times.
    """

    name = "outlier_ejection"

    @override
    def initial_state(self) -> State:
        """The end of each server's ejection (ms) and how often it was ejected, shape (B, N)."""
        shape = self.simulator.servers.shape
        return np.zeros(shape), np.zeros(shape)

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        until, count = state
        seen, config = self.simulator.metrics, self.simulator.config
        now = self.simulator.episodes["now_ms"][:, None]
        rates = seen["error_rate"]
        threshold = rates.mean(axis=1, keepdims=True) + 1.9 * rates.std(axis=1, keepdims=True)
        outlier = (seen["consecutive_errors"] >= 5) | (rates > np.maximum(threshold, 0.01))
        ejected = until > now
        outlier &= ~ejected & (seen["observed_at_ms"] > until)
        worst = outlier & (rates == np.where(outlier, rates, -1.0).max(axis=1, keepdims=True))
        free_places = max(1, config.num_servers // 10) - ejected.sum(axis=1, keepdims=True)
        eject = worst & (np.cumsum(worst, axis=1) <= free_places)
        count = count + eject
        base_ms = 60.0 * config.size_mean * config.num_servers / sum(config.service_rates)
        until = np.where(eject, now + base_ms * count, until)
        costs = np.where(until > now, np.inf, seen["in_flight"])
        return self._least(costs), (until, count)


class LeastTimeLeft(Router):
    """The server that will be idle first."""

    name = "least_time_left"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        now = self.simulator.episodes["now_ms"][:, None]
        return np.maximum(self.simulator.servers["free_at_ms"] - now, 0.0)


class LeastWork(LeastTimeLeft):
    """The server with the least unfinished work, measured in request sizes.

    Source: Harchol-Balter, Performance Modeling and Design of Computer Systems (2013), chapter 24.
    """

    name = "least_work"

    @override
    def costs(self) -> np.ndarray:
        return super().costs() * self.rates


class EarliestCompletion(Router):
    """The server that would answer this request first, given its size and the servers' faults.

    Source: "minimum completion time" in Maheswaran et al. (J. Parallel Distrib. Comput. 59, 1999).
    """

    name = "earliest_completion"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        return self.simulator.counterfactuals()["response_time_ms"]


class Oracle(Router):
    """The server with the best reward for this request, given its size, faults and errors."""

    name = "oracle"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        return -self.simulator.counterfactuals()["reward"]


_ROUTERS: tuple[type[Router], ...] = (
    Random,
    RoundRobin,
    WeightedRandom,
    WeightedRoundRobin,
    LeastConnections,
    PowerOfTwo,
    ShortestExpectedDelay,
    PeakEwma,
    PeakEwmaP2c,
    OutlierEjection,
    LeastWork,
    LeastTimeLeft,
    EarliestCompletion,
    Oracle,
)
BASELINES: dict[str, type[Router]] = {router.name: router for router in _ROUTERS}
make_baseline = baseline_maker(BASELINES)
