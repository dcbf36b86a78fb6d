"""The trace of an episode: its demand, drawn once at reset; no action changes it.

Members of a group share one trace (common random numbers), so their returns differ only by their
actions. Noise, bursts and the start have random streams of their own, so that changing one leaves
the others as they are.

Shapes: R traces, T steps an episode; a trace has T + 1 demands, the first before any step.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.randomness import stream_key, uniform
from grpo_gym.envs.recordings import read_series
from grpo_gym.settings import ConfigError

_NOISE, _BURSTS, _START = range(1, 4)
_WEEK, _WORKDAYS = 7, 5
_OVER = 1e-4
"""Share of its peak below which a burst is over."""


def read_demand(config: AutoScalerConfig) -> np.ndarray:
    """Read the demand recorded in `demand_csv`, requests/s, shape (rows,); empty without a file.

    Raises:
        ConfigError: If the file cannot be read, a cell is no demand, or it is too short.
    """
    if config.demand_csv is None:
        return np.zeros(0)
    demand = read_series(config.demand_csv, config.demand_column)
    needed = config.episode_steps + 1
    if len(demand) < needed:
        raise ConfigError(
            f"demand_csv must have at least episode_steps + 1 = {needed} rows, got {len(demand)} "
            f"in {config.demand_csv!r}: shorten episode_steps"
        )
    return demand


@kernel
def draw_traces(
    seeds: np.ndarray,
    rows: np.ndarray,
    parameters: np.ndarray,
    recorded: np.ndarray,
    demand: np.ndarray,
    starts: np.ndarray,
) -> None:
    """Draw whole traces into the given rows.

    Args:
        seeds: One seed per drawn trace, shape (M,), uint64.
        rows: Their rows, shape (M,), int64.
        parameters: From `kernel_parameters`.
        recorded: Demand in which traces start anywhere, requests/s, shape (rows,); empty: the
            daily swing.
        demand: Written, requests/s, shape (R, T + 1), float32.
        starts: Written, steps from midnight of the first day to each start, shape (R,), int64.
    """
    p = parameters[0]
    for m in range(seeds.shape[0]):
        row = rows[m]
        coin = 1.0 - uniform(stream_key(seeds[m], _START), 0)  # in [0, 1)
        starts[row] = 0
        if recorded.shape[0]:
            starts[row] = int(coin * (recorded.shape[0] - demand.shape[1] + 1))
        elif p.random_start:
            days = 1 if p.weekend_factor == 1.0 else _WEEK
            starts[row] = int(coin * days * p.steps_per_day)
        demand[row, :] = 1.0
        _add_bursts(seeds[m], p, demand, row)
        _add_noise(seeds[m], p, demand, row)
        for t in range(demand.shape[1]):
            at = starts[row] + t
            demand[row, t] *= recorded[at] if recorded.shape[0] else usual_demand(at, p)


@kernel
def usual_demand(step: int, p: Any) -> float:
    """Compute demand without noise and bursts, requests/s, `step` steps after midnight of day 1."""
    angle = 2.0 * math.pi * (step % p.steps_per_day) / p.steps_per_day
    swing = -p.daily_amplitude * math.cos(angle) + p.half_daily_amplitude * math.sin(2.0 * angle)
    day = step // p.steps_per_day % _WEEK
    return p.base_demand * (1.0 + swing) * (1.0 if day < _WORKDAYS else p.weekend_factor)


@kernel
def _add_noise(seed: np.uint64, p: Any, demand: np.ndarray, row: int) -> None:
    """Multiply by a factor whose logarithm is a stationary autoregression."""
    if p.noise_sigma == 0.0:
        return
    key = stream_key(seed, _NOISE)
    level = _normal(key, 0) * p.noise_sigma / math.sqrt(1.0 - p.noise_correlation**2)
    for t in range(demand.shape[1]):
        demand[row, t] *= math.exp(level)
        level = p.noise_correlation * level + p.noise_sigma * _normal(key, t + 1)


@kernel
def _add_bursts(seed: np.uint64, p: Any, demand: np.ndarray, row: int) -> None:
    """Add a Poisson process of bursts, each of which rises, holds and decays."""
    if p.bursts_per_day == 0.0:
        return
    key = stream_key(seed, _BURSTS)
    per_minute = p.steps_per_day / 1440.0
    begin, draws = 0.0, 0
    while True:
        begin -= math.log(uniform(key, draws)) * p.steps_per_day / p.bursts_per_day
        if begin >= demand.shape[1]:
            break
        size = _between(p.burst_size, uniform(key, draws + 1))
        rise = _between(p.burst_rise_minutes, uniform(key, draws + 2)) * per_minute
        hold = _between(p.burst_hold_minutes, uniform(key, draws + 3)) * per_minute
        decay = _between(p.burst_decay_minutes, uniform(key, draws + 4)) * per_minute
        draws += 5
        for t in range(math.ceil(begin), demand.shape[1]):
            height = _height(t - begin, rise, hold, decay)
            demand[row, t] += size * height
            if height < _OVER and t - begin > rise + hold:
                break


@kernel
def _height(since: float, rise: float, hold: float, decay: float) -> float:
    """Height of a burst `since` steps after its beginning, as a share of its peak."""
    if since < rise:
        return since / rise
    if since <= rise + hold:
        return 1.0
    return math.exp(-(since - rise - hold) / decay)


@kernel
def _between(limits: np.ndarray, coin: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * coin


@kernel
def _normal(key: np.uint64, index: int) -> float:
    """Draw standard normal number `index` of a stream (Box and Muller 1958)."""
    radius = math.sqrt(-2.0 * math.log(uniform(key, 2 * index)))
    return radius * math.cos(2.0 * math.pi * uniform(key, 2 * index + 1))
