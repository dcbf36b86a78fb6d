"""The dynamics of clusters: what becomes of the requests of a step, and of the replicas.

During a step, demand and retries arrive at a constant rate. Requests beyond the capacity wait in
the backlog; what exceeds the longest backlog is dropped. Latencies are those of an M/M/c queue
(`queueing.py`) whose customers are batches, at the rate of the step, with the backlog on top.

Shapes: B environments; see `simulator.py`.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.actions import (
    ALL_TRAFFIC,
    allowed_changes,
    configure,
    needed_replicas,
    wanted,
)
from grpo_gym.envs.autoscaler.queueing import sojourn_tail
from grpo_gym.envs.autoscaler.rewards import reward_step
from grpo_gym.envs.autoscaler.service import Queue, queue_of, response_s
from grpo_gym.envs.kernels import inlined, kernel


@kernel
def step_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    episodes: np.ndarray,
    demand: np.ndarray,
    clusters: np.ndarray,
    starting: np.ndarray,
    metrics: np.ndarray,
    outcomes: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Step every environment that is neither skipped nor finished: act, serve, pay, start up."""
    p = parameters[0]
    last = demand.shape[1] - 1
    for b in range(actions.shape[0]):
        if skip.shape[0] and skip[b]:
            continue
        episode, cluster, outcome = episodes[b], clusters[b], outcomes[b]
        if episode.step >= last:
            outcome.reward = 0.0
            continue
        episode.step += 1
        change, configuration, share = wanted(actions[b], metrics[b].requests_per_s, cluster, p)
        fewest, most = allowed_changes(cluster, p)
        allowed = min(max(change, fewest), most)
        scale(allowed, b, cluster, starting)
        if allowed != 0:
            cluster.cooldown = p.cooldown_steps
        configure(configuration, cluster)
        cluster.share = share
        outcome.constrained = allowed != change
        outcome.replicas = cluster.running
        outcome.pending = cluster.pending
        before = cluster.dollars_per_hour
        serve(demand[episode.trace_row, episode.step], cluster, metrics[b], outcome, p)
        account(before, cluster, metrics[b], outcome, p)
        cluster.cooldown = max(0, cluster.cooldown - 1)
        come_up(b, cluster, starting)


