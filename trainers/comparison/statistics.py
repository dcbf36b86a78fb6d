"""Estimates over training runs, each with a bootstrap interval because runs are few.

Intervals are 95 % percentiles of a stratified bootstrap (arXiv 2108.13264): whole runs are drawn
with replacement within each task and algorithm, so an interval shows the effect of the training
seed. With few runs it is too narrow: for the interquartile mean of normal returns it covers the
true value in 75 % of experiments with 3 runs, 91 % with 5 and 94 % with 10. A single run has no
interval (NaN).

Shapes: S runs of one algorithm on one task, P points of a curve, R resamples.
"""

import math
from dataclasses import dataclass

import numpy as np

from grpo_gym.evaluation import statistics
from grpo_gym.evaluation.statistics import resample

RESAMPLES = 10_000
"""R."""
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its 95 % interval; NaN what is undefined."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were at least two runs."""
        return not np.isnan(self.low)

    def apart_from(self, other: "Estimate") -> bool:
        """Whether both have intervals, and these do not overlap."""
        return self.high < other.low or other.high < self.low


def interquartile_mean(*tasks: np.ndarray) -> Estimate:
    """Interquartile mean of all runs: returns on each task, shape (S,), on one scale.

    Source: Agarwal et al., arXiv 2108.13264.
    """
    generator = np.random.default_rng(0)
    pooled = np.concatenate([_resample(runs, generator) for runs in tasks], axis=1)
    value = statistics.interquartile_mean(np.concatenate(tasks))
    return _estimate(value, statistics.interquartile_mean(pooled), *tasks)


def interquartile_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interquartile mean of curves, shape (S, P), and its interval's ends, shape (P,) each.

    For a single run all three are equal.
    """
    middle = statistics.interquartile_mean(curves.T)
    if len(curves) < 2:
        return middle, middle, middle
    resampled = _resample(curves, np.random.default_rng(0))
    low, high = np.quantile(
        statistics.interquartile_mean(np.moveaxis(resampled, 1, -1)), _TAILS, axis=0
    )
    return middle, low, high


def difference_of_iqms(first: np.ndarray, second: np.ndarray) -> Estimate:
    """First interquartile mean of returns minus the second, on one task, shape (S,) each."""
    generator = np.random.default_rng(0)
    value = statistics.interquartile_mean(first) - statistics.interquartile_mean(second)
    upper, lower = (
        statistics.interquartile_mean(_resample(runs, generator)) for runs in (first, second)
    )
    return _estimate(value, upper - lower, first, second)


def probability_of_improvement(*tasks: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """Probability that a run of the first algorithm ends above one of the second; ties count half.

    Each task has the returns of both algorithms' runs, shape (S,) each. The probability is the mean
    over tasks, whose scales do not matter.

    Source: Agarwal et al., arXiv 2108.13264; within a task the Mann-Whitney U over all pairs.
    """
    generator = np.random.default_rng(0)
    values, resampled = [], []
    for first, second in tasks:
        # 1 where the first wins, 1/2 for a tie: shape (S of the first, S of the second).
        wins = (np.sign(first[:, None] - second[None, :]) + 1.0) / 2.0
        values.append(wins.mean())
        weights = [_resample(np.eye(len(runs)), generator).mean(axis=1) for runs in (first, second)]
        resampled.append(np.einsum("ri,ij,rj->r", weights[0], wins, weights[1]))
    runs = [each for task in tasks for each in task]
    return _estimate(np.mean(values), np.mean(resampled, axis=0), *runs)


def first_reached(times: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """When a learning curve, interpolated linearly, first reaches a threshold; infinity if never.

    Times rise; their unit, steps or seconds, is the result's. Shape (P,) both.
    """
    reached = np.flatnonzero(returns >= threshold)
    if len(reached) == 0:
        return math.inf
    after = reached[0]
    if after == 0:
        return float(times[0])
    before = after - 1
    share = (threshold - returns[before]) / (returns[after] - returns[before])
    return float(times[before] + share * (times[after] - times[before]))


def median_time(times: np.ndarray) -> Estimate:
    """Median over runs, shape (S,), of the time to a threshold; infinite if a run never arrives."""
    resampled = np.median(_resample(times, np.random.default_rng(0)), axis=1)
    return _estimate(np.median(times), resampled, times)


def time_ratio(times: np.ndarray, others: np.ndarray) -> Estimate:
    """Median of another algorithm's times over the median of one's, shape (S,) each.

    The ratio is undefined (NaN) where both medians are infinite or both are 0; such resamples count
    as 0 for the interval's lower end and as infinite for its upper end.
    """
    generator = np.random.default_rng(0)
    medians = [np.median(_resample(runs, generator), axis=1) for runs in (times, others)]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.median(others) / np.median(times)
        return _estimate(value, medians[1] / medians[0], times, others)


def _resample(runs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return resample(runs, RESAMPLES, generator)


def _estimate(value: np.ndarray | float, resampled: np.ndarray, *runs: np.ndarray) -> Estimate:
    """A value with the interval of its resamples (R,), if every algorithm has several runs."""
    if min(len(each) for each in runs) < 2:
        return Estimate(float(value), math.nan, math.nan)
    # Quantiles that are resamples themselves: between two may lie infinity minus infinity.
    low, high = (
        np.quantile(np.where(np.isnan(resampled), unknown, resampled), tail, method="inverted_cdf")
        for tail, unknown in zip(_TAILS, (0.0, np.inf), strict=True)
    )
    return Estimate(float(value), float(low), float(high))
