"""The laws of one environment: what a request meets at a server, and how time passes.

Each server is a first-come-first-served queue with one worker. At the arrival of a request at t
    start = max(t, free_at), departure = start + size / rate * slowdown, response = departure - t,
where the slowdown is the one in force when service starts. The balancer learns of a response
when it departs. With `decaying_load` there are no queues (the tiny-grpo demonstration).

Functions take whole arrays and indices (b: environment, row: its trace, n: server), because
slicing inside a kernel costs more than the arithmetic.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer import trace as world
from grpo_gym.envs.load_balancer.observation import copy_metrics, publish, queue_ms
from grpo_gym.envs.load_balancer.records import DECAYING_LOAD, DEMO, LATENCY, NO_REQUEST, PARK

_MANY = 1_000


@inlined
def fault_at(
    faults: np.ndarray, row: int, n: int, first: int, time_ms: float, ramp_ms: float
) -> tuple[float, int, float]:
    """Severity in [0, 1], kind and end of the fault in force at `time_ms`."""
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
    return 1.0 if kind == world.ERRORING else 1.0 + (p.slow_factor - 1.0) * severity


@inlined
def error_rate_under(healthy: float, severity: float, kind: int, p: Any) -> float:
    """Error probability of a server before the contribution of its load."""
    if kind == world.SLOW or kind == world.DOWN:
        return healthy
    return healthy + (p.fault_error_rate - healthy) * severity


@inlined
def route(
    now: float,
    size: float,
    server: Any,
    constants: Any,
    faults: np.ndarray,
    row: int,
    n: int,
    p: Any,
) -> tuple[float, float, float, float, bool]:
    """What a request arriving now would meet at server n.

    Returns:
        start, departure, response (all ms), error probability, whether it is refused.
    """
    severity, kind, end = 0.0, 0, 0.0
    if server.degraded:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
    active = server.in_flight + 1
    base = constants.base_latency_ms * slowdown_under(severity, kind, p)
    base += constants.latency_per_request_ms * active
    errors = error_rate_under(constants.error_rate, severity, kind, p)
    errors = min(1.0, errors + p.error_per_request * active)
    start = departure = now
    refused = kind == world.DOWN and now < end
    if refused:
        base, errors = p.down_response_ms, 1.0
    elif p.dynamics != DECAYING_LOAD:
        if server.free_at_ms > now:
            start = server.free_at_ms
            # Unless the server is healthy then as now.
            waits = server.degraded or start >= server.next_change_ms
            while waits:
                severity, kind, end = fault_at(
                    faults, row, n, server.fault, start, p.recovery_ramp_ms
                )
                waits = kind == world.DOWN and start < end
                if waits:
                    start = end
        departure = start + size / constants.rate * slowdown_under(severity, kind, p)
    return start, departure, departure - now + base, errors, refused


@inlined
def reward_of(response_ms: float, errors: float, queueing_ms: float, p: Any) -> float:
    """Reward of one request; under "park" its own share of the return."""
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
def _observe_latency(server: Any, response_ms: float, weight: float) -> None:
    peak = server.peak_latency_ms
    if peak > 0.0:
        server.latency_ms += weight * (response_ms - server.latency_ms)
    else:  # the first response is the average so far
        server.latency_ms = response_ms
    server.peak_latency_ms = max(response_ms, peak + weight * (response_ms - peak))


@inlined
def _observe_service(server: Any, request: Any, weight: float) -> None:
    """What the balancer infers of one service: it lasted since the one before, or the arrival."""
    service_ms = request.departure_ms - max(request.arrival_ms, server.last_departure_ms)
    pace = service_ms / max(request.size, 1e-9)
    if server.last_departure_ms < 0.0:  # the first service is the average so far
        weight = 1.0
    server.service_ms += weight * (service_ms - server.service_ms)
    server.pace += weight * (pace - server.pace)
    server.last_departure_ms = request.departure_ms


@inlined
def _observe_error(server: Any, error: float, time_ms: float, weight: float) -> None:
    if server.observed_at_ms < 0.0:
        server.error_rate = error
    else:
        server.error_rate += weight * (error - server.error_rate)
    in_a_row = min(server.consecutive_errors + 1, _MANY)
    server.consecutive_errors = in_a_row if error > 0.0 else 0
    server.observed_at_ms = time_ms


@inlined
def _advance(
    server: Any, requests: np.ndarray, b: int, now: float, until: float, weight: float
) -> float:
    """Let every request leave a server whose service ends by `until`.

    Returns:
        The time integral of the server's requests from now until then, in request ms.
    """
    area = 0.0
    while server.in_flight > 0 and server.next_departure_ms <= until:
        request = requests[b, server.head]
        area += request.departure_ms - now
        _observe_latency(server, request.response_ms, weight)
        _observe_service(server, request, weight)
        _observe_error(server, np.float64(request.error), request.departure_ms, weight)
        server.in_flight -= 1
        server.work -= request.size
        if server.in_flight > 0:
            server.head = request.next
            server.next_departure_ms = requests[b, request.next].departure_ms
            server.oldest_arrival_ms = requests[b, request.next].arrival_ms
        else:
            server.work = 0.0  # exactly, whatever rounding left
    if server.in_flight > 0:
        area += server.in_flight * (until - now)
    return area


@kernel
def _area_left(server: Any, requests: np.ndarray, b: int, now: float) -> float:
    """The time integral of the server's requests from now until the last one left, request ms."""
    area = 0.0
    slot = server.head
    for _ in range(server.in_flight):
        area += requests[b, slot].departure_ms - now
        slot = requests[b, slot].next
    return area


