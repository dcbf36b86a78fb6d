"""The test on outcomes: its bets in closed form, its false alarms and its delays by simulation."""

import itertools
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_gym.deployment import Decision, GuardConfig
from grpo_gym.deployment.sequential import (
    BET_SIZES,
    OutcomeLevel,
    OutcomeTest,
    cautious_share,
    relative_loss,
)
from guard_bench import bench

shares = st.floats(0.001, 0.999)
lows = st.floats(-10.0, -0.01)
highs = st.floats(0.01, 10.0)
parts = st.floats(0.0, 1.0)


def expected_loss(
    share: float, outcomes: tuple[float, float], limits: tuple[float, float], tolerance: float
) -> float:
    """Over the draw of the arm: residuals under the policy and under the fallback."""
    policy, fallback = outcomes
    return share * relative_loss(True, share, policy, limits, tolerance) + (
        1.0 - share
    ) * relative_loss(False, share, fallback, limits, tolerance)


# One bet


@given(shares, lows, highs, parts)
def test_a_bet_on_arms_that_are_alike_is_fair(
    share: float, low: float, high: float, part: float
) -> None:
    residual = low + part * (high - low)
    assert expected_loss(share, (residual, residual), (low, high), 0.0) == pytest.approx(
        0.0, abs=1e-12 * 10 / min(-low, high)
    )


@given(shares, lows, highs, parts, parts, st.floats(0.0, 1.0))
def test_a_bet_on_a_policy_that_is_no_worse_loses_and_never_more_than_all(
    share: float, low: float, high: float, first: float, second: float, tolerance: float
) -> None:
    limits = (low, high)
    worse, better = (low + part * (high - low) for part in sorted((first, second)))
    assert expected_loss(share, (better, worse), limits, tolerance) >= -1e-9
    within = max(low, better - tolerance)
    assert expected_loss(share, (within, better), limits, tolerance) >= -1e-9
    for acted, residual in itertools.product((True, False), (low, worse, better, high)):
        assert relative_loss(acted, share, residual, limits, tolerance) <= 1.0


def test_a_bet_by_hand() -> None:
    """p = 1/4, residuals within -2 and 1: at most 3/4 * 1 or 1/4 * 2 is lost."""
    assert relative_loss(True, 0.25, 1.0, (-2.0, 1.0), 0.0) == 1.0
    assert relative_loss(True, 0.25, -2.0, (-2.0, 1.0), 0.0) == -2.0
    assert relative_loss(False, 0.25, -2.0, (-2.0, 1.0), 0.0) == pytest.approx(2 / 3)
    assert relative_loss(False, 0.25, 1.0, (-2.0, 1.0), 0.0) == pytest.approx(-1 / 3)
    # With tolerance 0.4, p (1 - p) 0.4 = 0.075 is added above and below.
    assert relative_loss(True, 0.25, -2.0, (-2.0, 1.0), 0.4) == pytest.approx(-1.425 / 0.825)


def test_wealth_is_the_mean_over_bets_and_starts() -> None:
    """Each start j has 1 / (j (j + 1)) and multiplies on its own; an independent account."""
    test, chance = OutcomeTest(GuardConfig(restart_blocks=3)), random.Random(0)
    losses: list[float] = []
    for _ in range(10):
        acted, residual = chance.random() < 0.3, chance.uniform(-1, 1)
        test.update(acted, 0.3, residual, (-1.0, 1.0))
        losses.append(relative_loss(acted, 0.3, residual, (-1.0, 1.0), 0.0))
        total = 0.0
        for size, (number, start) in itertools.product(BET_SIZES, enumerate(range(0, 10, 3), 1)):
            if start < len(losses):
                gains = (1.0 - size * loss for loss in losses[start:])
                total += math.prod(gains) / (number * (number + 1)) / len(BET_SIZES)
        assert test.evidence == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    ("share", "limits"), [(0.0, (-1, 1)), (1.0, (-1, 1)), (0.5, (0.0, 0.0)), (0.5, (1.0, -1.0))]
)
def test_nothing_is_bet_where_nothing_can_be_learned(
    share: float, limits: tuple[float, float]
) -> None:
    test = OutcomeTest(GuardConfig())
    test.update(True, share, 0.0, limits)
    assert (test.blocks, test.evidence) == (0, 0.0)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1e9))
