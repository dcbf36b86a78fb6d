"""Estimates from logs: closed forms, simulations whose truth is known, and refusals."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from grpo_gym.deployment.estimates import Estimate, Estimates, estimate, reward_model
from grpo_gym.deployment.shadow_log import LoggedRows, explore
from grpo_gym.settings import ConfigError

Policy = Callable[[np.ndarray], np.ndarray]


def of(
    actions: list[int], propensities: list[float], rewards: list[float], policy: list[list[float]]
) -> LoggedRows:
    return LoggedRows(
        np.array(actions), np.array(propensities), np.array(rewards), np.array(policy)
    )


def values(result: Estimates) -> tuple[float, float, float]:
    return tuple(  # type: ignore[return-value]
        each.value
        for each in (result.inverse_propensity, result.self_normalised, result.doubly_robust)
        if each is not None
    )


def test_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_gym.deployment.estimates._refusal", lambda *_: "")
    log = of([0, 1, 1, 0], [0.5, 0.25, 0.5, 0.8], [1.0, 3.0, -2.0, 4.0],
             [[0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.8, 0.2]])  # fmt: skip
    result = estimate(log)
    weights = [1.0, 2.0, 1.5, 1.0]
    inverse, normalised, _ = values(result)
    assert inverse == pytest.approx((1.0 + 6.0 - 3.0 + 4.0) / 4)
    assert normalised == pytest.approx((1.0 + 6.0 - 3.0 + 4.0) / 5.5)
    assert result.effective_rows == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert result.mean_weight == pytest.approx(5.5 / 4)
    assert result.logged.value == pytest.approx(1.5)


def test_the_policy_that_acted_is_estimated_by_its_own_mean() -> None:
    chance = np.random.default_rng(0)
    probabilities = chance.dirichlet([2.0, 2.0, 2.0], size=500)
    actions = np.array([chance.choice(3, p=each) for each in probabilities])
    log = LoggedRows(
        actions, probabilities[np.arange(500), actions], chance.normal(size=500), probabilities
    )
    result = estimate(log)
    assert result.effective_rows == pytest.approx(500)
    assert values(result)[:2] == pytest.approx([result.logged.value] * 2)
    assert result.self_normalised == result.inverse_propensity == result.logged


# A simulation with known truth: three actions, two features


def reward_means(observations: np.ndarray) -> np.ndarray:
    """(n, 3); not linear in the features, so that the reward model is wrong."""
    first, second = observations.T
    return 5.0 + np.stack([first, 2.0 * second, np.abs(first + second)], axis=1)


def logging_policy(observations: np.ndarray) -> np.ndarray:
    best = (observations[:, 0] > 0).astype(int)
    return np.asarray(0.3 / 3 + 0.7 * np.eye(3)[best])


def target_policy(observations: np.ndarray) -> np.ndarray:
    scores = np.stack([observations[:, 0], observations[:, 1], np.zeros(len(observations))], axis=1)
    return np.asarray(np.eye(3)[scores.argmax(axis=1)])


def world(rows: int, seed: int, noise: float = 1.0) -> LoggedRows:
    chance = np.random.default_rng(seed)
    observations = chance.normal(size=(rows, 2))
    probabilities = logging_policy(observations)
    actions = (probabilities.cumsum(axis=1) < chance.random((rows, 1))).sum(axis=1)
    taken = np.arange(rows), actions
    rewards = reward_means(observations)[taken] + noise * chance.normal(size=rows)
    return LoggedRows(
        actions, probabilities[taken], rewards, target_policy(observations), observations
    )


def true_value() -> float:
    observations = np.random.default_rng(99).normal(size=(2_000_000, 2))
    return float((reward_means(observations) * target_policy(observations)).sum(axis=1).mean())


def test_estimates_are_unbiased_and_their_intervals_cover() -> None:
    truth, runs = true_value(), 80
    results = [estimate(world(2_000, seed)) for seed in range(runs)]
    assert not any(result.refusal for result in results)
    spread = {}
    for name in ("inverse_propensity", "self_normalised", "doubly_robust"):
        found: list[Estimate] = [getattr(result, name) for result in results]
        errors = np.array([each.value - truth for each in found])
        assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(runs) + 0.01, name
        covered = np.mean([each.low <= truth <= each.high for each in found])
        assert 0.87 <= covered <= 1.0, (name, covered)
        spread[name] = errors.std()
    # Rewards lie around 5: weights alone make the first estimator twice as noisy.
    assert spread["doubly_robust"] < spread["self_normalised"] < 0.6 * spread["inverse_propensity"]


def test_the_policy_that_was_logged_is_not_what_is_estimated() -> None:
    log = world(20_000, seed=1)
    result = estimate(log)
    assert result.doubly_robust is not None
    assert result.logged.high < result.doubly_robust.low
    given = estimate(log, logging_policy(log.observations))  # type: ignore[arg-type]
    assert given.inverse_propensity == given.logged


def test_no_reward_is_predicted_from_itself() -> None:
    log = world(500, seed=4)
    before = reward_model(log, 3)
    for row in (0, 123, 499):
        rewards = log.rewards.copy()
        rewards[row] += 1_000.0
        after = reward_model(replace(log, rewards=rewards), 3)
        assert after[row] == pytest.approx(before[row])
        assert abs(after[(row + 257) % 500] - before[(row + 257) % 500]).max() > 0.1


def test_without_observations_the_reward_model_knows_actions_only() -> None:
    log = world(5_000, seed=2)
    blind = LoggedRows(log.actions, log.propensities, log.rewards, log.policy)
    truth = true_value()
    for result in (estimate(log), estimate(blind)):
        assert result.doubly_robust is not None
        assert result.doubly_robust.value == pytest.approx(truth, abs=0.15)
    assert estimate(log).doubly_robust != estimate(blind).doubly_robust


def test_blocks_make_intervals_honest_where_neighbours_are_alike() -> None:
    """Rewards with a random level for 50 rows: an interval of single rows would cover a third."""
    covered = []
    for seed in range(60):
        chance = np.random.default_rng(seed)
        levels = np.repeat(chance.normal(size=100), 50)
        log = LoggedRows(
            np.zeros(5_000, np.int64), np.ones(5_000), levels + 0.1 * chance.normal(size=5_000),
            np.ones((5_000, 1)),
        )  # fmt: skip
        result = estimate(log)
        assert result.self_normalised is not None
        covered.append(result.self_normalised.low <= 0.0 <= result.self_normalised.high)
    assert np.mean(covered) >= 0.85


# Refusals


def test_a_deterministic_log_is_refused_where_the_policy_differs() -> None:
    chance = np.random.default_rng(0)
    actions = chance.integers(2, size=10_000)
    policy = np.eye(2)[np.where(chance.random(10_000) < 0.3, 1 - actions, actions)]
    log = LoggedRows(actions, np.ones(10_000), chance.normal(size=10_000), policy)
    result = estimate(log)
    assert result.effective_rows > 6_000, "which alone would look fine"
    assert result.refusal.startswith("not enough overlap: the weights' mean must be 1, got 0.7")
    assert len(values(result)) == 0


def test_a_small_effective_sample_is_refused_with_its_size() -> None:
    chance = np.random.default_rng(0)
    actions = np.where(chance.random(10_000) < 0.0012, 1, 0)
    propensities = np.where(actions == 1, 0.0012, 0.9988)
    log = LoggedRows(
        actions, propensities, chance.normal(size=10_000), np.tile([0.0, 1.0], (10_000, 1))
    )
    result = estimate(log)
    size = int((actions == 1).sum())
    assert f"effective sample size {size} of 10,000 rows, at least 100 needed" in result.refusal


def test_wrong_propensities_are_noticed() -> None:
    log = world(5_000, seed=3)
    wrong = LoggedRows(log.actions, np.full(5_000, 1 / 3), log.rewards, log.policy)
    assert "the weights' mean must be 1" in estimate(wrong).refusal


def test_a_policy_that_never_agrees_is_refused() -> None:
    log = of([0] * 200, [0.5] * 200, [1.0] * 200, [[0.0, 1.0]] * 200)
    assert "effective sample size 0 of 200" in estimate(log).refusal


def test_what_does_not_fit_is_refused() -> None:
    log = world(200, seed=0)
    with pytest.raises(ConfigError, match="name a policy to ask"):
        estimate(LoggedRows(log.actions, log.propensities, log.rewards))
    with pytest.raises(ConfigError, match=r"must have 200 rows and the actions 0 to 2, got the"):
        estimate(log, np.ones((200, 2)))
    with pytest.raises(ConfigError, match=r"minimum_effective_rows must be .* 30, got 10"):
        estimate(log, minimum_effective_rows=10.0)
    with pytest.raises(ConfigError, match="must have 200 rows"):
        estimate(log, np.ones((100, 3)))


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_rows_are_refused(rows: int) -> None:
    result = estimate(world(rows, seed=0), minimum_effective_rows=30.0)
    assert "not enough overlap" in result.refusal
    assert math.isfinite(result.logged.value) and result.rows == rows


# Random choices


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_explored_choices_have_the_propensity_that_is_said(epsilon: float) -> None:
    generator = np.random.default_rng(0)
    draws = [explore(5, (2, 5, 7, 9), epsilon, generator) for _ in range(20_000)]
    counts = {action: sum(each == action for each, _ in draws) for action in (2, 5, 7, 9)}
    for action, propensity in set(draws):
        error = math.sqrt(propensity * (1 - propensity) / 20_000)
        assert abs(counts[action] / 20_000 - propensity) < 4 * error
    assert sum(propensity for _, propensity in set(draws)) == pytest.approx(1.0)