@kernel
def start_kernel(
    members: np.ndarray,
    episodes: np.ndarray,
    demand: np.ndarray,
    clusters: np.ndarray,
    starting: np.ndarray,
    metrics: np.ndarray,
    outcomes: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Put the given environments at the beginning of their traces, and measure the first demand."""
    p = parameters[0]
    for m in range(members.shape[0]):
        b = members[m]
        episode, cluster, outcome = episodes[b], clusters[b], outcomes[b]
        episode.step = 0
        starting[b, :] = 0
        # Of these three the record holds positions on their ladders.
        cluster.batch, cluster.timeout, cluster.concurrency = p.batch_size, p.timeout, p.concurrency
        cluster.share = ALL_TRAFFIC
        cluster.pending = cluster.cooldown = 0
        cluster.backlog = cluster.retries = 0.0
        cluster.running = p.initial_replicas
        first = demand[episode.trace_row, 0]
        if p.initial_replicas == 0:
            cluster.running = needed_replicas(first, p.initial_utilisation, cluster, p)
        serve(first, cluster, metrics[b], outcome, p)
        cluster.backlog = cluster.retries = outcome.backlog = 0.0
        outcome.replicas = cluster.running
        cluster.dollars_per_hour = cluster.running * p.dollars_per_replica_hour


@inlined
def scale(change: int, b: int, cluster: Any, starting: np.ndarray) -> None:
    """Start replicas, or stop some: first those that start up, beginning with the newest."""
    slots = starting.shape[1]
    if change > 0 and slots > 0:
        starting[b, slots - 1] += change
        cluster.pending += change
    elif change > 0:
        cluster.running += change
    else:
        left = -change
        for slot in range(slots - 1, -1, -1):
            stopped = min(left, starting[b, slot])
            starting[b, slot] -= stopped
            cluster.pending -= stopped
            left -= stopped
        cluster.running -= left


@inlined
def come_up(b: int, cluster: Any, starting: np.ndarray) -> None:
    """Bring replicas that start up one step closer to serving."""
    slots = starting.shape[1]
    if slots == 0:
        return
    cluster.running += starting[b, 0]
    cluster.pending -= starting[b, 0]
    for slot in range(slots - 1):
        starting[b, slot] = starting[b, slot + 1]
    starting[b, slots - 1] = 0


@kernel
def serve(demand: float, cluster: Any, metrics: Any, outcome: Any, p: Any) -> None:
    """Serve the requests of a step, `demand` a second, and write the measurements.

    Every request, new or retried, is served, fails, times out, is dropped, goes to the second
    region, or waits in the backlog at the end. The cluster's backlog and retries change; costs and
    rewards of the outcome are left to `account`.
    """
    seconds = p.step_seconds
    arrivals = demand * seconds
    offered = arrivals + cluster.retries
    overflow = offered * ((ALL_TRAFFIC - cluster.share) / ALL_TRAFFIC)
    own = offered - overflow
    queue = queue_of(own / seconds, cluster, p)

    before = cluster.backlog
    processed = min(before + own, queue.capacity * seconds)
    backlog = min(before + own - processed, queue.room)
    dropped = before + own - processed - backlog
    delay_s = backlog / queue.capacity + 0.5 * queue.fill_s
    late = max(
        queue.waiting * math.exp(-queue.drain * p.patience_s / queue.service_s),
        sojourn_tail((queue.timeout_s - delay_s) / queue.service_s, queue.waiting, queue.drain),
    )
    timed_out = processed * min(late, 1.0 - p.error_rate)
    failed = processed * p.error_rate
    lost_share = p.error_rate + late + (dropped / own if own > 0.0 else 0.0)

    cluster.backlog = backlog
    cluster.retries = dropped * p.retry_share
    outcome.demand = demand
    outcome.arrivals = arrivals
    outcome.retried = offered - arrivals
    outcome.overflow = overflow
    outcome.served = max(0.0, processed - timed_out - failed)  # rounding, where all are too late
    outcome.failed = failed
    outcome.timed_out = timed_out
    outcome.dropped = dropped
    outcome.backlog = backlog
    outcome.lost = failed + timed_out + dropped - cluster.retries

    share = cluster.share / ALL_TRAFFIC
    wrong = share * min(1.0, lost_share) + (1.0 - share) * p.error_rate
    metrics.error_percent = 100.0 * wrong
    metrics.requests_per_s = offered / seconds
    _measure_use(
        queue, before / (queue.capacity * seconds), processed / seconds, cluster, metrics, p
    )
    _measure_latency(queue, delay_s, cluster, metrics, p)
    outcome.p50_latency_ms = metrics.p50_latency_ms
    outcome.p99_latency_ms = metrics.p99_latency_ms
    outcome.error_percent = metrics.error_percent
    outcome.cpu_percent = metrics.cpu_percent
    outcome.memory_percent = metrics.memory_percent
    outcome.violation = metrics.p99_latency_ms > p.sla_p99_ms


@inlined
def _measure_use(
    queue: Queue, left: float, processed_per_s: float, cluster: Any, metrics: Any, p: Any
) -> None:
    """Write the use of resources; `left` is the earlier backlog over what a step can process."""
    busy, backlog = queue.rate / queue.capacity, cluster.backlog
    memory = 30.0 + 30.0 * min(1.0, busy) + 20.0 * (backlog / queue.room)
    metrics.cpu_percent = 100.0 * min(1.0, busy + left)
    metrics.memory_percent = min(100.0, memory)
    metrics.network_mbit_per_s = processed_per_s * p.mbit_per_request
    metrics.disk_io_per_s = processed_per_s * p.disk_io_per_request
    metrics.queue_depth = backlog + queue.waiting * queue.load / queue.drain * queue.size
    metrics.replicas = cluster.running


@inlined
def _measure_latency(queue: Queue, delay_s: float, cluster: Any, metrics: Any, p: Any) -> None:
    share = cluster.share / ALL_TRAFFIC
    slow_s = cluster.backlog / queue.capacity + 0.99 * queue.fill_s
    half_s = response_s(0.5, share, queue, delay_s, p)
    most_s = response_s(0.01, share, queue, slow_s, p)
    metrics.p50_latency_ms = 1000.0 * min(queue.timeout_s, half_s)
    metrics.p99_latency_ms = 1000.0 * min(queue.timeout_s, most_s)


@inlined
def account(before: float, cluster: Any, metrics: Any, outcome: Any, p: Any) -> None:
    """Write cost and reward of a step; `before` is the cost of the step before, $/h."""
    hours = p.step_seconds / 3600.0
    remote = outcome.overflow * p.remote_dollars_per_million * 1e-6
    own = (cluster.running + cluster.pending) * p.dollars_per_replica_hour * hours
    cluster.dollars_per_hour = (own + remote) / hours
    outcome.cost_dollars = own + remote
    outcome.penalty_dollars = outcome.lost * p.lost_request_dollars
    if outcome.violation:
        outcome.penalty_dollars += p.sla_dollars_per_step
    reward_step(before, cluster, metrics, outcome, p)