def test_the_share_falls_with_the_evidence_to_one_half(share: float, evidence: float) -> None:
    careful = cautious_share(share, evidence)
    assert min(share, 0.5) <= careful <= share
    assert careful <= cautious_share(share, evidence / 2)
    if evidence <= 1.0 or share <= 0.5:
        assert careful == share


def test_the_fallbacks_odds_grow_by_the_evidence() -> None:
    assert cautious_share(0.95, 5.0) == pytest.approx(19 / 24)
    assert cautious_share(0.95, 19.0) == pytest.approx(0.5)


# The level


def test_mean_and_deviation_by_hand() -> None:
    level = OutcomeLevel(GuardConfig(level_weight=0.5))
    assert level.limits() == (0.0, 0.0)
    assert level.residual(3.0) == 0.0
    level.learn(10.0)
    assert level.mean == 10.0
    assert level.limits() == (0.0, 0.0)
    level.learn(12.0)
    assert (level.mean, level.deviation, level.limits()) == (11.0, 2.0, (-8.0, 8.0))
    level.learn(7.0)
    assert (level.mean, level.deviation) == (9.0, 3.0)
    # An outlier is taken as 4 deviations of 3 away.
    assert level.residual(-1e9) == level.residual(-math.inf) == -12.0
    level.learn(-1e9)
    assert (level.mean, level.deviation) == (3.0, 7.5)


def test_bounds_clip_too_and_alone_if_so_set() -> None:
    config = GuardConfig(
        level_weight=0.5, clip_deviations=None, outcome_minimum=0.0, outcome_maximum=1.0
    )
    level = OutcomeLevel(config)
    level.learn(5.0)
    assert level.mean == 1.0
    assert level.limits() == (-1.0, 0.0)
    level.learn(0.5)
    assert (level.mean, level.limits()) == (0.75, (-0.75, 0.25))
    assert (level.residual(-math.inf), level.residual(math.inf)) == (-0.75, 0.25)


def test_broken_outcomes_teach_nothing_before_there_is_a_scale() -> None:
    level = OutcomeLevel(GuardConfig(level_weight=0.5))
    level.learn(-math.inf)
    assert level.mean is None
    level.learn(1.0)
    level.learn(-math.inf)
    assert level.mean == 1.0
    assert level.deviation == 0.0


@given(st.lists(st.floats(-1e6, 1e6) | st.just(-math.inf), min_size=1, max_size=50))
@settings(max_examples=50)
def test_level_and_wealth_stay_numbers(outcomes: list[float]) -> None:
    config = GuardConfig(restart_blocks=10)
    level, test = OutcomeLevel(config), OutcomeTest(config)
    for number, outcome in enumerate(outcomes):
        residual, limits = level.residual(outcome), level.limits()
        assert limits[0] <= residual <= limits[1]
        test.update(number % 2 == 0, 0.5, residual, limits)
        level.learn(outcome)
        assert math.isfinite(test.evidence) and test.evidence >= 0.0
        assert level.deviation >= 0.0 and (level.mean is None or math.isfinite(level.mean))


# False alarms and delays, block by block

Outcomes = Callable[[random.Random, bool, float], float]
"""(randomness, whether the policy acted, AR(1) noise of variance 1) -> the block's outcome."""


