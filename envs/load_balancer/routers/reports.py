"""A rule that follows what servers report of their load: Envoy's client-side weighted round robin.

Shapes: B environments, N servers, R tries, T + 1 steps; the log has shape (B, R, T + 1).
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.routers.answers import is_sent
from grpo_gym.envs.load_balancer.routers.router import Memory, Router
from grpo_gym.envs.load_balancer.routers.turns import smooth_turn, whole_weights
from grpo_gym.settings import NonNegative, Positive


class ClientSideWeightedRoundRobin(Router):
    """Weighted round robin, with weights from the servers' reports.

    weight = answers per second / (utilisation + `error_penalty` * errors / answers)
    Every `update_ms` the balancer takes over what each server has reported of the time since then:
    its answers to all balancers, how many were errors, and answers times mean service time as its
    utilisation. A report counts when the server's first one is `blackout_ms` old, until it has not
    answered for `expiry_ms`. Servers without one that counts get the median of the others, and
    without any all are equal. Defaults are Envoy's; a short episode is over before they matter.

    Source: Envoy, `client_side_weighted_round_robin_lb.cc`.
    """

    name = "client_side_weighted_round_robin"
    update_ms: Positive = 1_000.0
    blackout_ms: NonNegative = 10_000.0
    expiry_ms: Positive = 180_000.0
    error_penalty: NonNegative = 1.0

    @override
    def memory(self) -> Memory:
        """Reports (0: none), first answers (ms), weights, the next update (ms), and balances."""
        shape = self.weights.shape
        reports, first_ms, weights = np.zeros(shape), np.full(shape, np.inf), np.ones(shape)
        return reports, first_ms, weights, np.zeros(shape[0]), np.zeros(shape, np.int64)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        reports, first_ms, weights, next_ms, credit = memory
        now_ms, answered_ms = self.now_ms, self.seen["observed_at_ms"]
        due = np.flatnonzero(now_ms >= next_ms) if self.has_queues else np.zeros(0, np.int64)
        if len(due):
            reports[due] = self._read(due, reports[due])
            heard = answered_ms >= np.maximum(now_ms[:, None] - self.expiry_ms, 0.0)
            first_ms = np.where(heard, np.minimum(first_ms, answered_ms), np.inf)
            counts = self.present & (reports > 0.0)
            counts &= first_ms <= now_ms[:, None] - self.blackout_ms
            weights[due] = _or_median(reports[due], counts[due])
            next_ms[due] = now_ms[due] + self.update_ms
        whole = whole_weights(np.where(self.present, weights, 0.0))
        actions, credit = smooth_turn(credit, whole, self.present)
        return actions, (reports, first_ms, weights, next_ms, credit)

    def _read(self, due: np.ndarray, reports: np.ndarray) -> np.ndarray:
        """The latest reports in the environments `due`; the old ones where nothing was answered."""
        answers, errors = np.zeros(reports.shape), np.zeros(reports.shape)
        count_answers(self.log, due, self.simulator.episodes, self.update_ms, answers, errors)
        use = np.minimum(answers * self.seen["service_ms"][due] / self.update_ms, 1.0)
        use += self.error_penalty * errors / np.maximum(answers, 1.0)
        per_s = answers * 1_000.0 / self.update_ms
        return np.where(use > 0.0, per_s / np.where(use > 0.0, use, 1.0), reports)


def _or_median(reports: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The reports that count, and for others the median of those; 1 if there are none."""
    ordered, known = np.sort(np.where(counts, reports, np.inf), axis=1), counts.sum(axis=1)
    rows, middle = np.arange(len(known)), np.maximum(known - 1, 0)
    median = 0.5 * (ordered[rows, middle // 2] + ordered[rows, (middle + 1) // 2])
    return np.where(counts, reports, np.where(known > 0, median, 1.0)[:, None])


@kernel
def count_answers(
    log: np.ndarray,
    members: np.ndarray,
    episodes: np.ndarray,
    period_ms: float,
    answers: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Count the answers and errors of the last `period_ms`, shape (len(members), N), added up."""
    for i in range(members.shape[0]):
        b = members[i]
        now_ms = episodes[b].now_ms
        for step in range(episodes[b].step):
            for k in range(log.shape[1]):
                request = log[b, k, step]
                recent = now_ms - period_ms < request.departure_ms <= now_ms
                if recent and is_sent(request, now_ms):
                    answers[i, request.server] += 1.0
                    errors[i, request.server] += request.error
