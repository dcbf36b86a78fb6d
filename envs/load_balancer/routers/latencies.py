"""Rules that estimate latencies from each answer: peak EWMA and C3.

Shapes: B environments, M balancers, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.load_balancer.routers.answers import hear_peaks, hear_queues
from grpo_gym.envs.load_balancer.routers.router import Memory, Router, State
from grpo_gym.settings import Positive, PositiveFraction

_PENALTY_MS = 1e14
"""Load of a server whose first answer is still to come."""


class PeakEwma(Router):
    """The least (requests in flight + 1) * latency; not the best of two but of all servers.

    The latency is a moving average that jumps to peaks at once and decays towards 0, with or
    without answers, with the time constant `decay_ms`:
        w = exp(-elapsed / decay_ms), latency <- w * latency + (1 - w) * response,
    where the time elapses since the last answer or look at it. So a server that was slow once is
    tried again. One without an answer so far is free for its first request, and then avoided
    until it has answered.

    Source: Finagle, `PeakEwma.scala`; `peak_ewma_p2c` is the rule as Finagle and Linkerd have it.
    """

    name = "peak_ewma"
    decay_ms: Positive = 10_000.0

    @override
    def memory(self) -> Memory:
        """Latencies, when they were updated and until when they are known (ms), and first slots."""
        shape = self.weights.shape
        return np.zeros(shape), np.zeros(shape), np.full(shape, -1.0), np.zeros(shape[0], np.int64)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        latencies_ms, updated_ms, heard_ms, cursors = memory
        seen, now_ms = self.seen, self.now_ms[:, None]
        if self.has_queues:
            hear_peaks(self.log, self.simulator.episodes, seen, self.decay_ms, *memory)
        weight = np.exp(-np.maximum(now_ms - updated_ms, 0.0) / self.decay_ms)
        decayed_ms = weight * latencies_ms
        if not self.has_queues:  # each server's latency is known at each request
            sample_ms = seen["latency_ms"]
            mixed_ms = decayed_ms + (1.0 - weight) * sample_ms
            decayed_ms = np.where(sample_ms > latencies_ms, sample_ms, mixed_ms)
        pending = seen["in_flight"]
        costs = np.where(
            (decayed_ms == 0.0) & (pending > 0), _PENALTY_MS + pending, decayed_ms * (pending + 1)
        )
        actions, looked_at = self._pick(costs)
        looked_at = looked_at | (not self.has_queues)
        latencies_ms = np.where(looked_at, decayed_ms, latencies_ms)
        updated_ms = np.where(looked_at, now_ms, updated_ms)
        return actions, (latencies_ms, updated_ms, heard_ms, cursors)

    @override
    def rewind(self, state: State) -> State:
        return _rewound(state)

    def _pick(self, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chosen servers, shape (B,), and which were looked at, shape (B, N), bool."""
        return self._least(costs), np.ones(costs.shape, np.bool_)


class PeakEwmaP2c(PeakEwma):
    """Of two servers drawn at random, the better one by `peak_ewma`: Finagle, Linkerd 2."""

    name = "peak_ewma_p2c"

    @override
    def _pick(self, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (first, second), members = self._draw_pair(), np.arange(len(costs))
        looked_at = np.zeros(costs.shape, np.bool_)
        looked_at[members, first] = looked_at[members, second] = True
        better = costs[members, second] < costs[members, first]
        return np.where(better, second, first), looked_at


class C3(Router):
    """The least rank R - S + q^3 S, with q = 1 + requests in flight * balancers + queue.

    R and the queue are moving averages, of weight `weight`, of response times and of the requests
    that a server had left, which it reports with each answer, like its mean service time S. After
    each choice, the averages of all other servers are moved half way towards those of the chosen
    one, as if that were an answer: a server that was slow is tried again. One without an answer so
    far is first in line for one request, and last until that is answered.

    Source: Suresh et al., C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica
    Selection (NSDI 2015), as Elasticsearch has it in `ResponseCollectorService.java` and
    `IndexShardRoutingTable.java`, without its rounding to whole numbers.
    """

    name = "c3"
    weight: PositiveFraction = 0.3

    @override
    def memory(self) -> Memory:
        """Queues, response and service times, until when they are known (ms), and first slots."""
        shape = self.weights.shape
        unknown = [np.full(shape, -1.0) for _ in range(4)]
        return *unknown, np.zeros(shape[0], np.int64)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        queues, responses_ms, services_ms, heard_ms, cursors = memory
        seen = self.seen
        pending = seen["in_flight"]
        if self.has_queues:
            hear_queues(self.log, self.simulator.episodes, seen, self.weight, *memory)
        else:  # each server's latency is known at each request, and there is no service
            share = np.where(responses_ms < 0.0, 1.0, self.weight)
            queues = queues + share * (pending - queues)
            responses_ms = responses_ms + share * (seen["latency_ms"] - responses_ms)
            services_ms = np.zeros(queues.shape)
        q = 1.0 + pending * self.simulator.setting("num_balancers")[:, None] + queues
        ranks = responses_ms - services_ms + q**3 * services_ms
        untried = np.where(pending > 0, np.inf, -np.inf)
        actions = self._least(np.where(responses_ms < 0.0, untried, ranks))
        averages = [self._recover(each, actions) for each in (queues, responses_ms, services_ms)]
        return actions, (*averages, heard_ms, cursors)

    @override
    def rewind(self, state: State) -> State:
        return _rewound(state)

    def _recover(self, averages: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Move known averages half way towards those of the chosen servers, by `weight`."""
        chosen = averages[np.arange(len(actions)), actions][:, None]
        known = (averages >= 0.0) & (chosen >= 0.0)
        return np.where(known, averages + 0.5 * self.weight * (chosen - averages), averages)


def _rewound(state: State) -> State:
    """The state with its last array, the first slots that may have news, at the log's start."""
    return *state[:-1], np.zeros_like(state[-1])
