"""The dynamics of one environment: how servers answer requests, and how time passes.

Each server is a first-come-first-served queue with c workers. At the arrival of a request at t
    start = max(t, when the first worker is free), departure = start + size / rate * slowdown,
    response = departure - t + nominal latency,
where the slowdown is the one in force when service starts. A response later than the time-out is
an error at that moment, and the server drops the request. A balancer learns of a response when the
request departs. With `decaying_load` there are no queues (the tiny-grpo demonstration).

Functions take whole arrays and indices (b: environment, row: its trace, n: server), because
slicing inside a kernel costs more than the arithmetic. `p` is the record of the settings, and k the
row of the servers' settings.
"""

from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.kernels import inlined
from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.health import (
    answer_under,
    fault_at,
    refresh_health,
    slowdown_under,
)
from grpo_gym.envs.load_balancer.observation import observe_error, publish, queue_ms
from grpo_gym.envs.load_balancer.queueing import advance, area_left, enqueue, service_start
from grpo_gym.envs.load_balancer.records import DECAYING_LOAD, DEMO, LATENCY, PARK


class Memory(NamedTuple):
    """The arrays of a `LoadBalancerSimulator`, with which kernels call each other."""

    episodes: np.ndarray
    servers: np.ndarray
    views: np.ndarray
    requests: np.ndarray
    arrivals: np.ndarray
    faults: np.ndarray
    metrics: np.ndarray
    constants: np.ndarray
    parameters: np.ndarray
    outcomes: np.ndarray


class Answer(NamedTuple):
    """What a request meets at a server."""

    start_ms: float
    departure_ms: float
    response_ms: float
    errors: float
    """Error probability."""
    refused: bool
    rejected: bool
    """Refused because of the limit of connections."""
    timed_out: bool


@inlined
def settings_row(records: np.ndarray, row: int) -> int:
    """The row of settings that belongs to a trace: the only one, unless each trace has its own."""
    return min(row, records.shape[0] - 1)


@inlined
def has_own_views(memory: Memory) -> bool:
    """Whether balancers keep what they see apart from the servers: there may be several."""
    return memory.views.shape[1] > memory.servers.shape[1]


@inlined
def route(memory: Memory, b: int, n: int, size: float, now: float, p: Any, k: int) -> Answer:
    """Compute what a request of environment b that arrives now would meet at server n."""
    row, faults = memory.episodes[b].trace_row, memory.faults
    server, constants = memory.servers[b, n], memory.constants[k, n]
    severity, kind, end = 0.0, 0, 0.0
    if server.degraded:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
    rejected = server.in_flight >= constants.connection_limit
    refused = rejected or (kind == trace.DOWN and now < end)
    latency, errors = answer_under(constants, severity, kind, refused, server.in_flight + 1, p)
    start = departure = now
    if not refused and p.dynamics != DECAYING_LOAD:
        start = service_start(server, memory.requests, b, now, constants.workers)
        if start > now:
            # A server that is healthy until then needs no look at its faults.
            waits = server.degraded or start >= server.next_change_ms
            while waits:
                severity, kind, end = fault_at(
                    faults, row, n, server.fault, start, p.recovery_ramp_ms
                )
                waits = kind == trace.DOWN and start < end
                if waits:
                    start = end
        departure = start + size / constants.rate * slowdown_under(severity, kind, p)
    response = departure - now + latency
    timed_out = response > p.timeout_ms
    if timed_out:
        response, errors = p.timeout_ms, 1.0
        departure = min(departure, now + p.timeout_ms)
        start = min(start, departure)
    return Answer(start, departure, response, errors, refused, rejected, timed_out)


@inlined
def reward_of(response_ms: float, errors: float, queueing_ms: float, p: Any) -> float:
    """The reward of one request; with "park" its own share of the return."""
    if p.reward == LATENCY:
        return -response_ms / p.latency_scale_ms - p.error_penalty * errors
    if p.reward == DEMO:
        return -(response_ms + 1.5 * 1000.0 * errors + 0.3 * queueing_ms)
    return -response_ms


