"""Forecasts of demand: seasonal naive, and Holt and Winters' exponential smoothing.

A forecaster keeps no state of its own: what it has learned of B series is a tuple of arrays whose
first axis is B, like the state of baselines. A season is a day of m steps; a phase is a step of
the day.

Shapes: B series, m phases, S steps ahead.
"""

from abc import ABC, abstractmethod

import numpy as np
from typing_extensions import override

from grpo_gym.settings import Count, Fraction, checked_dataclass

State = tuple[np.ndarray, ...]


@checked_dataclass
class Forecaster(ABC):
    """Learns from one value of each series after another."""

    period: Count
    """Steps of a season, m."""

    @abstractmethod
    def start(self, count: int) -> State:
        """Return the state of `count` series before their first values."""

    @abstractmethod
    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        """Return the state after one more value of each series; values and phases, shape (B,)."""

    @abstractmethod
    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        """Forecast the values after those at these phases, shape (B,); returns shape (B, S)."""

    def _season_ahead(self, season: np.ndarray, phases: np.ndarray, steps: int) -> np.ndarray:
        """Pick the next S phases from seasons of shape (B, m)."""
        following = (phases[:, None] + np.arange(1, steps + 1)) % self.period
        return np.take_along_axis(season, following, axis=1)


@checked_dataclass
class SeasonalNaive(Forecaster):
    """Forecasts the value of one season ago, or the last value where that is unknown.

    The state is the last season, shape (B, m), NaN where nothing is known.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (2021), section 5.2.
    """

    @override
    def start(self, count: int) -> State:
        return (np.full((count, self.period), np.nan),)

    @override
    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        season = state[0].copy()
        season[np.arange(len(values)), phases] = values
        return (season,)

    @override
    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        (season,) = state
        expected = self._season_ahead(season, phases, steps)
        last = np.take_along_axis(season, phases[:, None], axis=1)
        return np.where(np.isnan(expected), last, expected)


@checked_dataclass
class HoltWinters(Forecaster):
    """Level, trend and additive season, each smoothed exponentially.

    Until a whole season has been seen, there are only level and trend (Holt's double smoothing).
    The initial season is the difference of the first season to its mean.

    The state is level, trend and number of values seen, each of shape (B,), and the season, shape
    (B, m), which holds the values themselves during the first season.

    Source: Holt (1957), reprinted in International Journal of Forecasting 20(1), 2004; Winters,
    Management Science 6(3), 1960.
    """

    level_weight: Fraction = 0.8
    """Weight of the newest value in the level, alpha."""
    trend_weight: Fraction = 0.4
    """Weight of the newest change of the level in the trend, beta."""
    season_weight: Fraction = 0.3
    """Weight of the newest value in the season, gamma."""

    @override
    def start(self, count: int) -> State:
        level, trend, season = np.zeros(count), np.zeros(count), np.zeros((count, self.period))
        return level, trend, np.zeros(count, np.int64), season

    @override
    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        old_level, old_trend, seen, season = state
        rows = np.arange(len(values))
        first, seasonal = seen == 0, seen >= self.period
        known = np.where(seasonal, season[rows, phases], 0.0)
        level = _smooth(values - known, old_level + old_trend, self.level_weight)
        level = np.where(first, values, level)
        trend = _smooth(level - old_level, old_trend, self.trend_weight)
        trend = np.where(first, 0.0, trend)
        season = season.copy()
        updated = _smooth(values - level, known, self.season_weight)
        season[rows, phases] = np.where(seasonal, updated, values)
        complete = seen + 1 == self.period
        means = season[complete].mean(axis=1)
        season[complete] -= means[:, None]
        level[complete], trend[complete] = means, 0.0
        return level, trend, seen + 1, season

    @override
    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        level, trend, seen, season = state
        expected = self._season_ahead(season, phases, steps)
        expected = np.where(seen[:, None] >= self.period, expected, 0.0)
        return level[:, None] + trend[:, None] * np.arange(1, steps + 1) + expected


def _smooth(new: np.ndarray, old: np.ndarray, weight: float) -> np.ndarray:
    return weight * new + (1.0 - weight) * old
