"""The trace of a load-balancing episode: all that is random, drawn from a seed at reset.

A trace holds every request's arrival time, size and error coin, and every server's faults. No
action changes it. Members of a group share one trace (common random numbers), so their returns
differ only by their actions. Each part has a random stream of its own, so a change of one setting
leaves the other parts as they were.

Shapes: R trace rows, T requests per episode, N servers, F fault slots per server.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.randomness import stream_key, uniform

ARRIVAL = np.dtype([("arrival_ms", "f8"), ("size", "f4"), ("error_coin", "f4")])
"""A request: its arrival, its size (ms on a server of rate 1), and a uniform number in (0, 1]."""

FAULT = np.dtype([("start_ms", "f8"), ("end_ms", "f8"), ("kind", "i8")])
"""A fault of a server, active in [start_ms, end_ms). Unused slots start at infinity."""

# Choices of `LoadBalancerConfig` by number, in the order of their `Literal`.
DEGRADED, SLOW, ERRORING, DOWN = range(4)
POISSON, DETERMINISTIC_ARRIVALS, DIURNAL, MARKOV_MODULATED = range(4)
EXPONENTIAL, DETERMINISTIC, LOGNORMAL, PARETO, HYPEREXPONENTIAL = range(5)
_NO_FAULT = np.array([(np.inf, np.inf, DEGRADED)], FAULT)

RECORDED = np.dtype([("gap", "f8"), ("size", "f8")])
"""A recorded request: the time since the one before, and its size, each over its mean; a size of -1
where none is recorded."""

SCHEDULED_FAULT = np.dtype(
    [("server", "i8"), ("kind", "i8"), ("first_request", "i8"), ("last_request", "i8")]
)
"""A fault at fixed requests: it ends when `last_request` arrives."""

_ARRIVALS, _SIZES, _ERRORS, _FAULTS, _PHASES, _BALANCERS = range(1, 7)


@kernel
def draw_traces(
    seeds: np.ndarray,
    rows: np.ndarray,
    parameters: np.ndarray,
    schedule: np.ndarray,
    recording: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
) -> None:
    """Draw the traces of some seeds, shape (M,), uint64, into the given rows, shape (M,), int64.

    Written are `arrivals`, `ARRIVAL` records of shape (R, T + 1), and `faults`, `FAULT` records of
    shape (R, N, F). `parameters` are settings, shape (1,) or (R,); `schedule` are
    `SCHEDULED_FAULT` records; `recording` are `RECORDED` records, none without a recording.
    """
    for m in range(seeds.shape[0]):
        row = rows[m]
        p = parameters[min(row, parameters.shape[0] - 1)]
        if recording.shape[0]:
            _replay_arrival_times(seeds[m], p, recording, arrivals[row])
        else:
            _draw_arrival_times(seeds[m], p, arrivals[row])
        _draw_sizes(seeds[m], p, arrivals[row])
        if recording.shape[0] and recording[0].size >= 0.0:
            _replay_sizes(seeds[m], p, recording, arrivals[row])
        for n in range(faults.shape[1]):
            for f in range(faults.shape[2]):
                faults[row, n, f] = _NO_FAULT[0]
            if n >= p.num_servers:  # absent
                continue
            if not _schedule_faults(n, schedule, arrivals[row], faults[row, n]):
                _draw_faults(seeds[m], n, p, arrivals[row, -1].arrival_ms, faults[row, n])


@kernel
def _draw_arrival_times(seed: np.uint64, p: Any, arrivals: np.ndarray) -> None:
    key = stream_key(seed, _ARRIVALS)
    phase = 2.0 * math.pi * uniform(key, 0)
    burst_share = p.mean_burst_ms / (p.mean_burst_ms + p.mean_calm_ms)
    bursting = p.arrival_process == MARKOV_MODULATED and uniform(key, 1) <= burst_share
    draws = 2
    now = 0.0
    for t in range(arrivals.shape[0]):
        if p.arrival_process == POISSON:
            gap = -math.log(uniform(key, draws)) * p.mean_gap_ms
            draws += 1
        elif p.arrival_process == DETERMINISTIC_ARRIVALS:
            gap = p.mean_gap_ms
        elif p.arrival_process == DIURNAL:
            gap, draws = _diurnal_gap(key, draws, now, phase, p)
        else:
            gap, draws, bursting = _modulated_gap(key, draws, bursting, burst_share, p)
        if p.integer_times:
            gap = math.floor(gap)
        now += gap
        arrivals[t].arrival_ms = now


@inlined
def _recorded_start(seed: np.uint64, recording: np.ndarray, requests: int) -> int:
    """The first of the recorded requests that an episode replays."""
    starts = recording.shape[0] - requests + 1
    return min(int(uniform(stream_key(seed, _ARRIVALS), 0) * starts), starts - 1)


@kernel
def _replay_arrival_times(
    seed: np.uint64, p: Any, recording: np.ndarray, arrivals: np.ndarray
) -> None:
    """Write consecutive recorded gaps, scaled to the mean gap."""
    start, now = _recorded_start(seed, recording, len(arrivals)), 0.0
    for t in range(len(arrivals)):
        gap = recording[start + t].gap * p.mean_gap_ms
        now += math.floor(gap) if p.integer_times else gap
        arrivals[t].arrival_ms = now


@kernel
def _replay_sizes(seed: np.uint64, p: Any, recording: np.ndarray, arrivals: np.ndarray) -> None:
    """Write the recorded sizes of the same requests, scaled to the mean size."""
    start = _recorded_start(seed, recording, len(arrivals))
    for t in range(len(arrivals)):
        size = recording[start + t].size * p.size_mean
        arrivals[t].size = math.floor(size) if p.integer_times else size


@inlined
def _diurnal_gap(key: np.uint64, draws: int, now: float, phase: float, p: Any) -> tuple[float, int]:
    """Time to the next arrival at a sinusoidal rate, and the random numbers used so far.

    Source: thinning (Lewis and Shedler, 1979).
    """
    rate = 1.0 / p.mean_gap_ms
    peak = rate * (1.0 + p.diurnal_amplitude)
    gap = 0.0
    accepted = False
    while not accepted:
        gap += -math.log(uniform(key, draws)) / peak
        angle = 2.0 * math.pi * (now + gap) / p.diurnal_period_ms + phase
        current = rate * (1.0 + p.diurnal_amplitude * math.sin(angle))
        accepted = uniform(key, draws + 1) * peak <= current
        draws += 2
    return gap, draws


@inlined
def _modulated_gap(
    key: np.uint64, draws: int, bursting: bool, burst_share: float, p: Any
) -> tuple[float, int, bool]:
    """Time to the next arrival, the random numbers used so far, and whether it is in a burst."""
    # The calm rate keeps the long-run rate at 1 / mean_gap_ms.
    calm_rate = 1.0 / p.mean_gap_ms / (1.0 - burst_share + burst_share * p.burst_ratio)
    gap = 0.0
    arrived = False
    while not arrived:  # the next event is an arrival or a change of regime
        arrival_rate = calm_rate * p.burst_ratio if bursting else calm_rate
        change_rate = 1.0 / (p.mean_burst_ms if bursting else p.mean_calm_ms)
        total = arrival_rate + change_rate
        gap += -math.log(uniform(key, draws)) / total
        arrived = uniform(key, draws + 1) * total <= arrival_rate
        if not arrived:
            bursting = not bursting
        draws += 2
    return gap, draws, bursting


@kernel
def _draw_sizes(seed: np.uint64, p: Any, arrivals: np.ndarray) -> None:
    key = stream_key(seed, _SIZES)
    error_key = stream_key(seed, _ERRORS)
    log_variance = math.log(1.0 + p.size_scv)
    smallest = p.size_mean * (p.size_shape - 1.0) / p.size_shape
    # Two exponentials with balanced means have any coefficient of variation above 1.
    branch = 0.5 * (1.0 + math.sqrt(max(p.size_scv - 1.0, 0.0) / (p.size_scv + 1.0)))
    for t in range(arrivals.shape[0]):
        first = uniform(key, 2 * t)
        if p.size_distribution == EXPONENTIAL:
            size = -math.log(first) * p.size_mean
        elif p.size_distribution == DETERMINISTIC:
            size = p.size_mean
        elif p.size_distribution == LOGNORMAL:
            angle = 2.0 * math.pi * uniform(key, 2 * t + 1)
            normal = math.sqrt(-2.0 * math.log(first)) * math.cos(angle)
            size = p.size_mean * math.exp(math.sqrt(log_variance) * normal - 0.5 * log_variance)
        elif p.size_distribution == PARETO:
            size = smallest * first ** (-1.0 / p.size_shape)
        else:
            share = branch if uniform(key, 2 * t + 1) <= branch else 1.0 - branch
            size = -math.log(first) * p.size_mean / (2.0 * share)
        if p.integer_times:
            size = math.floor(size)
        arrivals[t].size = size
        arrivals[t].error_coin = uniform(error_key, t)


@kernel
def _schedule_faults(
    server: int, schedule: np.ndarray, arrivals: np.ndarray, faults: np.ndarray
) -> bool:
    """Write the faults scheduled for a server, and return whether there are any."""
    count = 0
    for s in range(schedule.shape[0]):
        if schedule[s].server == server and schedule[s].first_request < len(arrivals):
            faults[count].start_ms = arrivals[schedule[s].first_request].arrival_ms
            faults[count].kind = schedule[s].kind
            end = schedule[s].last_request
            if schedule[s].kind == DOWN:  # ends by the last arrival, so that its queue empties
                end = min(end, len(arrivals) - 1)
            faults[count].end_ms = arrivals[end].arrival_ms if end < len(arrivals) else np.inf
            count += 1
    return count > 0


@kernel
def _draw_faults(
    seed: np.uint64, server: int, p: Any, last_arrival_ms: float, faults: np.ndarray
) -> None:
    if not math.isfinite(p.mean_time_to_failure_ms):
        return
    key = stream_key(seed, _FAULTS + 16 * (server + 1))
    now = 0.0
    for f in range(faults.shape[0]):
        now += -math.log(uniform(key, 3 * f)) * p.mean_time_to_failure_ms
        if now > last_arrival_ms:
            break
        faults[f].start_ms = now
        now += -math.log(uniform(key, 3 * f + 1)) * p.mean_time_to_recovery_ms
        faults[f].end_ms = now
        faults[f].kind = _pick(p.fault_mix, uniform(key, 3 * f + 2))


@kernel
def _pick(probabilities: np.ndarray, coin: float) -> int:
    total = 0.0
    for kind in range(probabilities.shape[0]):
        total += probabilities[kind]
        if coin <= total:
            return kind
    return probabilities.shape[0] - 1


@kernel
def refresh_phase(seed: np.uint64, server: int) -> float:
    """The point in the refresh period at which a server's metrics are published, in (0, 1]."""
    return uniform(stream_key(seed, _PHASES), server)


@inlined
def balancer_of(seed: np.uint64, request: int, balancers: int) -> int:
    """The balancer that a request comes to: each with equal probability."""
    coin = uniform(stream_key(seed, _BALANCERS), request)
    return min(int(coin * balancers), balancers - 1)