@inlined
def refresh(memory: Memory, b: int, n: int, now: float, p: Any, k: int) -> None:
    """Bring the health and the visible metrics of server n up to date."""
    row, faults = memory.episodes[b].trace_row, memory.faults
    server, constants = memory.servers[b, n], memory.constants[k, n]
    if now >= server.next_change_ms:
        refresh_health(server, faults, row, n, now, p.recovery_ramp_ms)
    if p.dynamics == DECAYING_LOAD:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
        refused = kind == trace.DOWN and now < end
        server.latency_ms, server.error_rate = answer_under(
            constants, severity, kind, refused, server.in_flight, p
        )
        server.observed_at_ms = now
        server.oldest_arrival_ms = now
    publish(server, memory.metrics[b, n], now, p)


@inlined
def send(
    memory: Memory,
    b: int,
    n: int,
    slot: int,
    now: float,
    size: float,
    error: bool,
    answer: Answer,
    p: Any,
    k: int,
) -> None:
    """Let server n have the request in a slot, now, with this answer."""
    episode, server, request = memory.episodes[b], memory.servers[b, n], memory.requests[b, slot]
    view = memory.views[b, episode.balancer * p.max_servers + n]
    episode.timeouts += answer.timed_out
    episode.rejections += answer.rejected
    server.routed += 1
    request.arrival_ms = now
    request.departure_ms = answer.departure_ms
    request.response_ms = answer.response_ms
    request.size = size
    request.server = n
    request.balancer = episode.balancer
    request.error = error
    request.timed_out = answer.timed_out
    request.in_flight = server.in_flight + 1
    if p.dynamics == DECAYING_LOAD:
        server.in_flight += not answer.refused
    elif answer.refused:  # the balancer sees it at once, and learns nothing about latency
        observe_error(view, 1.0, now, p.metrics_weight)
    else:
        if view.in_flight == 0:
            view.oldest_arrival_ms = now
        enqueue(server, memory.requests, b, slot, memory.constants[k, n].workers)
        if has_own_views(memory):
            view.in_flight += 1
            view.work += size


@inlined
def pass_time(memory: Memory, b: int, now: float, until: float, p: Any, k: int) -> float:
    """Move every server of environment b from `now` to `until`.

    Returns:
        The time integral of all requests in flight, in request ms: until the last one has left
        if the episode ends here and the reward is "park".
    """
    area, shared, decaying = 0.0, has_own_views(memory), p.dynamics == DECAYING_LOAD
    for n in range(p.num_servers):
        server, constants = memory.servers[b, n], memory.constants[k, n]
        if decaying:
            server.in_flight = int(server.in_flight * constants.load_decay)
        else:
            workers = constants.workers
            area += advance(
                server, memory.views, memory.requests, b, n, now, until, workers, shared, p
            )
            if memory.outcomes[b].done and p.reward == PARK:
                area += area_left(server, memory.requests, b, until)
        refresh(memory, b, n, until, p, k)
    return area


@inlined
def estimate(memory: Memory, b: int, n: int) -> tuple[float, float]:
    """Compute the reward and the response time (ms) that server n would give to the request.

    A retry after a failure is not part of it.
    """
    episode = memory.episodes[b]
    p = memory.parameters[settings_row(memory.parameters, episode.trace_row)]
    k = settings_row(memory.constants, episode.trace_row)
    size = memory.arrivals[episode.trace_row, episode.step].size
    answer = route(memory, b, n, size, episode.now_ms, p, k)
    queueing_ms = queue_ms(memory.servers[b, n].in_flight + 1)
    return reward_of(answer.response_ms, answer.errors, queueing_ms, p), answer.response_ms


@inlined
def estimate_all(memory: Memory, b: int, out: np.ndarray) -> None:
    """Write what each server would give to environment b's request: `ESTIMATE`, shape (B, N).

    A server that does not exist would give -infinity, after an infinite time.
    """
    row = settings_row(memory.parameters, memory.episodes[b].trace_row)
    for n in range(memory.servers.shape[1]):
        out[b, n].reward, out[b, n].response_time_ms = -np.inf, np.inf
        if n < memory.parameters[row].num_servers:
            out[b, n].reward, out[b, n].response_time_ms = estimate(memory, b, n)
