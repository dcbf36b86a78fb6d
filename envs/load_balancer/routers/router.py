"""The base of all routing rules: what they read, who may be chosen, and a memory per balancer.

Shapes: B environments, M balancers, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.baseline import Baseline
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

Memory = tuple[np.ndarray, ...]
State = tuple[np.ndarray, ...]

_WORST = 1e300
"""What bad servers cost at most: less than absent ones."""


class Router(Baseline):
    """A routing rule; by default it takes the server of least `costs`.

    It reads what the balancer of the waiting request sees. Several balancers share nothing: each
    has a memory of its own.
    """

    simulator_class = LoadBalancerSimulator

    @override
    def initial_state(self) -> State:
        balancers = self.simulator.num_balancers
        return tuple(np.repeat(each[:, None], balancers, axis=1) for each in self.memory())

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        rows = np.arange(self.simulator.num_envs), self.simulator.episodes["balancer"]
        actions, memory = self.decide(tuple(each[rows] for each in state))
        state = tuple(each.copy() for each in state)
        for whole, own in zip(state, memory, strict=True):
            whole[rows] = own
        return actions, state

    def memory(self) -> Memory:
        """What a balancer remembers at an episode's start: arrays whose first axis is B."""
        return ()

    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        """Choose for the waiting requests.

        Args:
            memory: Of their balancers; the arrays may be overwritten.

        Returns:
            Servers, shape (B,), int64, and the new memory.
        """
        return self._least(self.costs()), memory

    def rewind(self, state: State) -> State:
        """The state after requests have moved in the log: it is read from its start again.

        A simulator's log never moves. One of real requests has no end, and drops old ones.
        """
        return state

    def costs(self) -> np.ndarray:
        """Estimate what choosing each server would cost, shape (B, N)."""
        raise NotImplementedError

    @property
    def seen(self) -> np.ndarray:
        """The servers as the balancer of the waiting request sees them: `SERVER`, shape (B, N)."""
        records: np.ndarray = self.simulator.seen
        return records

    @property
    def present(self) -> np.ndarray:
        """Which servers there are, shape (B, N), bool: fleets are padded to the largest."""
        flags: np.ndarray = self.simulator.present
        return flags

    @property
    def weights(self) -> np.ndarray:
        """Configured weights of the servers, shape (B, N), float64; 0 for absent ones."""
        weights: np.ndarray = self.simulator.weights
        return weights

    @property
    def now_ms(self) -> np.ndarray:
        """The time, shape (B,), float64."""
        times: np.ndarray = self.simulator.episodes["now_ms"]
        return times

    @property
    def log(self) -> np.ndarray:
        """The requests, `REQUEST`, shape (B, R, T + 1): by step, and with retries (R = 2) those.

        The steps before the current one are of this episode.
        """
        requests: np.ndarray = self.simulator.requests
        return requests.reshape(len(requests), -1, self.simulator.arrivals.shape[1])

    @property
    def has_queues(self) -> bool:
        """Whether there is a log of requests; load that decays has only current metrics."""
        return bool(self.simulator.config.dynamics == "queue")

    def _least(self, costs: np.ndarray) -> np.ndarray:
        """The present server of least cost, ties broken at random, shape (B,)."""
        costs = np.where(self.present, np.minimum(costs, _WORST), np.inf)
        tied = costs == costs.min(axis=1, keepdims=True)
        return np.where(tied, self._noise(costs.shape[1]), 0.0).argmax(axis=1)

    def _draw_pair(self, replace: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Two present servers drawn at random, each of shape (B,); distinct unless `replace`."""
        count = self.present.sum(axis=1)
        others = count if replace else np.maximum(count - 1, 1)
        counts = np.stack([count, others], axis=1)
        # The noise is in (0, 1]: the rare 1 wraps to 0.
        first, second = ((self._noise(2) * counts).astype(np.int64) % counts).T
        if not replace:
            second = (first + 1 + second) % count
        return self._server(first), self._server(second)

    def _server(self, rank: np.ndarray) -> np.ndarray:
        """The present server of each rank, shape (B,); ranks count from 0."""
        if self.present.all():
            return rank
        order = np.argsort(~self.present, axis=1, kind="stable")
        return order[np.arange(len(rank)), rank]


class TwoChoices(Router):
    """A rule that takes the cheaper of two distinct servers drawn at random."""

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        costs, members = self.costs(), np.arange(self.simulator.num_envs)
        first, second = self._draw_pair()
        return np.where(costs[members, second] < costs[members, first], second, first), memory
