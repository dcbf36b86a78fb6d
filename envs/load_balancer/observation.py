"""What the balancer sees: metrics of the servers, and their encoding as features in [0, 1].

A quantity x is encoded as log1p(x) / log1p(10,000), so that a small network can form products and
quotients. The units of x are requests, tenths of a mean service time, hundredths of a per cent of
errors, tenths of a mean size, tenths of the pace (ms per unit of work) of a server of rate 1, and
tenths of the mean weight. The features of servers that an episode does not have are -1.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.records import PER_SERVER

_LARGEST = 10_000.0
_SCALE = np.float32(1.0 / math.log1p(_LARGEST))
_ONE = np.float32(1.0)
_WITHOUT_SIZE, _WITH_SIZE = 6, 8
"""Features per server."""
_ABSENT = np.float32(-1.0)
_AGGREGATES = 4
"""Features of all servers together."""
_MANY_ERRORS = 1_000
"""Longer runs of errors are not counted."""


def count_features(config: LoadBalancerConfig) -> int:
    """Length of an observation, D."""
    if config.observation == "aggregate":
        return _AGGREGATES + config.observe_size
    features = (_WITH_SIZE if config.observe_size else _WITHOUT_SIZE) + config.observe_weights
    return features * config.server_slots + config.observe_size


@inlined
def queue_ms(in_flight: float) -> float:
    """The queueing delay in tiny-grpo's model: 5 ms for each request above ten."""
    return 5.0 * max(0.0, in_flight - 10.0)


@inlined
def observe_latency(server: Any, response_ms: float, weight: float) -> None:
    """Update the average latency by a response."""
    if server.latency_ms > 0.0:
        server.latency_ms += weight * (response_ms - server.latency_ms)
    else:  # the first response
        server.latency_ms = response_ms


@inlined
def observe_service(server: Any, request: Any, weight: float, side_by_side: bool) -> None:
    """Update the average service time: from the previous departure or the arrival, if later.

    That is the service time only where one worker serves the requests of one balancer. Where others
    are served side by side it is the time per answer while the balancer waits for one, and only
    its ratio to the size of a mean request, not of this one, is a pace.
    """
    service_ms = request.departure_ms - max(request.arrival_ms, server.last_departure_ms)
    if server.last_departure_ms < 0.0:  # the first service
        weight = 1.0
    server.service_ms += weight * (service_ms - server.service_ms)
    if side_by_side:
        server.mean_size += weight * (request.size - server.mean_size)
        server.pace = server.service_ms / max(server.mean_size, 1e-9)
    else:
        pace = service_ms / max(request.size, 1e-9)
        server.pace += weight * (pace - server.pace)
    server.last_departure_ms = request.departure_ms


@inlined
def observe_error(server: Any, error: float, time_ms: float, weight: float) -> None:
    """Update the error rate and the number of errors in a row by a response: 1 if it failed."""
    if server.observed_at_ms < 0.0:
        server.error_rate = error
    else:
        server.error_rate += weight * (error - server.error_rate)
    consecutive = min(server.consecutive_errors + 1, _MANY_ERRORS)
    server.consecutive_errors = consecutive if error > 0.0 else 0
    server.observed_at_ms = time_ms


@inlined
def publish(server: Any, seen: Any, now: float, p: Any) -> None:
    """Copy a server's metrics to where the balancer sees them, if a publication is due.

    Without staleness the balancer sees the server itself.
    """
    if p.staleness_ms > 0.0 and now >= server.next_refresh_ms:
        periods = math.floor((now - server.next_refresh_ms) / p.staleness_ms) + 1.0
        server.next_refresh_ms += periods * p.staleness_ms
        copy_metrics(server, seen)


@kernel
def copy_metrics(server: Any, seen: Any) -> None:
    """Make the balancer see a server as it is now."""
    seen.in_flight = server.in_flight
    seen.latency_ms = server.latency_ms
    seen.error_rate = server.error_rate
    seen.service_ms = server.service_ms
    seen.pace = server.pace
    seen.work = server.work
    seen.consecutive_errors = server.consecutive_errors
    seen.observed_at_ms = server.observed_at_ms
    seen.oldest_arrival_ms = server.oldest_arrival_ms


