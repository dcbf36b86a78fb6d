"""Summaries and bootstrap intervals: by hand, and beside scipy's."""

import numpy as np
import pytest
from scipy import stats

from grpo_gym.evaluation.statistics import bootstrap_interval, interquartile_mean, summarise


def test_summary_by_hand() -> None:
    summary = summarise(np.array([8.0, 1.0, np.nan, 2.0, 3.0, 2.0]))
    assert summary.mean == pytest.approx(3.2)
    assert summary.median == 2.0
    assert summary.iqm == pytest.approx((2.0 + 2.0 + 3.0) / 3)
    assert summary.sem == pytest.approx(stats.sem([8.0, 1.0, 2.0, 3.0, 2.0]))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10, 101])
def test_interquartile_mean_equals_scipy(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_bootstrap_interval_is_scipys_up_to_chance() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_interval(values)
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * width)
    assert bootstrap_interval(values) == ours


def test_a_single_episode_has_no_spread() -> None:
    summary = summarise(np.array([3.0]))
    assert summary == type(summary)(mean=3.0, sem=0.0, median=3.0, iqm=3.0, ci95=(3.0, 3.0))


def test_interval_of_the_interquartile_mean_is_scipys_up_to_chance() -> None:
    values = np.random.default_rng(3).normal(size=12)
    theirs = stats.bootstrap(
        (values,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    ours = bootstrap_interval(values, interquartile_mean, 10_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_chunks_of_resamples_change_nothing() -> None:
    values = np.random.default_rng(0).normal(size=300)  # 2,000 resamples are 7 chunks
    chosen = np.random.default_rng(0).integers(300, size=(2_000, 300))
    expected = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    assert bootstrap_interval(values) == tuple(expected)
