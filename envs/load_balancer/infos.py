"""Infos that take arithmetic, compiled: every step of a single environment computes them.

Shapes: B environments, N servers.
"""

import numpy as np

from grpo_gym.envs.kernels import kernel


@kernel
def measure_ages(episodes: np.ndarray, metrics: np.ndarray, ages_ms: np.ndarray) -> None:
    """Time since the last response of each server, infinite before any.

    Args:
        episodes: `EPISODE` records, shape (B,).
        metrics: `SERVER` records, shape (B, N).
        ages_ms: Written, shape (B, N), float64.
    """
    for b in range(ages_ms.shape[0]):
        for n in range(ages_ms.shape[1]):
            observed_at_ms = metrics[b, n].observed_at_ms
            age_ms = episodes[b].now_ms - observed_at_ms
            ages_ms[b, n] = age_ms if observed_at_ms >= 0.0 else np.inf


@kernel
def compare_estimates(
    estimates: np.ndarray, actions: np.ndarray, best: np.ndarray, regrets: np.ndarray
) -> None:
    """The best server of each environment, and how much better it is than the chosen one.

    Args:
        estimates: `ESTIMATE` records, shape (B, N).
        actions: Chosen servers, shape (B,), int64.
        best: Written, shape (B,), int64; the first one where several are equal.
        regrets: Written, shape (B,), float64.
    """
    for b in range(best.shape[0]):
        best[b] = 0
        for n in range(1, estimates.shape[1]):
            if estimates[b, n].reward > estimates[b, best[b]].reward:
                best[b] = n
        regrets[b] = estimates[b, best[b]].reward - estimates[b, actions[b]].reward
