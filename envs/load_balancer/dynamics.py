"""The dynamics of one environment: how servers answer requests, and how time passes.

Each server is a first-come-first-served queue with one worker. At the arrival of a request at t
    start = max(t, free_at), departure = start + size / rate * slowdown, response = departure - t,
where the slowdown is the one in force when service starts. The balancer learns of a response
when it departs. With `decaying_load` there are no queues (the tiny-grpo demonstration).

Functions take whole arrays and indices (b: environment, row: its trace, n: server), because
slicing inside a kernel costs more than the arithmetic. `p` is the record of the settings.
"""

from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.observation import (
    observe_error,
    observe_latency,
    observe_service,
    publish,
    queue_ms,
)
from grpo_gym.envs.load_balancer.records import DECAYING_LOAD, DEMO, LATENCY, NO_REQUEST, PARK


class Memory(NamedTuple):
    """The arrays of a `LoadBalancerSimulator`, with which kernels call each other."""

    episodes: np.ndarray
    servers: np.ndarray
    requests: np.ndarray
    arrivals: np.ndarray
    faults: np.ndarray
    metrics: np.ndarray
    constants: np.ndarray
    parameters: np.ndarray
    outcomes: np.ndarray


@inlined
def fault_at(
    faults: np.ndarray, row: int, n: int, first: int, time_ms: float, ramp_ms: float
) -> tuple[float, int, float]:
    """Severity in [0, 1], kind and end (ms) of the fault in force at `time_ms`."""
    severity, kind, end = 0.0, 0, 0.0
    for f in range(first, faults.shape[2]):
        fault = faults[row, n, f]
        if time_ms < fault.start_ms:
            break
        kind, end = fault.kind, fault.end_ms
        if time_ms < end:
            severity = 1.0
        elif time_ms < end + ramp_ms:
            severity = 1.0 - (time_ms - end) / ramp_ms
        else:
            severity = 0.0
    return severity, kind, end


@inlined
def slowdown_under(severity: float, kind: int, p: Any) -> float:
    """Factor on service time and base latency."""
    return 1.0 if kind == trace.ERRORING else 1.0 + (p.slow_factor - 1.0) * severity


@inlined
def _answer(
    constants: Any, severity: float, kind: int, refused: bool, in_flight: int, p: Any
) -> tuple[float, float]:
    """A server's latency without queueing and service (ms), and its error probability."""
    if refused:
        latency, errors = p.down_response_ms, 1.0
    else:
        latency = constants.base_latency_ms * slowdown_under(severity, kind, p)
        latency += constants.latency_per_request_ms * in_flight
        errors = constants.error_rate
        if kind == trace.DEGRADED or kind == trace.ERRORING:
            errors = errors + (p.fault_error_rate - errors) * severity
        errors = min(1.0, errors + p.error_per_request * in_flight)
    return latency, errors


@inlined
def route(memory: Memory, b: int, n: int) -> tuple[float, float, float, float, bool]:
    """Compute what the waiting request of environment b would meet at server n.

    Returns:
        Start, departure and response (ms), error probability, and whether the server refuses.
    """
    p, episode, faults = memory.parameters[0], memory.episodes[b], memory.faults
    server, constants = memory.servers[b, n], memory.constants[n]
    row, now = episode.trace_row, episode.now_ms
    severity, kind, end = 0.0, 0, 0.0
    if server.degraded:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
    refused = kind == trace.DOWN and now < end
    latency, errors = _answer(constants, severity, kind, refused, server.in_flight + 1, p)
    start = departure = now
    if not refused and p.dynamics != DECAYING_LOAD:
        if server.free_at_ms > now:
            start = server.free_at_ms
            # A server that is healthy until then needs no look at its faults.
            waits = server.degraded or start >= server.next_change_ms
            while waits:
                severity, kind, end = fault_at(
                    faults, row, n, server.fault, start, p.recovery_ramp_ms
                )
                waits = kind == trace.DOWN and start < end
                if waits:
                    start = end
        size = memory.arrivals[row, episode.step].size
        departure = start + size / constants.rate * slowdown_under(severity, kind, p)
    return start, departure, departure - now + latency, errors, refused


@inlined
def reward_of(response_ms: float, errors: float, queueing_ms: float, p: Any) -> float:
    """The reward of one request; with "park" its own share of the return."""
    if p.reward == LATENCY:
        return -response_ms / p.latency_scale_ms - p.error_penalty * errors
    if p.reward == DEMO:
        return -(response_ms + 1.5 * 1000.0 * errors + 0.3 * queueing_ms)
    return -response_ms


@inlined
def _enqueue(
    server: Any, requests: np.ndarray, b: int, slot: int, now: float, departure: float, size: float
) -> None:
    request = requests[b, slot]
    request.arrival_ms = now
    request.departure_ms = departure
    request.size = size
    request.next = NO_REQUEST
    if server.in_flight == 0:
        server.head = slot
        server.next_departure_ms = departure
        server.oldest_arrival_ms = now
    else:
        requests[b, server.tail].next = slot
    server.tail = slot
    server.in_flight += 1
    server.work += size
    server.free_at_ms = departure


