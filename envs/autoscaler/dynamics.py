"""The laws of one cluster: what happens to the requests of a step, and to the replicas.

In a step, demand and what is sent again arrive at a constant rate. What exceeds the capacity waits
(the backlog), and what exceeds the patience of a backlog is dropped. Latencies are those of an
M/M/c queue (`queueing.py`) whose customers are batches, at the rate of the step, with the backlog
on top.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.actions import (
    allowed_changes,
    configure,
    needed_replicas,
    wanted_change,
    wanted_configuration,
)
from grpo_gym.envs.autoscaler.queueing import erlang_c, sojourn_tail, wait_factor
from grpo_gym.envs.autoscaler.records import CONCURRENCIES, TIMEOUTS_S
from grpo_gym.envs.autoscaler.rewards import reward_step
from grpo_gym.envs.autoscaler.service import batch_service, response_s
from grpo_gym.envs.kernels import inlined, kernel

_TIMEOUTS_S = np.array(TIMEOUTS_S)
_CONCURRENCIES = np.array(CONCURRENCIES)
_ALL = 10
"""Tenths of the traffic in all."""


@inlined
def scale(change: int, b: int, cluster: Any, starting: np.ndarray) -> None:
    """Start replicas, or stop some: those that start up first, the newest before all others."""
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
    """A step of starting up."""
    if starting.shape[1] == 0:
        return
    cluster.running += starting[b, 0]
    cluster.pending -= starting[b, 0]
    for slot in range(starting.shape[1] - 1):
        starting[b, slot] = starting[b, slot + 1]
    starting[b, starting.shape[1] - 1] = 0


@inlined
def measure_use(
    busy: float, left: float, full: float, processed_per_s: float, metrics: Any, p: Any
) -> None:
    """Write the use of resources.

    Args:
        busy: Requests that arrive over those that can be served.
        left: Work from the step before over what a step can do.
        full: The backlog over its limit.
        processed_per_s: Requests/s.
        metrics: A `METRIC` record, written.
        p: A `PARAMETERS` record.
    """
    metrics.cpu_percent = 100.0 * min(1.0, busy + left)
    metrics.memory_percent = min(100.0, 30.0 + 30.0 * min(1.0, busy) + 20.0 * full)
    metrics.network_mbit_per_s = processed_per_s * p.mbit_per_request
    metrics.disk_io_per_s = processed_per_s * p.disk_io_per_request


@kernel
def serve(demand: float, cluster: Any, metrics: Any, outcome: Any, p: Any) -> None:
    """Serve the requests of a step and write what is measured.

    Every request that arrives or comes again is served, failed, timed out, dropped, sent to the
    second region, or waits at the end.

    Args:
        demand: Requests/s.
        cluster: A `CLUSTER` record; its backlog and retries change.
        metrics: A `METRIC` record, written.
        outcome: An `OUTCOME` record, written but for costs and rewards.
        p: A `PARAMETERS` record.
    """
    seconds = p.step_seconds
    arrivals = demand * seconds
    offered = arrivals + cluster.retries
    overflow = offered * ((_ALL - cluster.share) / _ALL)
    own = offered - overflow
    rate = own / seconds

    servers = cluster.running * _CONCURRENCIES[cluster.concurrency]
    size, fill_s, service_s = batch_service(rate, cluster, p)
    capacity = servers * size / service_s
    timeout_s = _TIMEOUTS_S[cluster.timeout]
    room = capacity * min(p.patience_s, timeout_s)

    before = cluster.backlog
    processed = min(before + own, capacity * seconds)
    backlog = min(before + own - processed, room)
    dropped = before + own - processed - backlog

    # Batches are the customers, and those of n requests come n times as regularly.
    load = min(rate * service_s / size, p.max_utilisation * servers)
    waiting = erlang_c(servers, load)
    drain = (servers - load) / wait_factor(1.0 / size, p.service_scv)
    delay_s = backlog / capacity + 0.5 * fill_s
    late = max(
        waiting * math.exp(-drain * p.patience_s / service_s),
        sojourn_tail((timeout_s - delay_s) / service_s, waiting, drain),
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

    measure_use(
        rate / capacity,
        before / (capacity * seconds),
        backlog / room,
        processed / seconds,
        metrics,
        p,
    )
    metrics.requests_per_s = offered / seconds
    metrics.queue_depth = backlog + waiting * load / drain * size
    metrics.replicas = cluster.running
    share = cluster.share / _ALL
    slow_s = backlog / capacity + 0.99 * fill_s
    half_s = response_s(0.5, share, waiting, drain, service_s, delay_s, p)
    most_s = response_s(0.01, share, waiting, drain, service_s, slow_s, p)
    metrics.p50_latency_ms = 1000.0 * min(timeout_s, half_s)
    metrics.p99_latency_ms = 1000.0 * min(timeout_s, most_s)
    wrong = share * min(1.0, lost_share) + (1.0 - share) * p.error_rate
    metrics.error_percent = 100.0 * wrong
    outcome.p50_latency_ms = metrics.p50_latency_ms
    outcome.p99_latency_ms = metrics.p99_latency_ms
    outcome.error_percent = metrics.error_percent
    outcome.cpu_percent = metrics.cpu_percent
    outcome.memory_percent = metrics.memory_percent
    outcome.violation = metrics.p99_latency_ms > p.sla_p99_ms


@inlined
def account(before: float, cluster: Any, metrics: Any, outcome: Any, p: Any) -> None:
    """Write what a step cost and was worth; `before` is the cost of the step before, $/h."""
    hours = p.step_seconds / 3600.0
    remote = outcome.overflow * p.remote_dollars_per_million * 1e-6
    own = (cluster.running + cluster.pending) * p.dollars_per_replica_hour * hours
    cluster.dollars_per_hour = (own + remote) / hours
    outcome.cost_dollars = own + remote
    outcome.penalty_dollars = outcome.lost * p.lost_request_dollars
    if outcome.violation:
        outcome.penalty_dollars += p.sla_dollars_per_step
    reward_step(before, cluster, metrics, outcome, p)


@kernel
def step_one(
    action: int,
    demand: float,
    b: int,
    cluster: Any,
    starting: np.ndarray,
    metrics: Any,
    outcome: Any,
    p: Any,
) -> None:
    """One step of one environment: act, serve, pay, and then replicas come up.

    Args:
        action: A number of its kind; of "multi", that of "flat".
        demand: Requests/s in this step.
        b: Which environment.
        cluster: Its `CLUSTER` record.
        starting: Replicas by the steps until they serve, less one; shape (B, start-up steps).
        metrics: Its `METRIC` record.
        outcome: Its `OUTCOME` record.
        p: A `PARAMETERS` record.
    """
    wanted = wanted_change(action, cluster, metrics, p)
    fewest, most = allowed_changes(cluster, p)
    change = min(max(wanted, fewest), most)
    scale(change, b, cluster, starting)
    if change != 0:
        cluster.cooldown = p.cooldown_steps
    configuration, share = wanted_configuration(action, p)
    configure(configuration, cluster)
    cluster.share = share
    outcome.constrained = change != wanted
    outcome.replicas = cluster.running
    outcome.pending = cluster.pending
    before = cluster.dollars_per_hour
    serve(demand, cluster, metrics, outcome, p)
    account(before, cluster, metrics, outcome, p)
    cluster.cooldown = max(0, cluster.cooldown - 1)
    come_up(b, cluster, starting)


@kernel
def start_one(
    demand: float,
    b: int,
    cluster: Any,
    starting: np.ndarray,
    metrics: Any,
    outcome: Any,
    p: Any,
) -> None:
    """A cluster as settings want it, and the metrics of the demand before its first step."""
    for slot in range(starting.shape[1]):
        starting[b, slot] = 0
    cluster.batch = p.initial_batch
    cluster.timeout = p.initial_timeout
    cluster.concurrency = p.initial_concurrency
    cluster.share = _ALL
    cluster.pending = 0
    cluster.cooldown = 0
    cluster.backlog = 0.0
    cluster.retries = 0.0
    cluster.running = p.initial_replicas
    if p.initial_replicas == 0:
        cluster.running = needed_replicas(demand, p.initial_utilisation, cluster, p)
    serve(demand, cluster, metrics, outcome, p)
    cluster.backlog = 0.0
    cluster.retries = 0.0
    outcome.backlog = 0.0
    outcome.replicas = cluster.running
    cluster.dollars_per_hour = cluster.running * p.dollars_per_replica_hour
