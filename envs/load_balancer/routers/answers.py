"""What balancers learn from the log of requests: loops over answers.

Shapes: B environments, N servers, R = 1 or with retries 2, T + 1 steps; the log has shape
(B, R, T + 1).
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.records import NO_REQUEST


@kernel
def peak(estimate_ms: float, sample_ms: float, elapsed_ms: float, decay_ms: float) -> float:
    """A peak-sensitive moving average: a larger sample replaces it, a smaller one pulls it down.

    Source: Finagle, `PeakEwma.scala`, `observe`.
    """
    if sample_ms > estimate_ms:
        return sample_ms
    weight = math.exp(-max(elapsed_ms, 0.0) / decay_ms)
    return weight * estimate_ms + (1.0 - weight) * sample_ms


@kernel
def is_sent(request: Any, now_ms: float) -> bool:
    """Whether a slot of a step so far holds a request, not a retry that was not (yet) sent."""
    return request.server >= 0 and request.arrival_ms <= now_ms


@kernel
def next_answer(
    log: np.ndarray,
    b: int,
    first: int,
    episode: Any,
    heard_ms: np.ndarray,
    seen: np.ndarray,
    after: int,
) -> int:
    """Find a balancer's next answer that is known and not yet heard of, in order of departure.

    Args:
        log: The requests, shape (B, R, T + 1).
        b: The environment.
        first: The first step whose requests may have such answers.
        episode: Its `EPISODE` record, which names the balancer.
        heard_ms: Until when each server's answers have been heard, shape (B, N).
        seen: The servers as the balancer sees them, shape (B, N).
        after: The answer before, or -1.

    Returns:
        R * step + the number of the try, or -1.
    """
    tries = log.shape[1]
    after_ms = log[b, after % tries, after // tries].departure_ms if after >= 0 else -np.inf
    found, found_ms = NO_REQUEST, np.inf
    for i in range(tries * first, tries * episode.step):
        request = log[b, i % tries, i // tries]
        if request.balancer != episode.balancer or not is_sent(request, episode.now_ms):
            continue
        time_ms, n = request.departure_ms, request.server
        if time_ms <= heard_ms[b, n] or time_ms > seen[b, n].observed_at_ms:
            continue
        if time_ms < found_ms and (time_ms > after_ms or (time_ms == after_ms and i > after)):
            found, found_ms = i, time_ms
    return found


@kernel
def finish_hearing(
    log: np.ndarray,
    b: int,
    episode: Any,
    seen: np.ndarray,
    heard_ms: np.ndarray,
    cursors: np.ndarray,
) -> None:
    """Note that all known answers have been heard, and skip the steps that are done with."""
    for n in range(heard_ms.shape[1]):
        heard_ms[b, n] = max(heard_ms[b, n], seen[b, n].observed_at_ms)
    while cursors[b] < episode.step:
        for k in range(log.shape[1]):
            request = log[b, k, cursors[b]]
            until_ms = episode.now_ms
            if request.server >= 0 and request.balancer == episode.balancer:
                until_ms = heard_ms[b, request.server]
            waits = request.arrival_ms > episode.now_ms or request.departure_ms > until_ms
            if request.server >= 0 and waits:
                return
        cursors[b] += 1


@kernel
def hear_peaks(
    log: np.ndarray,
    episodes: np.ndarray,
    seen: np.ndarray,
    decay_ms: float,
    estimates_ms: np.ndarray,
    updated_ms: np.ndarray,
    heard_ms: np.ndarray,
    cursors: np.ndarray,
) -> None:
    """Update peak-sensitive averages of response times, shape (B, N), by each new answer."""
    tries = log.shape[1]
    for b in range(cursors.shape[0]):
        episode, first = episodes[b], cursors[b]
        i = next_answer(log, b, first, episode, heard_ms, seen, NO_REQUEST)
        while i >= 0:
            answer = log[b, i % tries, i // tries]
            n, time_ms = answer.server, answer.departure_ms
            elapsed_ms = time_ms - updated_ms[b, n]
            estimates_ms[b, n] = peak(estimates_ms[b, n], answer.response_ms, elapsed_ms, decay_ms)
            updated_ms[b, n] = time_ms
            i = next_answer(log, b, first, episode, heard_ms, seen, i)
        finish_hearing(log, b, episode, seen, heard_ms, cursors)


@kernel
def hear_queues(
    log: np.ndarray,
    episodes: np.ndarray,
    seen: np.ndarray,
    weight: float,
    queues: np.ndarray,
    responses_ms: np.ndarray,
    services_ms: np.ndarray,
    heard_ms: np.ndarray,
    cursors: np.ndarray,
) -> None:
    """Update averages of queues and response times, shape (B, N), by each new answer.

    With an answer, a server reports the requests that it has left and its mean service time. The
    averages are below 0 before the first answer.
    """
    tries = log.shape[1]
    for b in range(cursors.shape[0]):
        episode, first = episodes[b], cursors[b]
        i = next_answer(log, b, first, episode, heard_ms, seen, NO_REQUEST)
        while i >= 0:
            answer = log[b, i % tries, i // tries]
            n, queue = answer.server, requests_left(log, b, first, episode, answer)
            share = weight if responses_ms[b, n] >= 0.0 else 1.0
            queues[b, n] += share * (queue - queues[b, n])
            responses_ms[b, n] += share * (answer.response_ms - responses_ms[b, n])
            services_ms[b, n] = seen[b, n].service_ms
            i = next_answer(log, b, first, episode, heard_ms, seen, i)
        finish_hearing(log, b, episode, seen, heard_ms, cursors)


@kernel
def requests_left(log: np.ndarray, b: int, first: int, episode: Any, answer: Any) -> int:
    """Requests, of any balancer, that a server still had when it gave an answer."""
    count, time_ms = 0, answer.departure_ms
    for step in range(first, episode.step):
        for k in range(log.shape[1]):
            request = log[b, k, step]
            there = is_sent(request, time_ms) and request.departure_ms > time_ms
            count += there and request.server == answer.server
    return count
