"""The requests in flight at one server: first come, first served, by any number of workers.

They are linked in the order in which they leave. With one worker that is the order of arrival; with
several, a request overtakes those whose service lasts longer. The workers themselves need no
memory: the c-th last departure is the time at which the first of c busy workers is free, because
whoever leaves earlier has been followed by another on the same worker, or had none.

Indices: b: environment, slot: of its requests, n: server.
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


@inlined
def service_start(server: Any, requests: np.ndarray, b: int, now: float, workers: int) -> float:
    """When service of a request that arrives now starts, if the server is up (ms)."""
    if workers == 1:
        return max(now, server.free_at_ms)
    return now if server.in_flight < workers else _worker_free_at(server, requests, b, workers)


@kernel
def _worker_free_at(server: Any, requests: np.ndarray, b: int, workers: int) -> float:
    """The c-th last departure of at least c requests in flight (ms)."""
    slot = server.head
    for _ in range(server.in_flight - workers):
        slot = requests[b, slot].next
    departure_ms: float = requests[b, slot].departure_ms
    return departure_ms


@inlined
def enqueue(server: Any, requests: np.ndarray, b: int, slot: int, workers: int) -> None:
    """Add a request, whose arrival, departure and size are known, to a server."""
    request = requests[b, slot]
    request.next = NO_REQUEST
    if server.in_flight == 0:
        server.head = server.tail = slot
        server.next_departure_ms = request.departure_ms
    elif workers == 1 or request.departure_ms >= requests[b, server.tail].departure_ms:
        requests[b, server.tail].next = slot
        server.tail = slot
    else:
        _insert(server, requests, b, slot)
    server.in_flight += 1
    server.work += request.size
    server.free_at_ms = max(server.free_at_ms, request.departure_ms)


@kernel
def _insert(server: Any, requests: np.ndarray, b: int, slot: int) -> None:
    """Link a request before the first that leaves later, of which there is one."""
    request = requests[b, slot]
    earlier, later = NO_REQUEST, server.head
    while requests[b, later].departure_ms <= request.departure_ms:
        earlier, later = later, requests[b, later].next
    request.next = later
    if earlier == NO_REQUEST:
        server.head = slot
        server.next_departure_ms = request.departure_ms
    else:
        requests[b, earlier].next = slot


@inlined
def advance(
    server: Any,
    views: np.ndarray,
    requests: np.ndarray,
    b: int,
    n: int,
    now: float,
    until: float,
    workers: int,
    shared: bool,
    p: Any,
) -> float:
    """Remove the requests that a server has answered by `until`; their balancers observe it.

    `views` are the servers as each balancer sees them, for balancers that share the servers.

    Returns:
        The time integral of the server's requests from `now` to `until`, in request ms.
    """
    area = 0.0
    weight = p.metrics_weight
    while server.in_flight > 0 and server.next_departure_ms <= until:
        request = requests[b, server.head]
        area += request.departure_ms - now
        view = views[b, request.balancer * p.max_servers + n] if shared else server
        observe_latency(view, request.response_ms, weight)
        if not request.timed_out:
            observe_service(view, request, weight, p.num_balancers > 1 or workers > 1)
        observe_error(view, np.float64(request.error), request.departure_ms, weight)
        server.in_flight -= 1
        server.work -= request.size
        if server.in_flight > 0:
            server.head = request.next
            server.next_departure_ms = requests[b, request.next].departure_ms
        else:
            server.work = 0.0  # removes rounding errors
        if shared:
            view.in_flight -= 1
            view.work = view.work - request.size if view.in_flight > 0 else 0.0
        if shared or workers > 1:
            if request.arrival_ms <= view.oldest_arrival_ms:
                _find_oldest(server, view, requests, b, request.balancer)
        elif server.in_flight > 0:
            server.oldest_arrival_ms = requests[b, server.head].arrival_ms
    if server.in_flight > 0:
        area += server.in_flight * (until - now)
    return area


@kernel
def _find_oldest(server: Any, view: Any, requests: np.ndarray, b: int, balancer: int) -> None:
    """Find the arrival of the oldest request that a balancer has in flight at a server."""
    oldest_ms = np.inf
    slot = server.head
    for _ in range(server.in_flight):
        if requests[b, slot].balancer == balancer:
            oldest_ms = min(oldest_ms, requests[b, slot].arrival_ms)
        slot = requests[b, slot].next
    view.oldest_arrival_ms = oldest_ms


@kernel
def area_left(server: Any, requests: np.ndarray, b: int, now: float) -> float:
    """The time integral of the server's requests from `now` until it is empty, in request ms."""
    area = 0.0
    slot = server.head
    for _ in range(server.in_flight):
        area += requests[b, slot].departure_ms - now
        slot = requests[b, slot].next
    return area