def first_alarm(
    seed: int,
    outcome: Outcomes,
    *,
    share: float,
    blocks: int,
    correlation: float,
    alpha: float,
    tolerance: float = 0.0,
    bounds: tuple[float, float] | None = None,
    believed_share: float | None = None,
) -> float:
    """Blocks until the alarm, infinite if there is none; 30 blocks of the fallback before."""
    chance = random.Random(seed)
    limits: dict[str, Any] = {} if bounds is None else {
        "clip_deviations": None, "outcome_minimum": bounds[0], "outcome_maximum": bounds[1]
    }  # fmt: skip
    config = GuardConfig(false_alarm_rate=alpha, tolerance=tolerance, **limits)
    level, test = OutcomeLevel(config), OutcomeTest(config)
    noise = chance.gauss(0.0, 1.0)
    for block in range(-30, blocks):
        noise = correlation * noise + math.sqrt(1.0 - correlation**2) * chance.gauss(0.0, 1.0)
        now = 0.0 if block < 0 else cautious_share(share, test.evidence)
        acted = chance.random() < now
        value = outcome(chance, acted, noise)
        believed = now if believed_share is None or block < 0 else believed_share
        test.update(acted, believed, level.residual(value), level.limits())
        if test.has_alarmed:
            return block + 1.0
        level.learn(value)
    return math.inf


def alarm_rate(runs: int, outcome: Outcomes, **arguments: Any) -> float:
    """Share of runs that raise the alarm at any time."""
    alarms = [first_alarm(seed, outcome, **arguments) for seed in range(runs)]
    return statistics.mean(math.isfinite(each) for each in alarms)


def alike(chance: random.Random, acted: bool, noise: float) -> float:
    return 0.3 + 0.05 * noise


def heavy_tailed(chance: random.Random, acted: bool, noise: float) -> float:
    return 0.3 + 0.01 * math.copysign(math.expm1(abs(noise)) ** 2, noise)


def follows_the_arm(chance: random.Random, acted: bool, noise: float) -> float:
    """Slightly better under the policy, with five times its noise: drift, growth, a day's wave."""
    return 0.3 + noise + 0.05 * acted


def worse(share_of_mean: float) -> Outcomes:
    return lambda chance, acted, noise: 0.3 * (1.0 - share_of_mean * acted) + 0.05 * noise


ALPHA = 0.1
RUNS = 400


def most(rate: float) -> float:
    """What a rate of at most this gives in all but one of a thousand simulations."""
    return rate + 3.1 * math.sqrt(rate * (1.0 - rate) / RUNS)


@pytest.mark.parametrize("outcome", [alike, heavy_tailed, follows_the_arm])
@pytest.mark.parametrize(
    ("share", "correlation"), [(0.1, 0.95), (0.5, 0.0), (0.5, 0.95), (0.95, 0.9)]
)
def test_false_alarms_are_as_rare_as_stated(
    outcome: Outcomes, share: float, correlation: float
) -> None:
    """Looked at after each of 300 blocks, with outcomes correlated from block to block."""
    rate = alarm_rate(RUNS, outcome, share=share, blocks=300, correlation=correlation, alpha=ALPHA)
    assert rate <= most(ALPHA)


def falling() -> Outcomes:
    blocks = itertools.count()
    return lambda chance, acted, noise: noise - 0.2 * next(blocks)


def test_the_simulation_would_notice_a_wrong_test() -> None:
    """One that takes the policy's share for another than it is, while outcomes fall for both."""
    for believed, lowest, highest in ((None, 0.0, 2 * ALPHA), (0.3, 0.9, 1.0)):
        rate = alarm_rate(
            50, falling(), share=0.5, blocks=300, correlation=0.0, alpha=ALPHA,
            believed_share=believed,
        )  # fmt: skip
        assert lowest <= rate <= highest


def test_the_usual_test_repeated_would_raise_the_alarm_far_too_often() -> None:
    """Why the test is sequential: a t-test after each block, at the same level."""

    def alarms(seed: int) -> bool:
        chance, arms = random.Random(seed), ([0.0, 0.0, 0], [0.0, 0.0, 0])
        for block in range(300):
            arm = arms[chance.random() < 0.5]
            value = chance.gauss(0.0, 1.0)
            arm[0], arm[1], arm[2] = arm[0] + value, arm[1] + value**2, arm[2] + 1
            if block > 20:
                means = [each[0] / each[2] for each in arms]
                errors = [
                    (each[1] / each[2] - mean**2) / each[2]
                    for each, mean in zip(arms, means, strict=True)
                ]
                if means[1] - means[0] < -1.28 * math.sqrt(sum(errors)):
                    return True
        return False

    assert statistics.mean(alarms(seed) for seed in range(200)) > 3 * ALPHA


