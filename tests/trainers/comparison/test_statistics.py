"""Statistics of a comparison: closed forms, scipy's bootstrap, coverage, runs that never arrive."""

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy import stats

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.statistics import (
    difference_of_iqms,
    first_reached,
    interquartile_band,
    interquartile_mean,
    median_time,
    probability_of_improvement,
    time_ratio,
)

GENERATOR = np.random.default_rng(5)
SEVEN = GENERATOR.normal(3.0, 2.0, 7)
SIX = GENERATOR.normal(2.0, 1.0, 6)
NEVER = math.inf


def iqm_by_hand(values: np.ndarray) -> float:
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def test_interquartile_mean_of_five_is_that_of_the_middle_three() -> None:
    estimate = interquartile_mean(np.array([1.0, 2.0, 3.0, 7.0, 100.0]))
    assert estimate.value == pytest.approx(4.0)
    assert interquartile_mean(SEVEN).value == pytest.approx(iqm_by_hand(SEVEN))
    pooled = np.concatenate([SEVEN, SIX])
    assert interquartile_mean(SEVEN, SIX).value == pytest.approx(iqm_by_hand(pooled))


def test_intervals_agree_with_an_exact_bootstrap() -> None:
    runs = np.array([1.0, 2.0, 4.0, 8.0])
    exact = [iqm_by_hand(np.array(each)) for each in itertools.product(runs, repeat=4)]
    low, high = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
    estimate = interquartile_mean(runs)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.26)


def test_runs_are_resampled_within_their_task() -> None:
    # No task's own runs differ, so no resample can; pooled ones would.
    estimate = interquartile_mean(np.zeros(4), np.full(4, 10.0))
    assert estimate.low == estimate.value == estimate.high == 5.0


def test_intervals_agree_with_scipys() -> None:
    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        means: np.ndarray = stats.trim_mean(first, 0.25, axis=axis) - stats.trim_mean(
            second, 0.25, axis=axis
        )
        return means

    theirs = stats.bootstrap(
        (SEVEN, SIX), difference, n_resamples=10_000, method="percentile", vectorized=True
    ).confidence_interval
    ours = difference_of_iqms(SEVEN, SIX)
    assert ours.value == pytest.approx(iqm_by_hand(SEVEN) - iqm_by_hand(SIX))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1)


def test_intervals_hold_the_truth_as_often_as_the_page_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    for runs, share in ((3, 0.75), (5, 0.91), (10, 0.94)):
        estimates = [interquartile_mean(generator.standard_normal(runs)) for _ in range(400)]
        held = np.mean([each.low <= 0.0 <= each.high for each in estimates])
        assert held == pytest.approx(share, abs=0.05), runs


def test_a_single_run_has_no_interval() -> None:
    one, two = np.array([3.0]), np.array([1.0, 2.0])
    for estimate in (
        interquartile_mean(one),
        difference_of_iqms(one, two),
        probability_of_improvement((two, one)),
        median_time(one),
        time_ratio(one, two),
    ):
        assert not estimate.has_interval
        assert not math.isnan(estimate.value)
    middle, low, high = interquartile_band(np.array([[1.0, 2.0]]))
    assert middle.tolist() == low.tolist() == high.tolist() == [1.0, 2.0]


def test_intervals_apart() -> None:
    low, high = np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])
    first, second = interquartile_mean(low), interquartile_mean(high)
    assert first.apart_from(second) and second.apart_from(first)
    assert not first.apart_from(interquartile_mean(np.array([1.1, 3.0, 3.1])))
    assert not first.apart_from(interquartile_mean(np.array([9.0])))


def test_a_band_is_the_interval_of_each_point() -> None:
    curves = np.stack([SEVEN, SEVEN[::-1] * 3.0], axis=1)
    middle, low, high = interquartile_band(curves)
    for point in range(2):
        estimate = interquartile_mean(curves[:, point])
        assert middle[point] == pytest.approx(estimate.value)
        assert (low[point], high[point]) == pytest.approx((estimate.low, estimate.high), abs=0.1)


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    expected = stats.mannwhitneyu(SEVEN, SIX).statistic / 42.0
    assert probability_of_improvement((SEVEN, SIX)).value == pytest.approx(expected)
    assert probability_of_improvement((SIX, SEVEN)).value == pytest.approx(1.0 - expected)


def test_ties_count_half_and_tasks_count_alike() -> None:
    equal = (np.full(3, 7.0), np.full(5, 7.0))
    better = (np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert probability_of_improvement(equal).value == 0.5
    assert probability_of_improvement(better).value == 1.0
    both = probability_of_improvement(equal, better)
    assert (both.value, both.low, both.high) == (0.75, 0.75, 0.75)


def test_interval_of_the_probability_is_that_of_resampled_runs() -> None:
    def wins(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = np.sign(first[..., :, None] - second[..., None, :])
        mean: np.ndarray = (pairs.mean(axis=(-2, -1)) + 1.0) / 2.0
        return mean

    theirs = stats.bootstrap(
        (SEVEN, SIX), wins, n_resamples=10_000, method="percentile", vectorized=True
    ).confidence_interval
    ours = probability_of_improvement((SEVEN, SIX))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_a_threshold_is_reached_on_a_straight_line() -> None:
    times, returns = np.array([0.0, 10.0, 30.0, 40.0]), np.array([1.0, 2.0, 6.0, 5.0])
    assert first_reached(times, returns, 3.0) == 15.0
    assert first_reached(times, returns, 6.0) == 30.0
    assert first_reached(times, returns, 1.0) == 0.0
    assert first_reached(times, returns, 6.5) == NEVER
    assert first_reached(times, np.array([1.0, 4.0, 0.0, 9.0]), 4.0) == 10.0


def test_runs_that_never_get_there_count_as_infinitely_slow() -> None:
    mostly = median_time(np.array([1.0, 2.0, 3.0, NEVER, NEVER]))
    assert mostly.value == 3.0 and mostly.high == NEVER
    rarely = median_time(np.array([1.0, 2.0, NEVER, NEVER, NEVER]))
    assert rarely.value == NEVER and rarely.low < NEVER


def test_time_ratios() -> None:
    fast, slow = np.array([2.0, 2.0, 2.0]), np.array([20.0, 20.0, 20.0])
    ratio = time_ratio(fast, slow)
    assert (ratio.value, ratio.low, ratio.high) == (10.0, 10.0, 10.0)
    never = np.full(3, NEVER)
    assert time_ratio(fast, never).value == NEVER
    assert time_ratio(never, fast).value == 0.0
    unknown = time_ratio(never, never)
    assert math.isnan(unknown.value) and (unknown.low, unknown.high) == (0.0, NEVER)
    partly = time_ratio(fast, np.array([20.0, 30.0, NEVER]))
    assert partly.value == 15.0 and partly.low == 10.0 and partly.high == NEVER
