"""A step of one environment: the waiting request is routed, and failed ones are retried.

A request that fails is planned to be sent once more. Planned retries are linked in the order of
time, and interrupt the way to the next arrival.

Indices: b: environment, row: its trace, n: server, slot: of its requests; `p` and k as in
`dynamics`.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.dynamics import (
    Memory,
    pass_time,
    reward_of,
    route,
    send,
    settings_row,
)
from grpo_gym.envs.load_balancer.observation import queue_ms
from grpo_gym.envs.load_balancer.records import NO_REQUEST, PARK


@inlined
def step_one(memory: Memory, b: int, action: int) -> None:
    """Route the waiting request of environment b to server `action`, and go to the next arrival."""
    episode, out = memory.episodes[b], memory.outcomes[b]
    row, now, slot = episode.trace_row, episode.now_ms, episode.step
    p = memory.parameters[settings_row(memory.parameters, row)]
    k = settings_row(memory.constants, row)
    request = memory.arrivals[row, slot]
    out.degraded = memory.servers[b, action].degraded
    out.retries = 0
    out.done = slot + 2 == memory.arrivals.shape[1]
    in_flight = memory.servers[b, action].in_flight + 1
    answer = route(memory, b, action, request.size, now, p, k)
    error = request.error_coin <= answer.errors
    out.response_time_ms = answer.response_ms
    out.wait_ms = answer.start_ms - now
    out.error_probability = answer.errors
    out.error = error
    out.failures = error
    out.timed_out = answer.timed_out
    out.rejected = answer.rejected
    errors = answer.errors
    if p.retry:  # a failure costs no more than the time until it, and what the retry costs
        errors, out.failures = 0.0, 0
        if error:
            coin = request.error_coin / answer.errors  # uniform again, given the failure
            # By then it has left its server, even where rounding says otherwise.
            failed_ms = max(now + answer.response_ms, answer.departure_ms)
            _plan_retry(memory, b, slot, action, failed_ms, request.size, coin)
    out.reward = reward_of(answer.response_ms, errors, queue_ms(in_flight), p)
    send(memory, b, action, slot, now, request.size, error, answer, p, k)
    episode.step = slot + 1
    episode.now_ms = memory.arrivals[row, slot + 1].arrival_ms
    if p.retry:
        now = _serve_retries(memory, b, now, np.inf if out.done else episode.now_ms)
        episode.now_ms = max(now, episode.now_ms)  # an episode lasts until its last retry
    area = pass_time(memory, b, now, episode.now_ms, p, k)
    if p.num_balancers > 1:
        episode.balancer = trace.balancer_of(episode.seed, slot + 1, p.num_balancers)
    if p.reward == PARK:
        out.reward = -area
    episode.response_total_ms += out.response_time_ms
    episode.errors += out.failures


@kernel
def _plan_retry(
    memory: Memory, b: int, failed: int, n: int, time_ms: float, size: float, coin: float
) -> None:
    """Note that the request in slot `failed`, sent to server n, fails at a time, for one retry.

    Its slot holds the time and the coin until it is sent, in the order of time.
    """
    episode, requests = memory.episodes[b], memory.requests
    slot = memory.arrivals.shape[1] + failed
    planned = requests[b, slot]
    planned.arrival_ms, planned.response_ms = time_ms, coin
    planned.size, planned.server, planned.balancer = size, n, episode.balancer
    earlier, later = NO_REQUEST, episode.next_retry
    while later != NO_REQUEST and requests[b, later].arrival_ms <= time_ms:
        earlier, later = later, requests[b, later].next
    planned.next = later
    if earlier == NO_REQUEST:
        episode.next_retry = slot
    else:
        requests[b, earlier].next = slot


@kernel
def _serve_retries(memory: Memory, b: int, now: float, until: float) -> float:
    """Send the planned retries up to `until`, each at its time.

    Returns:
        The time of the last one, or `now` if there was none.
    """
    episode, requests, out = memory.episodes[b], memory.requests, memory.outcomes[b]
    p = memory.parameters[settings_row(memory.parameters, episode.trace_row)]
    k = settings_row(memory.constants, episode.trace_row)
    own_balancer = episode.balancer
    while episode.next_retry != NO_REQUEST and requests[b, episode.next_retry].arrival_ms <= until:
        slot = episode.next_retry
        planned = requests[b, slot]
        episode.next_retry = planned.next
        time_ms, coin, size, failed = (
            planned.arrival_ms,
            planned.response_ms,
            planned.size,
            planned.server,
        )
        pass_time(memory, b, now, time_ms, p, k)
        now = time_ms
        episode.balancer = planned.balancer
        n = _retry_server(memory, b, failed, p, k)
        in_flight = memory.servers[b, n].in_flight + 1
        answer = route(memory, b, n, size, now, p, k)
        error = coin <= answer.errors
        send(memory, b, n, slot, now, size, error, answer, p, k)
        episode.retries += 1
        out.retries += 1
        out.response_time_ms += answer.response_ms
        out.failures += error
        out.reward += reward_of(answer.response_ms, answer.errors, queue_ms(in_flight), p)
    episode.balancer = own_balancer
    return now


@inlined
def _retry_server(memory: Memory, b: int, failed: int, p: Any, k: int) -> int:
    """The server for a retry: the least (requests in flight + 1) / weight its balancer sees.

    The one that failed is left out if there is another.
    """
    episode = memory.episodes[b]
    best, least = failed, np.inf
    for n in range(p.num_servers):
        if n != failed:
            view = memory.views[b, episode.balancer * p.max_servers + n]
            cost = (view.in_flight + 1) / memory.constants[k, n].weight
            if cost < least:
                best, least = n, cost
    return best