def test_tolerance_is_tolerated_and_what_is_worse_than_that_is_not() -> None:
    arguments: dict[str, Any] = {
        "share": 0.5,
        "blocks": 400,
        "correlation": 0.5,
        "alpha": ALPHA,
        "tolerance": 0.03,
    }
    assert alarm_rate(RUNS, worse(0.1), **arguments) <= most(ALPHA)
    assert alarm_rate(50, worse(0.4), **arguments) > 0.9


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_the_worse_the_policy_the_sooner_it_is_noticed(share: float) -> None:
    medians = [
        statistics.median(
            first_alarm(seed, worse(by), share=share, blocks=1500, correlation=0.8, alpha=0.01)
            for seed in range(21)
        )
        for by in (0.1, 0.3, 1.0)
    ]
    assert medians == sorted(set(medians), reverse=True), medians
    assert medians[1] < {0.1: 300, 0.5: 70, 0.95: 250}[share]


def test_bounds_alone_compare_means_where_clipping_would_not() -> None:
    """A policy that is a little better except for a rare disaster: worse in the mean."""

    def disaster(chance: random.Random, acted: bool, noise: float) -> float:
        return 0.0 if acted and chance.random() < 0.1 else 0.9 + 0.005 * noise + 0.002 * acted

    arguments: dict[str, Any] = {"share": 0.5, "blocks": 600, "correlation": 0.0, "alpha": 0.01}
    by_means = [first_alarm(seed, disaster, bounds=(0.0, 1.0), **arguments) for seed in range(15)]
    assert statistics.median(by_means) < 400


def test_a_policy_that_turns_bad_after_long_is_noticed() -> None:
    def turns(at: int) -> Outcomes:
        count = itertools.count(-30)
        return lambda chance, acted, noise: (
            0.3 + 0.05 * noise + (0.1 if next(count) < at else -0.2) * acted
        )

    delays = [
        first_alarm(seed, turns(500), share=0.5, blocks=800, correlation=0.5, alpha=0.01) - 500
        for seed in range(15)
    ]
    assert all(delay > 0 for delay in delays)
    assert statistics.median(delays) < 150


# The whole guard


def wave(effect: float, chance: random.Random) -> Callable[[Decision], float]:
    """AR(1) noise over minutes and a day's wave, and the effect of the policy's actions."""
    noise = 0.0

    def outcome(decision: Decision) -> float:
        nonlocal noise
        noise = 0.9 * noise + math.sqrt(0.19) * chance.gauss(0.0, 1.0)
        day = math.sin(2.0 * math.pi * decision.time_s / 86_400)
        return 0.3 + 0.05 * day + 0.05 * noise + effect * decision.action

    return outcome


def hours_until_rolled_back(seed: int, effect: float, hours: int) -> float:
    """From the start of gradual, with steps of an hour and blocks of 15 minutes."""
    world = bench(seed=seed, window=10, history_size=10, constraints=())
    world.outcome = wave(effect, random.Random(seed))
    world.steps(300)
    world.guard.promote()
    for step in range(60 * hours):
        world.step()
        if world.guard.mode == "shadow":
            return (step + 1) / 60
    return math.inf


def test_the_guard_pulls_back_a_worse_policy_the_sooner_the_worse() -> None:
    hours = [
        statistics.median(hours_until_rolled_back(seed, effect, 400) for seed in range(5))
        for effect in (-0.03, -0.09, -0.3)
    ]
    assert hours == sorted(set(hours), reverse=True), hours
    assert hours[2] < 14


def test_the_guard_lets_an_equal_policy_through() -> None:
    alarms = [math.isfinite(hours_until_rolled_back(seed, 0.0, 48)) for seed in range(10)]
    assert sum(alarms) <= 1
