"""The routing heuristics that users would otherwise run, with a trained model's `predict`.

They read the metrics that the policy observes, except for `least_work`, `least_time_left`,
`earliest_completion` and `oracle`, which look into the simulator.

Shapes: B environments, N servers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from grpo_gym.envs.baseline import Baseline
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.settings import ConfigError, suggest


class Router(Baseline):
    """A routing heuristic.

    Attributes:
        rates: Service rate of each server, shape (N,), float64.
    """

    simulator_class = LoadBalancerSimulator

    def __init__(self, env: Any, seed: int = 0) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed)
        self.rates = self.simulator.config.per_server("service_rates")

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`; by default the server of least `costs`."""
        return self._least(self.costs()), state

    def costs(self) -> np.ndarray:
        """What choosing each server is thought to cost, shape (B, N)."""
        raise NotImplementedError

    def _least(self, costs: np.ndarray) -> np.ndarray:
        """The server of least cost, ties broken at random, shape (B,)."""
        tied = costs == costs.min(axis=1, keepdims=True)
        return np.where(tied, self._noise(costs.shape[1]), 0.0).argmax(axis=1)

    def _better_of_two(self, costs: np.ndarray) -> np.ndarray:
        """The cheaper of two distinct servers drawn at random, shape (B,)."""
        servers = costs.shape[1]
        first, second = (self._noise(2) * [servers, max(servers - 1, 1)]).astype(np.int64).T
        # The noise is in (0, 1]: the rare 1 wraps to 0.
        first, second = first % servers, second % max(servers - 1, 1)
        second = (first + 1 + second) % servers
        members = np.arange(len(first))
        return np.where(costs[members, second] < costs[members, first], second, first)


class Random(Router):
    """A server at random."""

    name = "random"

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        return self._noise(len(self.rates)).argmax(axis=1), state


class WeightedRandom(Router):
    """A server at random, in proportion to its rate."""

    name = "weighted_random"

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        edges = np.cumsum(self.rates) / self.rates.sum()
        actions = np.searchsorted(edges, self._noise(1)[:, 0])
        return np.minimum(actions, len(edges) - 1), state


class RoundRobin(Router):
    """Each server in turn."""

    name = "round_robin"

    def initial_state(self) -> tuple[np.ndarray, ...]:
        """The server whose turn it is, shape (B,)."""
        return (np.zeros(self.simulator.num_envs, np.int64),)

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        (turn,) = state
        return turn, ((turn + 1) % len(self.rates),)


class WeightedRoundRobin(Router):
    """Each server in proportion to its rate, evenly spread (NGINX's smooth weighted variant)."""

    name = "weighted_round_robin"

    def initial_state(self) -> tuple[np.ndarray, ...]:
        """Credit of each server, shape (B, N)."""
        return (np.zeros(self.simulator.servers.shape),)

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        credit = state[0] + self.rates
        actions = credit.argmax(axis=1)
        credit[np.arange(len(actions)), actions] -= self.rates.sum()
        return actions, (credit,)


class LeastConnections(Router):
    """The server with the fewest requests in flight: join the shortest queue."""

    name = "least_connections"

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        return self.simulator.metrics["in_flight"]


class PowerOfTwo(LeastConnections):
    """The one with fewer requests in flight of two servers drawn at random."""

    name = "power_of_two"

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        return self._better_of_two(self.costs()), state


class ShortestExpectedDelay(Router):
    """The least (requests in flight + 1) / rate."""

    name = "shortest_expected_delay"

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        return (self.simulator.metrics["in_flight"] + 1) / self.rates


class PeakEwma(Router):
    """The least latency average, which jumps to peaks, times requests in flight (Finagle)."""

    name = "peak_ewma"

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`; a server not heard of yet is free once, then to be avoided."""
        seen = self.simulator.metrics
        unknown = np.where(seen["in_flight"] > 0, np.inf, 0.0)
        known = seen["peak_latency_ms"] * (seen["in_flight"] + 1)
        costs = np.where(seen["observed_at_ms"] < 0.0, unknown, known)
        return np.minimum(costs, 1e300)


class PeakEwmaP2c(PeakEwma):
    """The better by `peak_ewma` of two servers drawn at random (Finagle, linkerd)."""

    name = "peak_ewma_p2c"

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        return self._better_of_two(self.costs()), state


class OutlierEjection(Router):
    """Least connections among servers that are not ejected for errors (after Envoy).

    A server is ejected after five errors in a row, or when its error rate exceeds the mean by
    1.9 standard deviations and 1 %; for 60 mean service times, times the number of its
    ejections; at most 10 % of servers at once, but one at least. Back again, it stays until a
    new response of it says otherwise. As in Envoy, fewer than five servers are too few for the
    deviation to single one out.
    """

    name = "outlier_ejection"

    def initial_state(self) -> tuple[np.ndarray, ...]:
        """When each ejection ends (ms) and how many there were, both shape (B, N)."""
        shape = self.simulator.servers.shape
        return np.zeros(shape), np.zeros(shape)

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Baseline.choose`."""
        until, count = state
        seen = self.simulator.metrics
        now = self.simulator.episodes["now_ms"][:, None]
        rates = seen["error_rate"]
        threshold = rates.mean(axis=1, keepdims=True) + 1.9 * rates.std(axis=1, keepdims=True)
        outlier = (seen["consecutive_errors"] >= 5) | (rates > np.maximum(threshold, 0.01))
        ejected = until > now
        free_places = max(1, len(self.rates) // 10) - ejected.sum(axis=1)
        outlier &= ~ejected & (seen["observed_at_ms"] > until)
        worst = outlier & (rates == np.where(outlier, rates, -1.0).max(axis=1, keepdims=True))
        eject = worst & (np.cumsum(worst, axis=1) <= free_places[:, None])
        count = count + eject
        config = self.simulator.config
        base_ms = 60.0 * config.size_mean * config.num_servers / sum(config.service_rates)
        until = np.where(eject, now + base_ms * count, until)
        costs = np.where(until > now, np.inf, seen["in_flight"])
        return self._least(costs), (until, count)


class LeastTimeLeft(Router):
    """The server that will be free first."""

    name = "least_time_left"
    privileged = True

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        now = self.simulator.episodes["now_ms"][:, None]
        return np.maximum(self.simulator.servers["free_at_ms"] - now, 0.0)


class LeastWork(LeastTimeLeft):
    """The server with the least unfinished work, in the sizes that are left to serve."""

    name = "least_work"

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        return super().costs() * self.rates


class EarliestCompletion(Router):
    """The server that would answer this request first: knows its size and the faults."""

    name = "earliest_completion"
    privileged = True

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        return self.simulator.counterfactuals()["response_time_ms"]


class Oracle(Router):
    """The server with the best reward for this request: knows its size, faults and errors."""

    name = "oracle"
    privileged = True

    def costs(self) -> np.ndarray:
        """See `Baseline.costs`."""
        return -self.simulator.counterfactuals()["reward"]


BASELINES: dict[str, Callable[..., Router]] = {
    baseline.name: baseline
    for baseline in (
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
}


def make_baseline(name: str, env: Any, seed: int = 0) -> Router:
    """A baseline by its name, bound to an environment.

    Raises:
        ConfigError: If there is none of that name, or `env` is not a load balancer.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}.{suggest(str(name), BASELINES)}")
    return BASELINES[name](env, seed)