@inlined
def _per_server(
    episode: Any, metrics: np.ndarray, constants: np.ndarray, p: Any, out: np.ndarray, b: int
) -> None:
    now = episode.now_ms
    to_feature = 1.0 / p.feature_time_ms
    known = _WITH_SIZE if p.observe_size else _WITHOUT_SIZE
    with_size, with_weights = p.observe_size, p.observe_weights
    features = known + 1 if with_weights else known
    size_to_feature = 10.0 / p.size_mean
    first = episode.balancer * p.max_servers
    for n in range(p.num_servers):
        seen = metrics[b, first + n]
        i = features * n
        out[b, i] = seen.in_flight
        out[b, i + 1] = seen.latency_ms * to_feature
        out[b, i + 2] = seen.error_rate * _LARGEST
        age = (now - seen.observed_at_ms) * to_feature
        out[b, i + 3] = _LARGEST if seen.observed_at_ms < 0.0 else age  # never observed: oldest
        waiting = (now - seen.oldest_arrival_ms) * to_feature
        out[b, i + 4] = waiting if seen.in_flight > 0 else 0.0
        out[b, i + 5] = seen.service_ms * to_feature
        if with_size:
            out[b, i + 6] = seen.work * size_to_feature
            out[b, i + 7] = seen.pace * 10.0
        if with_weights:
            out[b, i + known] = constants[min(episode.trace_row, constants.shape[0] - 1), n].share
    for i in range(features * p.num_servers, features * p.max_servers):
        out[b, i] = _ABSENT


@inlined
def _aggregate(episode: Any, metrics: np.ndarray, p: Any, out: np.ndarray, b: int) -> None:
    load, latency, errors, queue = 0.0, 0.0, 0.0, 0.0
    for n in range(p.num_servers):
        seen = metrics[b, episode.balancer * p.max_servers + n]
        load = max(load, seen.in_flight / 100.0)
        latency = max(latency, seen.latency_ms / 300.0)
        errors = max(errors, seen.error_rate / 0.10)
        queue = max(queue, queue_ms(seen.in_flight) / 500.0)
    out[b, 0] = min(load, 1.0)
    out[b, 1] = min(latency, 1.0)
    out[b, 2] = min(errors, 1.0)
    out[b, 3] = min(queue, 1.0)


@inlined
def encoded(x: np.float32) -> np.float32:
    """log1p(x) / log1p(10,000), clipped to [-1, 1], for float32 x >= 0 or x = -1, which stays.

    The logarithm is written out so that the compiler can vectorise it: with
    1 + x = 2^e m, m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1),
    log(1 + x) = e log 2 + 2 atanh(s), whose series to s^7 is exact to single precision.
    """
    bits = np.float32(_ONE + x).view(np.int32)
    # Subtracting the bits of sqrt(1/2) gives the exponent that belongs to this range of m.
    exponent = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))
    m = np.int32(bits - np.int32(exponent << np.int32(23))).view(np.float32)
    s = (m - _ONE) / (m + _ONE)
    q = s * s
    series = _ONE + q * (np.float32(1 / 3) + q * (np.float32(1 / 5) + q * np.float32(1 / 7)))
    log = np.float32(exponent) * np.float32(0.6931471805599453)
    log += np.float32(2.0) * s * series
    return max(_ABSENT, min(_ONE, log * _SCALE))


@kernel
def observe_all(
    episodes: np.ndarray,
    arrivals: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    observations: np.ndarray,
    flat: np.ndarray,
) -> None:
    """Write all observations, shape (B, D), float32; `flat` is a view of them, shape (B * D,)."""
    per_server = parameters[0].observation == PER_SERVER
    observe_size = parameters[0].observe_size
    for b in range(observations.shape[0]):
        episode = episodes[b]
        p = parameters[min(episode.trace_row, parameters.shape[0] - 1)]
        if per_server:
            _per_server(episode, metrics, constants, p, observations, b)
        else:
            _aggregate(episode, metrics, p, observations, b)
        if observe_size:
            size = arrivals[episode.trace_row, episode.step].size
            observations[b, observations.shape[1] - 1] = 10.0 * size / p.size_mean
    if per_server:
        for i in range(flat.shape[0]):
            flat[i] = encoded(flat[i])
    elif observe_size:  # the other aggregate features are clipped ratios, as in tiny-grpo
        for b in range(observations.shape[0]):
            last = observations.shape[1] - 1
            observations[b, last] = encoded(observations[b, last])
