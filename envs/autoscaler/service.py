"""How fast replicas serve under a configuration, and how long responses take."""

import math
from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.autoscaler import queueing, records
from grpo_gym.envs.kernels import inlined, kernel

_BATCHES = np.array(records.BATCH_SIZES, np.float64)
_CONCURRENCIES = np.array(records.CONCURRENCIES)
_TIMEOUTS_S = np.array(records.TIMEOUTS_S)


class Queue(NamedTuple):
    """The servers of a cluster during one step, and the queue of batches before them."""

    rate: float
    capacity: float
    """Arriving and largest possible requests/s."""
    room: float
    """Longest backlog, in requests."""
    size: float
    fill_s: float
    service_s: float
    """Requests in a mean batch, its time to fill up, and its service time."""
    load: float
    """Offered load, in servers."""
    waiting: float
    drain: float
    """Probability of a wait, and rate of waiting times per mean service time."""
    timeout_s: float
    """Time after which clients give up."""


@inlined
def queue_of(rate: float, cluster: Any, p: Any) -> Queue:
    """Compute the queue of a cluster at which `rate` requests/s arrive.

    Waits are those of Poisson arrivals and exponential service times the mean of the squared
    coefficients of variation of arrivals and service.

    Source: Allen, Probability, Statistics and Queueing Theory (1990): Allen and Cunneen's G/G/c.
    """
    concurrency = _CONCURRENCIES[cluster.concurrency]
    servers = cluster.running * concurrency
    size, fill_s = batch_fill(
        _BATCHES[cluster.batch], rate / cluster.running, 0.001 * p.batch_wait_ms
    )
    service_s = 0.001 * (p.batch_overhead_ms + size * p.request_ms)
    service_s *= slowdown(concurrency, p.contention, p.coherency)
    capacity = servers * size / service_s
    timeout_s = _TIMEOUTS_S[cluster.timeout]
    room = capacity * min(p.patience_s, timeout_s)
    # The customers of the queue are batches; those of n requests arrive n times as regularly.
    load = min(rate * service_s / size, p.max_utilisation * servers)
    drain = (servers - load) / (0.5 * (1.0 / size + p.service_scv))
    waiting = queueing.erlang_c(servers, load)
    return Queue(rate, capacity, room, size, fill_s, service_s, load, waiting, drain, timeout_s)


@kernel
def slowdown(concurrency: int, contention: float, coherency: float) -> float:
    """Compute how much longer a service takes than with four servers in a replica.

    With n servers a replica does n / (1 + contention (n - 1) + coherency n (n - 1)) times the work
    of one alone, so each of them is slower by the divisor.

    Source: Gunther, Guerrilla Capacity Planning (2007): the universal scalability law.
    """
    n, neutral = concurrency, records.NEUTRAL_CONCURRENCY
    own = 1.0 + contention * (n - 1) + coherency * n * (n - 1)
    return own / (1.0 + contention * (neutral - 1) + coherency * neutral * (neutral - 1))


@kernel
def batch_fill(largest: float, rate: float, wait_s: float) -> tuple[float, float]:
    """Compute the mean size of batches, and how long their first request waits for the others.

    A batch is served once it is full, or once its first request has waited for `wait_s`.

    Args:
        largest: Requests in a full batch.
        rate: Requests/s that arrive at the replica.
        wait_s: Longest wait of a batch.

    Returns:
        Mean size, from 1 to `largest`, and the wait in seconds; 1 and 0 for `largest` = 1.
    """
    size = 1.0 + min(largest - 1.0, rate * wait_s)
    return size, (size - 1.0) / rate if size > 1.0 else 0.0


@kernel
def replica_capacity(cluster: Any, p: Any) -> float:
    """Requests/s that a replica can serve with full batches."""
    servers = _CONCURRENCIES[cluster.concurrency]
    service_ms = p.batch_overhead_ms + _BATCHES[cluster.batch] * p.request_ms
    service_ms *= slowdown(servers, p.contention, p.coherency)
    return 1000.0 * servers * _BATCHES[cluster.batch] / service_ms


@kernel
def replica_capacities(clusters: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Write the `replica_capacity` of each cluster, shape (B,)."""
    for b in range(out.shape[0]):
        out[b] = replica_capacity(clusters[b], parameters[0])


@kernel
def response_s(exceeded: float, share: float, queue: Queue, delay_s: float, p: Any) -> float:
    """Compute a percentile of the response times of both regions together, in seconds.

    Args:
        exceeded: Share of the responses that take longer, such as 0.01 for the 99th percentile.
        share: Share of the traffic in the own region; the second one answers without queueing.
        queue: The queue in the own region.
        delay_s: Delay in the own region on top of the time in the queue and in service.
        p: The record from `kernel_parameters`.
    """
    own_s = delay_s + queue.service_s * queueing.sojourn_percentile(
        exceeded, queue.waiting, queue.drain
    )
    if share == 1.0:
        return own_s
    way_s = 0.001 * p.remote_latency_ms
    remote_service_s = 0.001 * (p.batch_overhead_ms + p.request_ms)
    remote_s = way_s - remote_service_s * math.log(exceeded)
    low, high = min(own_s, remote_s), max(own_s, remote_s)
    for _ in range(60):
        middle = 0.5 * (low + high)
        own = queueing.sojourn_tail(
            (middle - delay_s) / queue.service_s, queue.waiting, queue.drain
        )
        remote = math.exp(min(0.0, (way_s - middle) / remote_service_s))
        if share * own + (1.0 - share) * remote > exceeded:
            low = middle
        else:
            high = middle
    return high
