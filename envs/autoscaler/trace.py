"""The outside world of an autoscaling episode: demand, drawn once; no action changes it.

Members of a group share one trace (common random numbers), so their returns differ only by what
they did. Noise, bursts and the start have a stream of random numbers each, so changing one leaves
the others as they were.

Shapes: R traces, T steps an episode; a trace has T + 1 demands, the first before any step.
"""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.randomness import stream_key, uniform
from grpo_gym.settings.config import ConfigError

TRACE_PARAMETERS = np.dtype(
    [
        ("base_demand", "f8"),
        ("daily_amplitude", "f8"),
        ("half_daily_amplitude", "f8"),
        ("weekend_factor", "f8"),
        ("noise_correlation", "f8"),
        ("noise", "f8"),
        ("bursts", "f8"),
        ("burst_size", "f8", (2,)),
        ("burst_rise_minutes", "f8", (2,)),
        ("burst_hold_minutes", "f8", (2,)),
        ("burst_decay_minutes", "f8", (2,)),
        ("random_start", "?"),
        ("steps_per_day", "i8"),
    ]
)
"""What the drawing kernels read; one record, made from an `AutoScalerConfig`."""

_NOISE, _BURSTS, _START = range(1, 4)
_WEEK, _WORKDAYS = 7, 5
_OVER = 1e-4
"""Share of its height at which a burst is over."""


def trace_parameters(config: AutoScalerConfig) -> np.ndarray:
    """What the drawing kernels read, one `TRACE_PARAMETERS` record, shape (1,)."""
    parameters = np.zeros(1, TRACE_PARAMETERS)
    for name in TRACE_PARAMETERS.names or ():
        parameters[name] = getattr(config, name)
    return parameters


def read_demand(config: AutoScalerConfig) -> np.ndarray:
    """The recorded demand of `demand_csv`, requests/s, shape (rows,); empty without a file.

    Raises:
        ConfigError: If the file cannot be read, a line is no demand, or it is too short.
    """
    path = config.demand_csv
    if path is None:
        return np.zeros(0)
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"demand_csv must be a readable CSV file, got {path!r}: {error}"
        ) from None
    has_header = bool(rows) and _number(rows[0][1][0]) is None
    values = [_demand(path, number, row) for number, row in rows[has_header:]]
    needed = config.episode_steps + 1
    if len(values) < needed:
        raise ConfigError(
            f"demand_csv must have at least episode_steps + 1 = {needed} rows, got {len(values)} "
            f"in {path!r}: shorten episode_steps"
        )
    return np.array(values)


def _demand(path: str, number: int, row: list[str]) -> float:
    value = _number(row[0]) if len(row) == 1 else None
    if value is None or not 0.0 <= value < math.inf:
        raise ConfigError(
            f"demand_csv must have one number >= 0 (requests/s) a line, got {','.join(row)!r} in "
            f"line {number} of {path!r}"
        )
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
        rows: Where each goes, shape (M,), int64.
        parameters: One `TRACE_PARAMETERS` record, shape (1,).
        recorded: Demand to begin anywhere in, requests/s, shape (rows,); empty: the daily swing.
        demand: Written, requests/s, shape (R, T + 1), float32.
        starts: Written, steps from midnight of the first day to each start, shape (R,), int64.
    """
    p = parameters[0]
    for m in range(seeds.shape[0]):
        row = rows[m]
        first = uniform(stream_key(seeds[m], _START), 0)  # in (0, 1]: 1 - it is in [0, 1)
        if recorded.shape[0]:
            choices = recorded.shape[0] - demand.shape[1] + 1
            starts[row] = int((1.0 - first) * choices)
        elif p.random_start:
            days = 1 if p.weekend_factor == 1.0 else _WEEK
            starts[row] = int((1.0 - first) * days * p.steps_per_day)
        else:
            starts[row] = 0
        _draw_factors(seeds[m], p, demand, row)
        for t in range(demand.shape[1]):
            at = starts[row] + t
            base = recorded[at] if recorded.shape[0] else usual_demand(at, p)
            demand[row, t] *= base


@kernel
def usual_demand(step: int, p: Any) -> float:
    """Demand without noise and bursts, requests/s, so many steps after the first midnight."""
    angle = 2.0 * math.pi * (step % p.steps_per_day) / p.steps_per_day
    swing = -p.daily_amplitude * math.cos(angle) + p.half_daily_amplitude * math.sin(2.0 * angle)
    day = step // p.steps_per_day % _WEEK
    return p.base_demand * (1.0 + swing) * (1.0 if day < _WORKDAYS else p.weekend_factor)


@kernel
def _draw_factors(seed: np.uint64, p: Any, demand: np.ndarray, row: int) -> None:
    """Noise and bursts as a factor on demand."""
    for t in range(demand.shape[1]):
        demand[row, t] = 1.0
    _add_bursts(seed, p, demand, row)
    if p.noise == 0.0:
        return
    key = stream_key(seed, _NOISE)
    level = _normal(key, 0) * p.noise / math.sqrt(1.0 - p.noise_correlation**2)
    for t in range(demand.shape[1]):
        demand[row, t] *= math.exp(level)
        level = p.noise_correlation * level + p.noise * _normal(key, t + 1)


@kernel
def _add_bursts(seed: np.uint64, p: Any, demand: np.ndarray, row: int) -> None:
    """A Poisson process of bursts, each of which rises, holds, and decays."""
    if p.bursts == 0.0:
        return
    key = stream_key(seed, _BURSTS)
    per_minute = p.steps_per_day / 1440.0
    begin, draws = 0.0, 0
    while True:
        begin -= math.log(uniform(key, draws)) * p.steps_per_day / p.bursts
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
    """A burst some steps after its beginning, as a share of its height."""
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
    """Standard normal number `index` of a stream (Box and Muller 1958)."""
    radius = math.sqrt(-2.0 * math.log(uniform(key, 2 * index)))
    return radius * math.cos(2.0 * math.pi * uniform(key, 2 * index + 1))
