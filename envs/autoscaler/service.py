"""How fast replicas serve under a configuration, and how long responses take."""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.queueing import sojourn_percentile, sojourn_tail
from grpo_gym.envs.autoscaler.records import BATCH_SIZES, CONCURRENCIES, NEUTRAL_CONCURRENCY
from grpo_gym.envs.kernels import inlined, kernel

_BATCHES = np.array(BATCH_SIZES, np.float64)
_CONCURRENCIES = np.array(CONCURRENCIES)


@kernel
def slowdown(concurrency: int, contention: float, coherency: float) -> float:
    """How many times longer a service takes than with four servers in a replica.

    With n servers a replica does n / (1 + contention (n - 1) + coherency n (n - 1)) times the work
    of one alone, so each of them is slower by the divisor.

    Source: Gunther, Guerrilla Capacity Planning (2007): the universal scalability law.
    """
    n, neutral = concurrency, NEUTRAL_CONCURRENCY
    own = 1.0 + contention * (n - 1) + coherency * n * (n - 1)
    return own / (1.0 + contention * (neutral - 1) + coherency * neutral * (neutral - 1))


@kernel
def batch_fill(largest: float, rate: float, wait_s: float) -> tuple[float, float]:
    """Size of the batches that a replica makes, and how long their first request waits for more.

    A batch goes when it is full, or when its first request has waited `wait_s`.

    Args:
        largest: Requests in a full batch.
        rate: Requests/s that arrive at the replica.
        wait_s: How long a batch waits at most.

    Returns:
        Mean size, from 1 to `largest`, and the wait in seconds; 1 and 0 for `largest` = 1.
    """
    size = 1.0 + min(largest - 1.0, rate * wait_s)
    return size, (size - 1.0) / rate if size > 1.0 else 0.0


@inlined
def batch_service(rate: float, cluster: Any, p: Any) -> tuple[float, float, float]:
    """Mean size of batches, the wait of their first request, and their mean service time, in s."""
    size, fill_s = batch_fill(
        _BATCHES[cluster.batch], rate / cluster.running, 0.001 * p.batch_wait_ms
    )
    service_s = 0.001 * (p.batch_overhead_ms + size * p.request_ms)
    service_s *= slowdown(_CONCURRENCIES[cluster.concurrency], p.contention, p.coherency)
    return size, fill_s, service_s


@kernel
def replica_capacity(cluster: Any, p: Any) -> float:
    """Requests/s that a replica can serve with full batches."""
    servers = _CONCURRENCIES[cluster.concurrency]
    service_ms = p.batch_overhead_ms + _BATCHES[cluster.batch] * p.request_ms
    service_ms *= slowdown(servers, p.contention, p.coherency)
    return 1000.0 * servers * _BATCHES[cluster.batch] / service_ms


@kernel
def response_s(
    exceeded: float,
    share: float,
    waiting: float,
    drain: float,
    service_s: float,
    delay_s: float,
    p: Any,
) -> float:
    """The time that responses of both regions together exceed with this probability, in seconds.

    Args:
        exceeded: Such as 0.01 for the 99th percentile.
        share: Of the traffic in the own region; the second one answers without queueing.
        waiting: Probability of a wait in the own region.
        drain: Rate of waiting times there, in services.
        service_s: Mean service time there.
        delay_s: What comes on top of the sojourn there.
        p: A `PARAMETERS` record.
    """
    own_s = delay_s + service_s * sojourn_percentile(exceeded, waiting, drain)
    if share == 1.0:
        return own_s
    way_s = 0.001 * p.remote_latency_ms
    remote_service_s = 0.001 * (p.batch_overhead_ms + p.request_ms)
    remote_s = way_s - remote_service_s * math.log(exceeded)
    low, high = min(own_s, remote_s), max(own_s, remote_s)
    for _ in range(60):
        middle = 0.5 * (low + high)
        own = sojourn_tail((middle - delay_s) / service_s, waiting, drain)
        remote = math.exp(min(0.0, (way_s - middle) / remote_service_s))
        if share * own + (1.0 - share) * remote > exceeded:
            low = middle
        else:
            high = middle
    return high
