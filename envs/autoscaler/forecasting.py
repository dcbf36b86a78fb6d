"""Forecasts of demand: as it was yesterday, or by Holt's and Winters' exponential smoothing.

A forecaster keeps nothing: what it remembers of B series is a tuple of arrays whose first axis is
B, as baselines keep their state. The season is a day of m steps; a phase is a step of the day.

Shapes: B series, m phases, S steps ahead.
"""

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np

from grpo_gym.settings.config import Range, check_fields

Share = Annotated[float, Range(0.0, 1.0)]
State = tuple[np.ndarray, ...]


class Forecaster(Protocol):
    """What learns from one value of each series after the other."""

    @property
    def period(self) -> int:
        """Steps of a season, m."""

    def start(self, count: int) -> State:
        """What is known before the first value."""

    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        """What is known after one more value of each series.

        Args:
            state: What was known before; it is not changed.
            values: Shape (B,).
            phases: When in its season each is, shape (B,), int64.
        """

    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        """The next values as they are expected, shape (B, S).

        Args:
            state: What is known after the last values.
            phases: When in its season those were, shape (B,), int64.
            steps: How many, S.
        """


@dataclass(frozen=True)
class SeasonalNaive:
    """The value of a season ago; where none is known yet, the last one.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (2021), section 5.2.
    """

    period: Annotated[int, Range(1)]
    """Steps of a season, m."""

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, count: int) -> State:
        """See `Forecaster`: the last season, shape (B, m), NaN where nothing is known."""
        return (np.full((count, self.period), np.nan),)

    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        """See `Forecaster`."""
        season = state[0].copy()
        season[np.arange(len(values)), phases] = values
        return (season,)

    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        """See `Forecaster`."""
        (season,) = state
        rows = np.arange(len(phases))[:, None]
        expected = season[rows, _phases_ahead(phases, steps, self.period)]
        return np.where(np.isnan(expected), season[rows, phases[:, None]], expected)


@dataclass(frozen=True)
class HoltWinters:
    """Level, trend and season, each smoothed exponentially; the season adds to the level.

    Until a whole season was seen there are only level and trend (Holt's double smoothing). What
    the first season differed from its mean is then the season to begin with.

    Source: Holt (1957), reprinted in International Journal of Forecasting 20(1), 2004; Winters,
    Management Science 6(3), 1960.
    """

    period: Annotated[int, Range(1)]
    """Steps of a season, m."""
    level_weight: Share = 0.8
    """Weight of the newest value in the level, alpha."""
    trend_weight: Share = 0.4
    """Weight of the newest rise of the level in the trend, beta."""
    season_weight: Share = 0.3
    """Weight of the newest value in its place of the season, gamma."""

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, count: int) -> State:
        """See `Forecaster`: level, trend, values seen, each shape (B,), and season (B, m).

        During the first season the last array has the values themselves.
        """
        return (
            np.zeros(count),
            np.zeros(count),
            np.zeros(count, np.int64),
            np.zeros((count, self.period)),
        )

    def observe(self, state: State, values: np.ndarray, phases: np.ndarray) -> State:
        """See `Forecaster`."""
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

    def ahead(self, state: State, phases: np.ndarray, steps: int) -> np.ndarray:
        """See `Forecaster`."""
        level, trend, seen, season = state
        rows = np.arange(len(phases))[:, None]
        expected = season[rows, _phases_ahead(phases, steps, self.period)]
        expected = np.where(seen[:, None] >= self.period, expected, 0.0)
        return level[:, None] + trend[:, None] * np.arange(1, steps + 1) + expected


def _smooth(new: np.ndarray, old: np.ndarray, weight: float) -> np.ndarray:
    return weight * new + (1.0 - weight) * old


def _phases_ahead(phases: np.ndarray, steps: int, period: int) -> np.ndarray:
    """Phases of the next steps, shape (B, S)."""
    return (phases[:, None] + np.arange(1, steps + 1)) % period
