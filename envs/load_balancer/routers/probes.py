"""Probes: what servers answer to them, and the pool in which a balancer keeps the answers.

Shapes: B environments, N servers, P places of a pool, R tries, T + 1 steps.
"""

from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.routers.answers import is_sent

PROBE = np.dtype(
    [
        ("latency_ms", "f8"),
        ("probed_ms", "f8"),
        ("server", "i4"),
        ("in_flight", "i4"),
        ("uses_left", "i4"),
        ("unused", "u1", (4,)),
    ]
)
"""What a server answered; the server is -1 in a free place. No gaps, as in `SERVER`."""

FREE = -1
SAMPLES = 16
"""Answers of a server of which a median is taken, at most."""


class Scratch(NamedTuple):
    """Arrays that the kernel overwrites, for K probes."""

    order: np.ndarray
    """Present servers, shape (N,), int64; the K servers to ask come first."""
    responses_ms: np.ndarray
    """Response times of their recent answers, shape (K, SAMPLES), float64."""
    in_flight: np.ndarray
    """Requests in flight when those requests arrived, shape (K, SAMPLES), int64."""
    counts: np.ndarray
    """How many there are, shape (K,), int64."""
    numbers: np.ndarray
    """As many as the pool has places and SAMPLES, float64."""


@kernel
def pool_size(pool: np.ndarray, b: int) -> int:
    """Number of probes in the pool of environment b."""
    size = 0
    for i in range(pool.shape[1]):
        size += pool[b, i].server >= 0
    return size


@kernel
def hot_limit(pool: np.ndarray, b: int, quantile: float, scratch: np.ndarray) -> float:
    """The requests in flight above which a probe is hot: a quantile of those in the pool.

    Of k probes in order it is number floor((k - 1) * quantile), counted from 0.
    """
    size = 0
    for i in range(pool.shape[1]):
        if pool[b, i].server >= 0:
            scratch[size] = pool[b, i].in_flight
            size += 1
    sort_first(scratch, size)
    return scratch[int((size - 1) * quantile)] if size > 0 else 0.0


@kernel
def best_probe(pool: np.ndarray, b: int, limit: float) -> int:
    """The cold probe of least latency, or if all are hot, that of fewest requests in flight.

    Ties go by the other number. `limit` is `hot_limit`; without any probe the answer is -1.
    """
    best, best_hot = FREE, True
    for i in range(pool.shape[1]):
        probe = pool[b, i]
        if probe.server < 0:
            continue
        hot = probe.in_flight > limit
        better = best < 0 or hot < best_hot
        if not better and hot == best_hot:
            in_flight = np.float64(probe.in_flight - pool[b, best].in_flight)
            latency_ms = probe.latency_ms - pool[b, best].latency_ms
            major, minor = (in_flight, latency_ms) if hot else (latency_ms, in_flight)
            better = major < 0.0 or (major == 0.0 and minor < 0.0)
        if better:
            best, best_hot = i, hot
    return best


@kernel
def worst_probe(pool: np.ndarray, b: int, limit: float) -> int:
    """The hot probe of most requests in flight, or if all are cold, that of largest latency.

    `limit` is `hot_limit`; without any probe the answer is -1.
    """
    worst, worst_hot = FREE, False
    for i in range(pool.shape[1]):
        probe = pool[b, i]
        if probe.server < 0:
            continue
        hot = probe.in_flight > limit
        worse = worst < 0 or hot > worst_hot
        if not worse and hot == worst_hot:
            least = pool[b, worst]
            if hot:
                worse = probe.in_flight > least.in_flight
            else:
                worse = probe.latency_ms > least.latency_ms
        if worse:
            worst, worst_hot = i, hot
    return worst


@kernel
def oldest_probe(pool: np.ndarray, b: int) -> int:
    """The probe that was answered first, or -1 if there is none."""
    oldest = FREE
    for i in range(pool.shape[1]):
        if pool[b, i].server >= 0 and (
            oldest < 0 or pool[b, i].probed_ms < pool[b, oldest].probed_ms
        ):
            oldest = i
    return oldest


@kernel
def place_for(pool: np.ndarray, b: int, server: int) -> int:
    """Where a probe of a server goes: in the place of its older one, a free one, or the oldest."""
    free = FREE
    for i in range(pool.shape[1]):
        if pool[b, i].server == server:
            return i
        if pool[b, i].server < 0:
            free = i
    return free if free >= 0 else oldest_probe(pool, b)


@kernel
def find_answers(log: np.ndarray, b: int, episode: Any, age_ms: float, scratch: Scratch) -> None:
    """Find the latest answers of the K servers to ask, at most `SAMPLES` of each.

    Args:
        log: The requests, shape (B, R, T + 1).
        b: The environment.
        episode: Its `EPISODE` record.
        age_ms: Requests of steps before that are too old.
        scratch: Names the servers, and receives what is found.
    """
    asked, tries, now_ms = scratch.counts.shape[0], log.shape[1], episode.now_ms
    scratch.counts[:] = 0
    wanting = asked
    for i in range(tries * episode.step - 1, -1, -1):
        if log[b, 0, i // tries].arrival_ms < now_ms - age_ms or wanting == 0:
            break
        request = log[b, i % tries, i // tries]
        if not is_sent(request, now_ms) or request.departure_ms > now_ms:
            continue
        for k in range(asked):
            found = scratch.counts[k]
            if request.server == scratch.order[k] and found < SAMPLES:
                scratch.responses_ms[k, found] = request.response_ms
                scratch.in_flight[k, found] = request.in_flight
                scratch.counts[k] = found + 1
                wanting -= found + 1 == SAMPLES


@kernel
def similar_latency(k: int, in_flight: int, scratch: Scratch) -> float:
    """The median response time of a server's answers at a similar number in flight.

    Similar are those whose requests in flight differ least from `in_flight`, or by one. Of an even
    number the upper middle one counts; of none it is 0: a server that was slow is tried again.
    """
    nearest, similar = np.iinfo(np.int64).max, 0
    for i in range(scratch.counts[k]):
        nearest = min(nearest, abs(scratch.in_flight[k, i] - in_flight))
    for i in range(scratch.counts[k]):
        if abs(scratch.in_flight[k, i] - in_flight) <= max(nearest, 1):
            scratch.numbers[similar] = scratch.responses_ms[k, i]
            similar += 1
    sort_first(scratch.numbers, similar)
    return scratch.numbers[similar // 2] if similar > 0 else 0.0


@kernel
def sort_first(numbers: np.ndarray, count: int) -> None:
    """Sort the first `count` numbers in place."""
    for i in range(1, count):
        value, j = numbers[i], i
        while j > 0 and numbers[j - 1] > value:
            numbers[j] = numbers[j - 1]
            j -= 1
        numbers[j] = value