@inlined
def _advance(
    server: Any, requests: np.ndarray, b: int, now: float, until: float, weight: float
) -> float:
    """Remove the requests that a server has answered by `until`, and observe their responses.

    Returns:
        The time integral of the server's requests from `now` to `until`, in request ms.
    """
    area = 0.0
    while server.in_flight > 0 and server.next_departure_ms <= until:
        request = requests[b, server.head]
        area += request.departure_ms - now
        observe_latency(server, request.response_ms, weight)
        observe_service(server, request, weight)
        observe_error(server, np.float64(request.error), request.departure_ms, weight)
        server.in_flight -= 1
        server.work -= request.size
        if server.in_flight > 0:
            server.head = request.next
            server.next_departure_ms = requests[b, request.next].departure_ms
            server.oldest_arrival_ms = requests[b, request.next].arrival_ms
        else:
            server.work = 0.0  # removes rounding errors
    if server.in_flight > 0:
        area += server.in_flight * (until - now)
    return area


@kernel
def _area_left(server: Any, requests: np.ndarray, b: int, now: float) -> float:
    """The time integral of the server's requests from `now` until it is empty, in request ms."""
    area = 0.0
    slot = server.head
    for _ in range(server.in_flight):
        area += requests[b, slot].departure_ms - now
        slot = requests[b, slot].next
    return area


@inlined
def refresh(memory: Memory, b: int, n: int, now: float) -> None:
    """Bring the health and the visible metrics of server n up to date."""
    p, row, faults = memory.parameters[0], memory.episodes[b].trace_row, memory.faults
    server, constants = memory.servers[b, n], memory.constants[n]
    if now >= server.next_change_ms:
        _refresh_health(server, faults, row, n, now, p.recovery_ramp_ms)
    if p.dynamics == DECAYING_LOAD:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
        refused = kind == trace.DOWN and now < end
        server.latency_ms, server.error_rate = _answer(
            constants, severity, kind, refused, server.in_flight, p
        )
        server.peak_latency_ms = server.latency_ms
        server.observed_at_ms = now
        server.oldest_arrival_ms = now
    publish(server, memory.metrics[b, n], now, p)


@kernel
def _refresh_health(
    server: Any, faults: np.ndarray, row: int, n: int, now: float, ramp_ms: float
) -> None:
    """Find the current or next fault, and the time of the next change."""
    last = faults.shape[2] - 1
    f = server.fault
    while f < last and (
        now >= faults[row, n, f].end_ms + ramp_ms or now >= faults[row, n, f + 1].start_ms
    ):
        f += 1
    fault = faults[row, n, f]
    server.fault = f
    over = fault.end_ms + ramp_ms
    server.degraded = fault.start_ms <= now < over
    server.next_change_ms = np.inf
    if now < fault.start_ms:
        server.next_change_ms = fault.start_ms
    elif now < over:
        server.next_change_ms = over
        if f < last:
            server.next_change_ms = min(over, faults[row, n, f + 1].start_ms)


@inlined
def step_one(memory: Memory, b: int, action: int) -> None:
    """Route the waiting request of environment b to server `action`, and go to the next arrival."""
    p, episode, out = memory.parameters[0], memory.episodes[b], memory.outcomes[b]
    server = memory.servers[b, action]
    row, now, slot = episode.trace_row, episode.now_ms, episode.step
    request = memory.arrivals[row, slot]
    start, departure, response, errors, refused = route(memory, b, action)
    error = request.error_coin <= errors
    out.degraded = server.degraded
    out.reward = reward_of(response, errors, queue_ms(server.in_flight + 1), p)
    out.response_time_ms = response
    out.wait_ms = start - now
    out.error_probability = errors
    out.error = error
    out.done = slot + 2 == memory.arrivals.shape[1]
    episode.response_total_ms += response
    episode.errors += error
    server.routed += 1
    if p.dynamics == DECAYING_LOAD:
        server.in_flight += not refused
    elif refused:  # the balancer sees it at once, and learns nothing about latency
        observe_error(server, 1.0, now, p.metrics_weight)
    else:
        memory.requests[b, slot].response_ms = response
        memory.requests[b, slot].error = error
        _enqueue(server, memory.requests, b, slot, now, departure, request.size)
    episode.step = slot + 1
    episode.now_ms = memory.arrivals[row, slot + 1].arrival_ms
    area = _pass_time(memory, b, now, episode.now_ms)
    if p.reward == PARK:
        out.reward = -area


@inlined
def _pass_time(memory: Memory, b: int, now: float, until: float) -> float:
    """Move every server of environment b from `now` to `until`.

    Returns:
        The time integral of all requests in flight, in request ms: until the last one has left
        if the episode ends here and the reward is "park".
    """
    p, area = memory.parameters[0], 0.0
    for n in range(memory.servers.shape[1]):
        server = memory.servers[b, n]
        if p.dynamics == DECAYING_LOAD:
            server.in_flight = int(server.in_flight * memory.constants[n].load_decay)
        else:
            area += _advance(server, memory.requests, b, now, until, p.metrics_weight)
            if memory.outcomes[b].done and p.reward == PARK:
                area += _area_left(server, memory.requests, b, until)
        refresh(memory, b, n, until)
    return area


@inlined
def estimate(memory: Memory, b: int, n: int) -> tuple[float, float]:
    """Compute the reward and the response time (ms) that server n would give to the request."""
    _, _, response, errors, _ = route(memory, b, n)
    queueing_ms = queue_ms(memory.servers[b, n].in_flight + 1)
    return reward_of(response, errors, queueing_ms, memory.parameters[0]), response


@inlined
def estimate_all(memory: Memory, b: int, out: np.ndarray) -> None:
    """Write what each server would give to environment b's request: `ESTIMATE`, shape (B, N)."""
    for n in range(memory.servers.shape[1]):
        out[b, n].reward, out[b, n].response_time_ms = estimate(memory, b, n)
