"""The outside world of a load-balancing episode, drawn once from a seed; no action changes it.

A trace holds every request's arrival time, size and error coin, and every server's faults.
Members of a group share one trace (common random numbers), so their returns differ only by
what they did. Each part has a stream of its own, so changing one part of a configuration leaves
the others as they were.

Shapes: R traces, T requests an episode, N servers, F fault slots a server.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.randomness import stream_key, uniform

ARRIVAL = np.dtype([("arrival_ms", "f8"), ("size", "f4"), ("error_coin", "f4")])
"""One request: when it arrives, its work (ms on a server of rate 1), and a uniform in (0, 1]."""

FAULT = np.dtype([("start_ms", "f8"), ("end_ms", "f8"), ("kind", "i8")])
"""One fault of one server, active in [start_ms, end_ms). Unused slots start at infinity."""

FAULT_KINDS = ("degraded", "slow", "erroring", "down")
DEGRADED, SLOW, ERRORING, DOWN = range(4)

ARRIVAL_PROCESSES = ("poisson", "deterministic", "diurnal", "markov_modulated")
POISSON, DETERMINISTIC_ARRIVALS, DIURNAL, MARKOV_MODULATED = range(4)

SIZE_DISTRIBUTIONS = ("exponential", "deterministic", "lognormal", "pareto", "hyperexponential")
EXPONENTIAL, DETERMINISTIC, LOGNORMAL, PARETO, HYPEREXPONENTIAL = range(5)

TRACE_PARAMETERS = np.dtype(
    [
        ("arrival_process", "i8"),
        ("mean_gap_ms", "f8"),
        ("diurnal_amplitude", "f8"),
        ("diurnal_period_ms", "f8"),
        ("burst_ratio", "f8"),
        ("mean_calm_ms", "f8"),
        ("mean_burst_ms", "f8"),
        ("size_distribution", "i8"),
        ("size_mean", "f8"),
        ("size_scv", "f8"),
        ("size_shape", "f8"),
        ("integer_times", "i8"),
        ("mean_time_to_failure_ms", "f8"),
        ("mean_time_to_recovery_ms", "f8"),
        ("fault_mix", "f8", (len(FAULT_KINDS),)),
    ]
)
"""What the drawing kernels read; one record, made from a `LoadBalancerConfig`."""

SCHEDULED_FAULT = np.dtype(
    [("server", "i8"), ("kind", "i8"), ("first_request", "i8"), ("last_request", "i8")]
)

_ARRIVALS, _SIZES, _ERRORS, _FAULTS, _PHASES = range(1, 6)


@kernel
def draw_traces(
    seeds: np.ndarray,
    rows: np.ndarray,
    parameters: np.ndarray,
    schedule: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
) -> None:
    """Draw whole traces into the given rows.

    Args:
        seeds: One seed per drawn trace, shape (M,), uint64.
        rows: Where each goes, shape (M,), int64.
        parameters: One `TRACE_PARAMETERS` record, shape (1,).
        schedule: Faults by request index, `SCHEDULED_FAULT` records.
        arrivals: Written, `ARRIVAL` records, shape (R, T + 1).
        faults: Written, `FAULT` records, shape (R, N, F).
    """
    p = parameters[0]
    for m in range(seeds.shape[0]):
        row = rows[m]
        _draw_arrival_times(seeds[m], p, arrivals[row])
        _draw_sizes(seeds[m], p, arrivals[row])
        for n in range(faults.shape[1]):
            _draw_faults(seeds[m], n, p, schedule, arrivals[row], faults[row, n])


@kernel
def _draw_arrival_times(seed: np.uint64, p: Any, arrivals: np.ndarray) -> None:
    key = stream_key(seed, _ARRIVALS)
    now = 0.0
    draws = 0
    bursting = False
    phase = 2.0 * math.pi * uniform(key, 0)
    rate = 1.0 / p.mean_gap_ms
    # The calm rate is set so that the long-run rate is 1 / mean_gap_ms whatever the bursts.
    burst_share = p.mean_burst_ms / (p.mean_burst_ms + p.mean_calm_ms)
    calm_rate = rate / (1.0 - burst_share + burst_share * p.burst_ratio)
    if p.arrival_process == MARKOV_MODULATED:
        bursting = uniform(key, 1) <= burst_share
    draws = 2
    for t in range(arrivals.shape[0]):
        if p.arrival_process == POISSON:
            gap = -math.log(uniform(key, draws)) * p.mean_gap_ms
            draws += 1
        elif p.arrival_process == DETERMINISTIC_ARRIVALS:
            gap = p.mean_gap_ms
        elif p.arrival_process == DIURNAL:
            gap = 0.0
            peak = rate * (1.0 + p.diurnal_amplitude)
            accepted = False
            while not accepted:  # thinning (Lewis and Shedler 1979)
                gap += -math.log(uniform(key, draws)) / peak
                angle = 2.0 * math.pi * (now + gap) / p.diurnal_period_ms + phase
                current = rate * (1.0 + p.diurnal_amplitude * math.sin(angle))
                accepted = uniform(key, draws + 1) * peak <= current
                draws += 2
        else:
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
        if p.integer_times:
            gap = math.floor(gap)
        now += gap
        arrivals[t].arrival_ms = now


@kernel
def _draw_sizes(seed: np.uint64, p: Any, arrivals: np.ndarray) -> None:
    key = stream_key(seed, _SIZES)
    error_key = stream_key(seed, _ERRORS)
    sigma_squared = math.log(1.0 + p.size_scv)
    scale = p.size_mean * (p.size_shape - 1.0) / p.size_shape
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
            size = p.size_mean * math.exp(math.sqrt(sigma_squared) * normal - 0.5 * sigma_squared)
        elif p.size_distribution == PARETO:
            size = scale * first ** (-1.0 / p.size_shape)
        else:
            share = branch if uniform(key, 2 * t + 1) <= branch else 1.0 - branch
            size = -math.log(first) * p.size_mean / (2.0 * share)
        if p.integer_times:
            size = math.floor(size)
        arrivals[t].size = size
        arrivals[t].error_coin = uniform(error_key, t)


@kernel
def _draw_faults(
    seed: np.uint64,
    server: int,
    p: Any,
    schedule: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
) -> None:
    for f in range(faults.shape[0]):
        faults[f].start_ms = np.inf
        faults[f].end_ms = np.inf
        faults[f].kind = DEGRADED
    count = 0
    for s in range(schedule.shape[0]):
        if schedule[s].server == server and schedule[s].first_request < len(arrivals):
            faults[count].start_ms = arrivals[schedule[s].first_request].arrival_ms
            kind = schedule[s].kind
            end = schedule[s].last_request
            if kind == DOWN:  # it comes back with the last arrival, or its queue would never end
                end = min(end, len(arrivals) - 1)
            faults[count].end_ms = arrivals[end].arrival_ms if end < len(arrivals) else np.inf
            faults[count].kind = kind
            count += 1
    if count > 0 or not math.isfinite(p.mean_time_to_failure_ms):
        return
    key = stream_key(seed, _FAULTS + 16 * (server + 1))
    last_arrival = arrivals[len(arrivals) - 1].arrival_ms
    now = 0.0
    for f in range(faults.shape[0]):
        now += -math.log(uniform(key, 3 * f)) * p.mean_time_to_failure_ms
        if now > last_arrival:
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
    """Where in the refresh period a server's metrics are published, uniform in (0, 1]."""
    return uniform(stream_key(seed, _PHASES), server)
