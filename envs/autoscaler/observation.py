"""What is seen of a cluster: metrics by their known ranges as numbers in [-1, 1].

Shapes: B environments, M numbers now, H steps of history.
"""

import math

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import (
    BATCH_SIZES,
    CONCURRENCIES,
    METRICS,
    SHARES,
    TIMEOUTS_S,
)
from grpo_gym.envs.kernels import inlined, kernel

METRIC_RANGES = {
    "cpu_percent": (0.0, 100.0),
    "memory_percent": (0.0, 100.0),
    "network_mbit_per_s": (0.0, 10_000.0),
    "disk_io_per_s": (0.0, 100_000.0),
    "p50_latency_ms": (0.0, 1_000.0),
    "p99_latency_ms": (0.0, 10_000.0),
    "requests_per_s": (0.0, 100_000.0),
    "error_percent": (0.0, 100.0),
    "queue_depth": (0.0, 10_000.0),
    "replicas": (0.0, 100.0),
}
"""Smallest and largest value of each metric: they are observed as -1 and 1."""

NUM_METRICS = len(METRICS)
_LARGEST = np.array([METRIC_RANGES[name][1] for name in METRICS])
_BATCH_TOP, _TIMEOUT_TOP = len(BATCH_SIZES) - 1, len(TIMEOUTS_S) - 1
_CONCURRENCY_TOP, _SHARE_TOP = len(CONCURRENCIES) - 1, SHARES - 1
_WEEK = 7


def feature_names(config: AutoScalerConfig) -> tuple[str, ...]:
    """What the numbers of the current observation are, in order."""
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
    """The ten metrics by their ranges.

    Args:
        rows: As measured, shape (B, 10), float64.
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
    steps_per_day: int,
    p: np.ndarray,
    out: np.ndarray,
) -> None:
    """What follows the metrics.

    Args:
        episodes: `EPISODE` records, shape (B,).
        starts: Steps from midnight to each trace's start, shape (R,), int64.
        clusters: `CLUSTER` records, shape (B,).
        steps_per_day: Steps in 24 hours.
        p: One `PARAMETERS` record, shape (1,).
        out: Written after the metrics, shape (B, M), float32.
    """
    pending, time = p[0].observe_pending, p[0].observe_time
    for b in range(out.shape[0]):
        cluster = clusters[b]
        at = NUM_METRICS
        if pending:
            out[b, at] = _scaled(cluster.pending, _LARGEST[NUM_METRICS - 1])
            at += 1
        now = starts[episodes[b].trace_row] + episodes[b].step
        if time:
            at = _observe_phase(now, steps_per_day, out, b, at)
        if p[0].observe_week:
            at = _observe_phase(now, _WEEK * steps_per_day, out, b, at)
        if p[0].observe_configuration:
            out[b, at] = _scaled(cluster.batch, _BATCH_TOP)
            out[b, at + 1] = _scaled(cluster.timeout, _TIMEOUT_TOP)
            out[b, at + 2] = _scaled(cluster.concurrency, _CONCURRENCY_TOP)
            out[b, at + 3] = _scaled(cluster.share, _SHARE_TOP)


@inlined
def _observe_phase(now: int, period: int, out: np.ndarray, b: int, at: int) -> int:
    angle = 2.0 * math.pi * (now % period) / period
    out[b, at] = math.sin(angle)
    out[b, at + 1] = math.cos(angle)
    return at + 2


@kernel
def remember(
    members: np.ndarray, episodes: np.ndarray, rows: np.ndarray, history: np.ndarray
) -> None:
    """Put the newest metrics into each history, in place of the oldest.

    Args:
        members: Which environments, shape (M,), int64.
        episodes: `EPISODE` records, shape (B,).
        rows: The metrics as observed, shape (B, 10 or more), float32.
        history: Step t at row t % H, shape (B, H, 10), float32.
    """
    length = history.shape[1]
    for m in range(members.shape[0]):
        b = members[m]
        step = episodes[b].step
        first, last = (0, length) if step == 0 else (step % length, step % length + 1)
        for h in range(first, last):
            for i in range(NUM_METRICS):
                history[b, h, i] = rows[b, i]


@kernel
def unroll(episodes: np.ndarray, history: np.ndarray, out: np.ndarray) -> None:
    """Histories, oldest first.

    Args:
        episodes: `EPISODE` records, shape (B,).
        history: As `remember` keeps it.
        out: Written, shape (B, H, 10), float32.
    """
    length = history.shape[1]
    for b in range(history.shape[0]):
        oldest = (episodes[b].step + 1) % length
        for h in range(length):
            row = oldest + h if oldest + h < length else oldest + h - length
            for i in range(NUM_METRICS):
                out[b, h, i] = history[b, row, i]