@inlined
def refresh(
    server: Any, seen: Any, constants: Any, faults: np.ndarray, row: int, n: int, now: float, p: Any
) -> None:
    """Bring health and visible metrics of server n to the present."""
    if now >= server.next_change_ms:
        _refresh_health(server, faults, row, n, now, p.recovery_ramp_ms)
    if p.dynamics == DECAYING_LOAD:
        severity, kind, end = fault_at(faults, row, n, server.fault, now, p.recovery_ramp_ms)
        base = constants.base_latency_ms * slowdown_under(severity, kind, p)
        server.latency_ms = base + constants.latency_per_request_ms * server.in_flight
        errors = error_rate_under(constants.error_rate, severity, kind, p)
        server.error_rate = min(1.0, errors + p.error_per_request * server.in_flight)
        if kind == world.DOWN and now < end:
            server.latency_ms, server.error_rate = p.down_response_ms, 1.0
        server.peak_latency_ms = server.latency_ms
        server.observed_at_ms = now
        server.oldest_arrival_ms = now
    publish(server, seen, now, p)


@kernel
def _refresh_health(
    server: Any, faults: np.ndarray, row: int, n: int, now: float, ramp_ms: float
) -> None:
    """Find the fault in force or next to come, and when this must be looked at again."""
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
def step_one(
    action: int,
    episodes: np.ndarray,
    servers: np.ndarray,
    requests: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    p: Any,
    outcomes: np.ndarray,
    b: int,
) -> None:
    """Route the waiting request of environment b and move on to the next arrival."""
    episode = episodes[b]
    row = episode.trace_row
    now = episode.now_ms
    slot = episode.step
    server = servers[b, action]
    out = outcomes[b]
    out.degraded = server.degraded
    size = arrivals[row, slot].size
    start, departure, response, errors, refused = route(
        now, size, server, constants[action], faults, row, action, p
    )
    error = arrivals[row, slot].error_coin <= errors
    episode.response_total_ms += response
    episode.errors += error
    server.routed += 1
    out.reward = reward_of(response, errors, queue_ms(server.in_flight + 1), p)
    if p.dynamics == DECAYING_LOAD:
        server.in_flight += not refused
    elif refused:  # seen at once, and tells nothing of latency
        _observe_error(server, 1.0, now, p.metrics_weight)
    else:
        requests[b, slot].response_ms = response
        requests[b, slot].error = error
        _enqueue(server, requests, b, slot, now, departure, size)
    out.response_time_ms = response
    out.wait_ms = start - now
    out.error_probability = errors
    out.error = error
    out.done = slot + 2 == arrivals.shape[1]

    episode.step = slot + 1
    following = arrivals[row, slot + 1].arrival_ms
    episode.now_ms = following
    area = 0.0
    for n in range(servers.shape[1]):
        if p.dynamics == DECAYING_LOAD:
            servers[b, n].in_flight = int(servers[b, n].in_flight * constants[n].load_decay)
        else:
            area += _advance(servers[b, n], requests, b, now, following, p.metrics_weight)
            if out.done and p.reward == PARK:
                area += _area_left(servers[b, n], requests, b, following)
        refresh(servers[b, n], metrics[b, n], constants[n], faults, row, n, following, p)
    if p.reward == PARK:
        out.reward = -area


@kernel
def estimate_rewards(
    episodes: np.ndarray,
    servers: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    constants: np.ndarray,
    p: Any,
    out: np.ndarray,
    b: int,
) -> None:
    """What the waiting request of environment b would meet at each server."""
    row = episodes[b].trace_row
    size = arrivals[row, episodes[b].step].size
    for n in range(servers.shape[1]):
        _, _, response, errors, _ = route(
            episodes[b].now_ms, size, servers[b, n], constants[n], faults, row, n, p
        )
        out[b, n].reward = reward_of(response, errors, queue_ms(servers[b, n].in_flight + 1), p)
        out[b, n].response_time_ms = response


@kernel
def start_one(
    episodes: np.ndarray,
    servers: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    p: Any,
    seed: np.uint64,
    b: int,
) -> None:
    """Empty environment b and take it to the first arrival of its trace."""
    episode = episodes[b]
    row = episode.trace_row
    episode.step = 0
    episode.now_ms = arrivals[row, 0].arrival_ms
    episode.response_total_ms = 0.0
    episode.errors = 0
    for n in range(servers.shape[1]):
        server = servers[b, n]
        server.free_at_ms = 0.0
        server.next_departure_ms = np.inf
        server.oldest_arrival_ms = 0.0
        server.latency_ms = 0.0
        server.error_rate = 0.0
        server.peak_latency_ms = 0.0
        server.service_ms = 0.0
        server.pace = 0.0
        server.work = 0.0
        server.last_departure_ms = -1.0
        server.consecutive_errors = 0
        server.observed_at_ms = -1.0
        server.in_flight = 0
        server.routed = 0
        server.head = NO_REQUEST
        server.tail = NO_REQUEST
        server.fault = 0
        server.next_change_ms = -np.inf
        server.next_refresh_ms = world.refresh_phase(seed, n) * p.staleness_ms
        seen = metrics[b, n]
        copy_metrics(server, seen)
        refresh(server, seen, constants[n], faults, row, n, episode.now_ms, p)
