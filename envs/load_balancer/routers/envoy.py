"""Envoy's least request with weights and slow start, and its outlier detection.

Shapes: B environments, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.load_balancer.routers.router import Memory, Router
from grpo_gym.settings import NonNegative, Positive

_MANY_ERRORS = 5
"""Errors in a row that count as a failure: `consecutive_5xx`."""
_LEAST_SHARE = 0.1
"""Share of its weight that a server has at least in slow start: `min_weight_percent`."""


class EnvoyLeastRequest(Router):
    """Envoy's `LEAST_REQUEST`.

    With equal weights: of two servers drawn at random, which may be the same one, the one with
    fewer requests in flight; the first of equals. Otherwise servers have deadlines, and the
    earliest is next; it gets another deadline 1 / weight later, where
        weight = configured weight / (requests in flight + 1)^active_request_bias.

    A server that answers correctly again after five errors in a row is in slow start: for
    `slow_start_ms` its weight is multiplied by max(10 %, (t / slow_start_ms)^(1 / aggression)), t
    being the time since then, at least 1 ms. Envoy asks health checks; here these errors are one.

    Source: Envoy, `least_request_lb.cc`, `edf_scheduler.h` and `load_balancer_impl.cc`.
    """

    name = "envoy_least_request"
    active_request_bias: NonNegative = 1.0
    slow_start_ms: NonNegative = 0.0
    aggression: Positive = 1.0

    @override
    def memory(self) -> Memory:
        """Deadlines, their order and the schedule's time; who fails, and who is back since (ms)."""
        shape = self.weights.shape
        deadlines = np.where(self.present, 1.0 / np.where(self.present, self.weights, 1.0), np.inf)
        order = np.broadcast_to(np.arange(shape[1]), shape)
        failing, back_ms = np.zeros(shape, np.bool_), np.full(shape, -np.inf)
        return deadlines, order, np.zeros(shape[0]), failing, back_ms

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        deadlines, order, time, failing, back_ms = memory
        members, seen = np.arange(len(time)), self.seen
        back = failing & (seen["consecutive_errors"] == 0)
        back_ms = np.where(back, self.now_ms[:, None], back_ms)
        failing = ~back & (failing | (seen["consecutive_errors"] >= _MANY_ERRORS))
        base = self.weights * self._slow_start(back_ms)
        first, second = self._draw_pair(replace=True)
        fewer = seen["in_flight"][members, second] < seen["in_flight"][members, first]
        drawn = np.where(fewer, second, first)

        earliest = deadlines == deadlines.min(axis=1, keepdims=True)
        due = np.where(earliest, order, order.max() + 1).argmin(axis=1)
        equal = ((base == base.max(axis=1, keepdims=True)) | ~self.present).all(axis=1)
        actions = np.where(equal, drawn, due)
        weights = base / (seen["in_flight"] + 1.0) ** self.active_request_bias
        moves = members[~equal], due[~equal]
        time = np.where(equal, time, deadlines[members, due])
        deadlines[moves] = time[~equal] + 1.0 / weights[moves]
        order[moves] = order.max(axis=1)[~equal] + 1
        return actions, (deadlines, order, time, failing, back_ms)

    def _slow_start(self, back_ms: np.ndarray) -> np.ndarray:
        """What each weight is multiplied by, shape (B, N)."""
        if self.slow_start_ms == 0.0:
            return np.ones(back_ms.shape)
        since_ms = np.maximum(self.now_ms[:, None] - back_ms, 1.0)
        share = np.minimum(since_ms / self.slow_start_ms, 1.0) ** (1.0 / self.aggression)
        return np.maximum(share, _LEAST_SHARE)


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
    def memory(self) -> Memory:
        """The end of each server's ejection (ms) and how often it was ejected, shape (B, N)."""
        shape = self.weights.shape
        return np.zeros(shape), np.zeros(shape)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        until, count = memory
        seen, present, now = self.seen, self.present, self.now_ms[:, None]
        rates, servers = seen["error_rate"], present.sum(axis=1, keepdims=True)
        mean = rates.mean(axis=1, keepdims=True, where=present)
        threshold = mean + 1.9 * rates.std(axis=1, keepdims=True, where=present)
        outlier = (seen["consecutive_errors"] >= _MANY_ERRORS) | (
            rates > np.maximum(threshold, 0.01)
        )
        ejected = until > now
        outlier &= present & ~ejected & (seen["observed_at_ms"] > until)
        worst = outlier & (rates == np.where(outlier, rates, -1.0).max(axis=1, keepdims=True))
        free_places = np.maximum(1, servers // 10) - ejected.sum(axis=1, keepdims=True)
        eject = worst & (np.cumsum(worst, axis=1) <= free_places)
        count = count + eject
        # The unit of times in features is a tenth of a mean service time.
        base_ms = 600.0 * self.simulator.setting("feature_time_ms")[:, None]
        until = np.where(eject, now + base_ms * count, until)
        costs = np.where(until > now, np.inf, seen["in_flight"])
        return self._least(costs), (until, count)
