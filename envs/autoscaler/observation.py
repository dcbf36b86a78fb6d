"""Observations of a cluster: metrics scaled from their ranges to [-1, 1], and what else is known.

Shapes: B environments, M numbers of the current observation, H steps of history.
"""

import math

import numpy as np

from grpo_gym.envs.autoscaler import records
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import METRIC_RANGES, METRICS
from grpo_gym.envs.kernels import inlined, kernel

NUM_METRICS = len(METRICS)
_LARGEST = np.array([highest for _, highest in METRIC_RANGES.values()])


def feature_names(config: AutoScalerConfig) -> tuple[str, ...]:
    """Name the numbers of the current observation, in order."""
    names: tuple[str, ...] = METRICS
    if config.observe_pending:
        names += ("pending",)
    if config.observe_time:
        names += ("sin_day", "cos_day")
    if config.observe_week:
        names += ("sin_week", "cos_week")
    if config.observe_configuration:
        names += ("batch_size", "timeout", "concurrency", "share")
    return names


@inlined
def _scaled(value: float, largest: float) -> float:
    return min(max(2.0 * value / largest - 1.0, -1.0), 1.0)


@kernel
def observe_metrics(rows: np.ndarray, out: np.ndarray) -> None:
    """Write the ten metrics by their ranges.

    Args:
        rows: Measurements in their units, shape (B, 10), float64.
        out: Written from the front, shape (B, M), float32.
    """
    for b in range(rows.shape[0]):
        for i in range(NUM_METRICS):
            out[b, i] = _scaled(rows[b, i], _LARGEST[i])


@kernel
def observe_rest(
    episodes: np.ndarray,
    starts: np.ndarray,
    clusters: np.ndarray,
    parameters: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write what follows the metrics.

    Args:
        episodes: `EPISODE` records, shape (B,).
        starts: Steps from midnight to each trace's start, shape (R,), int64.
        clusters: `CLUSTER` records, shape (B,).
        parameters: From `kernel_parameters`.
        out: Written after the metrics, shape (B, M), float32.
    """
    p = parameters[0]
    for b in range(out.shape[0]):
        cluster = clusters[b]
        at = NUM_METRICS
        if p.observe_pending:
            out[b, at] = _scaled(cluster.pending, _LARGEST[NUM_METRICS - 1])
            at += 1
        now = starts[episodes[b].trace_row] + episodes[b].step
        if p.observe_time:
            at = _observe_phase(now, p.steps_per_day, out, b, at)
        if p.observe_week:
            at = _observe_phase(now, 7 * p.steps_per_day, out, b, at)
        if p.observe_configuration:
            out[b, at] = _scaled(cluster.batch, len(records.BATCH_SIZES) - 1)
            out[b, at + 1] = _scaled(cluster.timeout, len(records.TIMEOUTS_S) - 1)
            out[b, at + 2] = _scaled(cluster.concurrency, len(records.CONCURRENCIES) - 1)
            out[b, at + 3] = _scaled(cluster.share, records.SHARES - 1)


@inlined
def _observe_phase(now: int, period: int, out: np.ndarray, b: int, at: int) -> int:
    angle = 2.0 * math.pi * (now % period) / period
    out[b, at] = math.sin(angle)
    out[b, at + 1] = math.cos(angle)
    return at + 2


def remember(
    members: np.ndarray, episodes: np.ndarray, rows: np.ndarray, history: np.ndarray
) -> None:
    """Replace the oldest metrics of each history by the newest; all of it at an episode's start.

    Args:
        members: Which environments, shape (M,), int64.
        episodes: `EPISODE` records, shape (B,).
        rows: The metrics as observed, shape (B, 10), float32.
        history: Step t at row t % H, shape (B, H, 10), float32.
    """
    steps = episodes["step"][members]
    history[members, steps % history.shape[1]] = rows[members]
    started = members[steps == 0]
    history[started] = rows[started, None]


def unroll(episodes: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Return histories, oldest first, shape (B, H, 10), float32; see `remember` for the order."""
    count, length, _ = history.shape
    rows = (episodes["step"][:, None] + np.arange(1, length + 1)) % length
    return history[np.arange(count)[:, None], rows]
