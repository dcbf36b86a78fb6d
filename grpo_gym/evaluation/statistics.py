"""Summary statistics of returns, and their uncertainty by the bootstrap.

Shapes: E episodes or training runs, R resamples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Statistics of one quantity over episodes.

    Attributes:
        mean: Mean.
        sem: Standard error of the mean; 0 for a single episode.
        median: Median.
        iqm: Interquartile mean.
        ci95: 95 % bootstrap percentile interval of the mean.
    """

    mean: float
    sem: float
    median: float
    iqm: float
    ci95: tuple[float, float]


def summarise(values: np.ndarray) -> Summary:
    """Statistics over episodes (E,), ignoring values that are not finite; all NaN if none is."""
    values = np.asarray(values, np.float64)
    values = np.sort(values[np.isfinite(values)])
    if len(values) == 0:
        return Summary(math.nan, math.nan, math.nan, math.nan, (math.nan, math.nan))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite then, and shown as missing
        sem = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
        return Summary(
            mean=float(values.mean()),
            sem=sem,
            median=float(np.median(values)),
            iqm=float(interquartile_mean(values)),
            ci95=bootstrap_interval(values),
        )


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return np.asarray(values.mean(axis=-1))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the lowest and the highest quarter, each rounded down.

    Source: Agarwal et al., arXiv 2108.13264; equal to scipy.stats.trim_mean(values, 0.25, axis=-1).
    """
    cut = int(0.25 * values.shape[-1])
    return mean(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut])


def resample(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw as many of the values (E, ...) as there are, with replacement: shape (R, E, ...)."""
    return values[generator.integers(len(values), size=(resamples, len(values)))]


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = mean,
    resamples: int = 2_000,
) -> tuple[float, float]:
    """95 % bootstrap percentile interval of a statistic of (E,) that reduces the last axis."""
    generator = np.random.default_rng(0)
    chunk = max(1, 100_000 // len(values))  # bounds the memory
    estimates = [
        statistic(resample(values, min(chunk, left), generator))
        for left in range(resamples, 0, -chunk)
    ]
    low, high = np.percentile(np.concatenate(estimates), [2.5, 97.5])
    return float(low), float(high)
