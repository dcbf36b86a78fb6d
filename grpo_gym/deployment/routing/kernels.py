"""What happens to real requests, written into the records of one `LoadBalancerSimulator`.

The simulator knows when a request will leave; a real balancer learns it when the request leaves.
Until then its departure is infinite. Averages are those of the simulator: the same functions.

Everything is about environment 0. Slots are places of the log of requests.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer.observation import (
    observe_error,
    observe_latency,
    observe_service,
)
from grpo_gym.envs.load_balancer.records import NO_REQUEST

ANSWERED, FAILED, REFUSED, TIMED_OUT = range(4)
"""How a request ended: a refusal teaches nothing about latency, a time-out nothing about service,
as in the simulator."""


@inlined
def _enter(server: Any, requests: np.ndarray, slot: int, n: int) -> None:
    """Add a request, whose arrival and size are known, to those in flight at server n."""
    request = requests[0, slot]
    request.departure_ms = request.response_ms = np.inf
    request.next = NO_REQUEST
    request.server = n
    request.in_flight = server.in_flight + 1
    if server.in_flight == 0:
        server.head = server.tail = slot
        server.oldest_arrival_ms = request.arrival_ms
    else:
        requests[0, server.tail].next = slot
        server.tail = slot
    server.in_flight += 1
    server.work += request.size


@kernel
def send(
    episodes: np.ndarray, servers: np.ndarray, requests: np.ndarray, arrivals: np.ndarray, n: int
) -> int:
    """Send the waiting request to server n, and return its slot."""
    episode, slot = episodes[0], episodes[0].step
    request = requests[0, slot]
    request.arrival_ms = episode.now_ms
    request.size = arrivals[0, slot].size
    request.balancer = 0
    request.error = request.timed_out = 0
    _enter(servers[0, n], requests, slot, n)
    servers[0, n].routed += 1
    episode.step = slot + 1
    return slot


@kernel
def leave(servers: np.ndarray, requests: np.ndarray, slot: int, now_ms: float) -> None:
    """Take a request out of its server's requests in flight, which are linked by arrival."""
    request = requests[0, slot]
    server = servers[0, request.server]
    request.departure_ms = now_ms
    before, there = NO_REQUEST, server.head
    while there != slot:
        before, there = there, requests[0, there].next
    if before == NO_REQUEST:
        server.head = request.next
    else:
        requests[0, before].next = request.next
    if server.tail == slot:
        server.tail = before
    server.in_flight -= 1
    server.work -= request.size
    if server.in_flight == 0:
        server.work = 0.0  # removes rounding errors
    else:
        server.oldest_arrival_ms = requests[0, server.head].arrival_ms


@kernel
def withdraw(
    servers: np.ndarray,
    requests: np.ndarray,
    parameters: np.ndarray,
    slot: int,
    now_ms: float,
    waited_ms: float,
) -> None:
    """Take a request out without an answer; for the log it was never sent.

    It would have taken longer than `waited_ms`, which can only raise an average that there is.
    """
    server = servers[0, requests[0, slot].server]
    leave(servers, requests, slot, now_ms)
    requests[0, slot].server = NO_REQUEST
    if 0.0 < server.latency_ms < waited_ms:
        observe_latency(server, waited_ms, parameters[0].metrics_weight)


@kernel
def answer(
    servers: np.ndarray,
    requests: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    slot: int,
    now_ms: float,
    response_ms: float,
    end: int,
) -> None:
    """Note how a request ended, now, and what its server shows by it."""
    request = requests[0, slot]
    server = servers[0, request.server]
    weight, workers = parameters[0].metrics_weight, constants[0, request.server].workers
    leave(servers, requests, slot, now_ms)
    request.response_ms = response_ms
    request.error = end != ANSWERED
    request.timed_out = end == TIMED_OUT
    if end != REFUSED:
        observe_latency(server, response_ms, weight)
        if end != TIMED_OUT:
            observe_service(server, request, weight, workers > 1)
    observe_error(server, np.float64(request.error), now_ms, weight)


@kernel
def redirect(
    servers: np.ndarray,
    requests: np.ndarray,
    parameters: np.ndarray,
    slot: int,
    n: int,
    now_ms: float,
) -> None:
    """Note that a request's server failed it before now, so that it went on to server n."""
    failed = servers[0, requests[0, slot].server]
    leave(servers, requests, slot, now_ms)
    observe_error(failed, 1.0, now_ms, parameters[0].metrics_weight)
    _enter(servers[0, n], requests, slot, n)


@kernel
def compact(
    episodes: np.ndarray, servers: np.ndarray, requests: np.ndarray, keep: int, moves: np.ndarray
) -> None:
    """Make room in the log: keep what is in flight, and the last `keep` requests.

    Args:
        episodes: `EPISODE` records, shape (1,).
        servers: `SERVER` records, shape (1, N).
        requests: `REQUEST` records, shape (1, T + 1).
        keep: How many to keep at least.
        moves: Output, shape (T + 1,), int64: each slot's new place, or -1.
    """
    step, free = episodes[0].step, 0
    for slot in range(step):
        request = requests[0, slot]
        in_flight = request.server >= 0 and request.departure_ms == np.inf
        moves[slot] = NO_REQUEST
        if in_flight or slot >= step - keep:
            moves[slot] = free
            requests[0, free] = request
            free += 1
    for slot in range(free):
        request = requests[0, slot]
        if request.next >= 0:
            # Only links among requests in flight are followed, and those are all kept.
            request.next = moves[request.next]
    for n in range(servers.shape[1]):
        server = servers[0, n]
        if server.in_flight > 0:
            server.head, server.tail = moves[server.head], moves[server.tail]
    episodes[0].step = free
