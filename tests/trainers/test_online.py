"""Online GRPO: its mathematics in closed form, its use by hand, and the published demonstration."""

import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.online import (
    TINY_GRPO,
    Choice,
    OnlineConfig,
    OnlineGRPO,
    OnlinePolicy,
    OnlineStats,
)
from grpo_gym.trainers.online.loop import settled_at

UNLIMITED = OnlineConfig(learning_rate=1.0, weight_limit=None, step_limit=None)
REWARDS = np.array([-39.5, -61.5, -99.0, -118.5])
FEATURES = np.random.default_rng(0).normal(size=(4, 5))
WEIGHTS = np.random.default_rng(1).normal(size=5)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    pi: np.ndarray = exponentials / exponentials.sum()
    return pi


def expected_reward(weights: np.ndarray) -> float:
    return float(softmax(FEATURES @ weights) @ REWARDS)


def true_gradient(weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """sum_a pi_a R_a grad log pi_a, where grad log pi_a = x_a - sum_c pi_c x_c."""
    pi = softmax(FEATURES @ weights)
    gradient: np.ndarray = (pi * REWARDS) @ (FEATURES - pi @ FEATURES)
    return gradient


def order_probability(group: Sequence[int], mixed: np.ndarray) -> float:
    """Of drawing exactly these actions in this order, without replacement."""
    left, probability = 1.0, 1.0
    for action in group:
        probability *= mixed[action] / left
        left -= mixed[action]
    return probability


def mixed_policy(config: OnlineConfig, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    pi = softmax(FEATURES @ weights)
    mixed: np.ndarray = (1.0 - config.exploration) * pi + config.exploration / 4
    return mixed


def update_of(
    group: Sequence[int], config: OnlineConfig, weights: np.ndarray = WEIGHTS
) -> np.ndarray:
    """What learning from one decision adds to the weights."""
    policy = OnlinePolicy(4, 5, config)
    policy.weights[:] = weights
    members = np.array(group)
    policy.learn(Choice(FEATURES, members, mixed_policy(config, weights)), REWARDS[members])
    return policy.weights - weights


def expected_update(config: OnlineConfig, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Over all ordered groups, by enumeration."""
    groups = list(itertools.permutations(range(4), config.group_size))
    chances = [order_probability(group, mixed_policy(config, weights)) for group in groups]
    assert math.fsum(chances) == pytest.approx(1.0, abs=1e-13)
    updates = [update_of(group, config, weights) for group in groups]
    total: np.ndarray = np.array(chances) @ np.array(updates)
    return total


# Mathematics


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    step = 1e-6
    numeric = [
        (expected_reward(WEIGHTS + step * e) - expected_reward(WEIGHTS - step * e)) / (2 * step)
        for e in np.eye(5)
    ]
    np.testing.assert_allclose(true_gradient(), numeric, rtol=1e-7)


@pytest.mark.parametrize("group_size", [2, 3, 4])
@pytest.mark.parametrize("exploration", [0.1, 0.5, 1.0])
def test_the_expected_update_is_the_true_policy_gradient(
    group_size: int, exploration: float
) -> None:
    config = replace(UNLIMITED, group_size=group_size, exploration=exploration)
    np.testing.assert_allclose(expected_update(config), true_gradient(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("group_size", [2, 3, 4])
def test_without_importance_weights_it_is_not_whatever_the_learning_rate(group_size: int) -> None:
    config = replace(UNLIMITED, group_size=group_size, importance_weights=False)
    excess = []
    for weights in (WEIGHTS, 3.0 * WEIGHTS):
        update, true = expected_update(config, weights), true_gradient(weights)
        along = update @ true / (true @ true)
        assert np.linalg.norm(update - along * true) > 0.05 * np.linalg.norm(update)
        excess.append(along)
    assert excess[0] > 1.2
    assert excess[1] > 3.0 * excess[0], "it goes on pushing where the policy is sure already"


@pytest.mark.parametrize("group", [(0, 1), (3, 1), (2, 0, 1), (1, 0, 3, 2)])
def test_without_importance_weights_it_is_the_group_relative_update_as_published(
    group: tuple[int, ...],
) -> None:
    config = replace(UNLIMITED, group_size=len(group), importance_weights=False)
    pi, members = softmax(FEATURES @ WEIGHTS), list(group)
    advantages = REWARDS[members] - REWARDS[members].mean()
    published = advantages @ (FEATURES[members] - pi @ FEATURES)
    np.testing.assert_allclose(update_of(group, config), published, rtol=1e-12)


def test_all_actions_as_the_group_give_the_gradient_every_time() -> None:
    config = replace(UNLIMITED, group_size=4)
    for group in itertools.permutations(range(4)):
        np.testing.assert_allclose(update_of(group, config), true_gradient(), rtol=1e-12)


def test_groups_are_drawn_as_their_probabilities_say() -> None:
    policy = OnlinePolicy(4, 5, OnlineConfig(group_size=3, exploration=0.3))
    policy.weights[:] = WEIGHTS
    draws = 40_000
    counts: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(4), 3), 0)
    for _ in range(draws):
        choice = policy.choose(FEATURES)
        counts[tuple(map(int, choice.group))] += 1
    np.testing.assert_allclose(choice.sampled_from, mixed_policy(policy.config), rtol=1e-12)
    for group, count in counts.items():
        chance = order_probability(group, choice.sampled_from)
        margin = 5 * math.sqrt(chance * (1 - chance) / draws)
        assert count / draws == pytest.approx(chance, abs=margin), group


# Limits


def test_steps_and_weights_stay_within_their_limits_whatever_the_rewards() -> None:
    config = OnlineConfig(learning_rate=1.0, weight_limit=2.0, step_limit=0.5)
    policy = OnlinePolicy(4, 5, config)
    generator = np.random.default_rng(2)
    steps, norms = [], []
    for _ in range(500):
        before = policy.weights.copy()
        choice = policy.choose(generator.normal(size=(4, 5)))
        policy.learn(choice, generator.choice([-1e200, 1e3, 0.0, 1e200], size=2))
        steps.append(np.linalg.norm(policy.weights - before))
        norms.append(np.linalg.norm(policy.weights))
    assert max(norms) == pytest.approx(2.0)
    assert max(steps) == pytest.approx(0.5)


def test_a_limit_keeps_the_direction() -> None:
    free = update_of((0, 2), UNLIMITED)
    short = update_of((0, 2), replace(UNLIMITED, step_limit=0.01))
    np.testing.assert_allclose(short, free * 0.01 / np.linalg.norm(free), rtol=1e-9)
    small = update_of((0, 2), replace(UNLIMITED, learning_rate=1e-4, step_limit=1e9))
    np.testing.assert_allclose(small, 1e-4 * free, rtol=1e-9)


# Use in a router


def test_it_learns_by_hand_and_from_late_answers() -> None:
    policy = OnlinePolicy(4, 4, OnlineConfig(seed=3))
    rewards = np.array([-1.0, -0.2, -0.8, -2.0])
    waiting = []
    for _ in range(600):
        waiting.append(policy.choose(np.eye(4)))
        if len(waiting) > 5:
            choice = waiting.pop(0)
            policy.learn(choice, rewards[choice.group])
    assert policy.probabilities(np.eye(4)).argmax() == 1
    assert policy.probabilities(np.eye(4))[1] > 0.6


def test_deciding_by_hand_is_what_the_compiled_loop_does() -> None:
    settings = {"preset": "tiny-grpo"}
    compiled = OnlineGRPO(env_kwargs=settings, seed=5)
    rewards = compiled.train_steps(50)
    by_hand = OnlineGRPO(env_kwargs=settings, seed=5)
    by_hand.simulator.seed(compiled.simulator.episodes["base_seed"])
    by_hand.simulator.reset()
    for expected in rewards:
        observation = by_hand.simulator.observe()
        choice = by_hand.policy.choose(np.kron(np.eye(4), observation))
        estimates = by_hand.simulator.counterfactuals()["reward"][0][choice.group]
        by_hand.simulator.step(np.array([choice.executed]))
        assert by_hand.simulator.outcomes["reward"][0] == expected
        by_hand.policy.learn(choice, [expected, *estimates[1:]])
    np.testing.assert_allclose(by_hand.policy.weights, compiled.policy.weights, rtol=1e-12)


@pytest.mark.parametrize("rewards", [[1.0], [1.0, 2.0, 3.0], [1.0, math.nan]])
def test_rewards_must_be_one_finite_number_for_each_action(rewards: list[float]) -> None:
    policy = OnlinePolicy(4, 4)
    with pytest.raises(ValueError, match="rewards must be 2 finite numbers"):
        policy.learn(policy.choose(np.eye(4)), rewards)


def test_a_group_needs_that_many_actions() -> None:
    with pytest.raises(ConfigError, match="num_actions must be from group_size = 3 to 63, got 2"):
        OnlinePolicy(2, 2, OnlineConfig(group_size=3))


# Estimates


def test_privileged_estimates_are_another_run() -> None:
    runs = [OnlineGRPO(estimates=kind).learn(2_000) for kind in ("observed", "privileged")]
    assert runs[0].weights_sha256() != runs[1].weights_sha256()
    tiny = {"preset": "tiny-grpo"}
    same = [
        OnlineGRPO(env_kwargs=tiny, estimates=kind).learn(2_000).policy.weights
        for kind in ("observed", "privileged")
    ]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-9)


# The demonstration


def demonstrate(order: Sequence[int], seed: int, config: OnlineConfig) -> np.ndarray:
    """The policy at each of 3000 decisions, columns in the original order of the servers."""
    original = make_config("tiny-grpo")
    names = ("base_latency_ms", "latency_per_request_ms", "error_rates", "load_decay")
    settings: dict[str, Any] = {n: original.per_server(n)[list(order)].tolist() for n in names}
    settings["fault_schedule"] = [[list(order).index(0), "degraded", 1_000, 2_000]]
    model = OnlineGRPO(env_kwargs={"preset": "tiny-grpo", **settings}, config=config, seed=seed)
    policies = np.empty((3_000, 4))
    model.train_steps(3_000, policies)
    columns: np.ndarray = policies[:, np.argsort(order)]
    return columns


def recovers(policies: np.ndarray) -> bool:
    """The policy's own probabilities, without exploration."""
    to_server_1 = policies[1_000:1_201].argmax(axis=1) == 1
    return bool(policies[499, 0] >= 0.85 and to_server_1.any() and policies[2_499, 0] >= 0.80)


def test_the_demonstration_recovers_in_100_of_100_seeds() -> None:
    runs = [demonstrate(range(4), seed, OnlineConfig()) for seed in range(100)]
    assert sum(map(recovers, runs)) == 100
    assert all(settled_at(run, 1_000, 2_000) < 1_200 for run in runs), "and it stays there"


def test_the_demonstration_does_not_care_for_labels() -> None:
    for order in itertools.permutations(range(4)):
        for seed in range(100, 103):
            assert recovers(demonstrate(order, seed, OnlineConfig())), (order, seed)


def test_the_published_program_recovers_in_none() -> None:
    runs = [demonstrate(range(4), seed, TINY_GRPO) for seed in range(20)]
    assert not any(map(recovers, runs))
    assert all(run[999].argmax() == 0 and run[1_999].argmax() == 1 for run in runs)
    assert max(run[2_499, 0] for run in runs) < 1e-6, "it is too sure to change its mind"


def test_both_corrections_are_needed() -> None:
    unlimited = replace(TINY_GRPO, importance_weights=True)
    assert not any(recovers(demonstrate(range(4), seed, unlimited)) for seed in range(5))


# The trainer


def test_on_flaky_it_beats_what_sees_no_more() -> None:
    model = OnlineGRPO(seed=1).learn(300_000)
    # The best heuristic without privileges, shortest expected delay, has -266.7 on these.
    assert model.evaluate(1_000).mean_return > -262.0


def test_one_seed_one_result() -> None:
    first, second = (OnlineGRPO(seed=4).learn(3_000) for _ in range(2))
    assert first.weights_sha256() == second.weights_sha256()
    assert first.weights_sha256() != OnlineGRPO(seed=5).learn(3_000).weights_sha256()


def test_learning_in_pieces_is_learning() -> None:
    whole = OnlineGRPO().learn(1_500)
    pieces = OnlineGRPO().learn(1).learn(399).learn(50).learn(1_050)
    assert pieces.weights_sha256() == whole.weights_sha256()
    assert pieces.num_steps == 1_500


@pytest.mark.parametrize("steps", [0, 250, 400])
def test_a_saved_model_goes_on_as_the_original(steps: int, tmp_path: Path) -> None:
    model = OnlineGRPO(env_kwargs={"num_servers": 3}, group_size=3, seed=2)
    if steps:
        model.learn(steps)
    assert model.save(tmp_path / "model.ckpt") == model.weights_sha256()
    loaded = OnlineGRPO.load(tmp_path / "model.ckpt")
    assert loaded.config == model.config
    assert loaded.learn(700).weights_sha256() == model.learn(700).weights_sha256()


def test_a_saved_model_refuses_an_environment_that_it_does_not_fit(tmp_path: Path) -> None:
    OnlineGRPO().save(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="has 8 weights, but the environment here needs 16"):
        OnlineGRPO.load(tmp_path / "model.ckpt", env_kwargs={"preset": "tiny-grpo"})
    with pytest.raises(CheckpointError, match="env must be 'LoadBalancer-v0'"):
        OnlineGRPO.load(tmp_path / "model.ckpt", "CartPole-v1")
    other = OnlineGRPO.load(tmp_path / "model.ckpt", env_kwargs={"num_servers": 7})
    assert other.learn(10).num_steps == 10, "shared weights fit any number of servers"


def test_predict_has_the_common_signature() -> None:
    model = OnlineGRPO().learn(2_000)
    rows = np.random.default_rng(0).random((50, model.simulator.num_features), np.float32)
    many, state = model.predict(rows, "kept", deterministic=True)
    assert many.shape == (50,)
    assert state == "kept"
    for row, action in zip(rows, many, strict=True):
        assert model.predict(row, deterministic=True)[0] == action
        assert model.probabilities(row).argmax() == action
    mask = np.array([True, False, False, True])
    assert set(model.predict(rows, action_masks=mask)[0]) <= {0, 3}
    with pytest.raises(ConfigError, match="observation must have shape"):
        model.predict(rows[:, :-1])
    with pytest.raises(ConfigError, match="observation must have shape"):
        model.probabilities(rows)


def test_samples_follow_the_policy() -> None:
    model = OnlineGRPO(env_kwargs={"preset": "tiny-grpo"}).learn(20)
    observation = model.simulator.observe()[0]
    actions = model.predict(np.tile(observation, (20_000, 1)))[0]
    shares = np.bincount(actions, minlength=4) / len(actions)
    np.testing.assert_allclose(shares, model.probabilities(observation), atol=0.02)


def test_a_callback_ends_learning() -> None:
    seen: list[int] = []

    def report(model: OnlineGRPO, stats: OnlineStats) -> bool:
        seen.append(stats.num_steps)
        return len(seen) < 2

    model = OnlineGRPO().learn(50_000, callback=report)
    assert seen == [10_000, 20_000]
    assert model.num_steps == 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"env": "CartPole-v1"},
            "env must be 'LoadBalancer-v0' for online GRPO, got 'CartPole-v1'",
        ),
        ({"env_kwargs": {"preset": "park"}}, 'reward must be "latency" or "demo"'),
        ({"env_kwargs": {"num_servers": 1}}, "num_actions must be from group_size = 2"),
        ({"group_size": 1}, "group_size must be >= 2, got 1"),
        ({"exploration": 0.0}, "exploration must be > 0"),
        ({"learning_rat": 1.0}, "Did you mean 'learning_rate'"),
        ({"weight_limit": -1.0}, "weight_limit must be > 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OnlineGRPO(**arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_decision_without_finite_features_is_refused_and_spoils_nothing(bad: float) -> None:
    policy = OnlinePolicy(2, 3)
    features = np.ones((2, 3))
    features[0, 0] = bad
    for use in (policy.choose, policy.probabilities):
        with pytest.raises(ValueError, match="features must be finite"):
            use(features)
    assert policy.decisions == 0
    assert policy.probabilities(np.ones((2, 3))).tolist() == [0.5, 0.5]


def test_a_router_needs_no_torch() -> None:
    code = (
        "import sys; from grpo_gym.trainers.online import OnlinePolicy; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# A policy of its own, saved and warm


def test_a_saved_policy_chooses_and_learns_on_as_the_original(tmp_path: Path) -> None:
    policy = OnlinePolicy(4, 5, OnlineConfig(group_size=3, seed=3, weight_limit=None))
    for _ in range(20):
        policy.learn(policy.choose(FEATURES), [1.0, 0.5, -0.3])
    policy.save(tmp_path / "policy.json")
    loaded = OnlinePolicy.load(tmp_path / "policy.json")
    assert (loaded.config, loaded.decisions) == (policy.config, 20)
    for _ in range(20):
        ours, theirs = policy.choose(FEATURES), loaded.choose(FEATURES)
        np.testing.assert_array_equal(ours.group, theirs.group)
        for each, choice in ((policy, ours), (loaded, theirs)):
            each.learn(choice, [1.0, 0.5, -0.3])
    np.testing.assert_array_equal(policy.weights, loaded.weights)
    assert "4 actions and 5 features, 40 decisions" in repr(loaded)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy 1", "policy 9"),
        ('"num_actions": 4', '"num_actions": 999'),
        ('"weights": [', '"weights": ["x",'),
        ('"weights": [', '"weights": [1e999,'),
        ('"decisions": 0', '"decisions": -1'),
        ('"seed": 0', '"sede": 0'),
        ("{", "["),
    ],
)
def test_a_file_that_is_not_a_policy_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "policy.json"
    OnlinePolicy(4, 5).save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"policy\.json must be a file that OnlinePolicy"):
        OnlinePolicy.load(path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    policy = OnlinePolicy(4, 5)
    policy.weights[0] = np.nan
    with pytest.raises(CheckpointError, match="finite"):
        policy.save(tmp_path / "policy.json")
    with pytest.raises(CheckpointError, match="nothing"):
        OnlinePolicy.load(tmp_path / "nothing")


def test_warming_up_compiles_everything_and_changes_nothing() -> None:
    program = """
import numpy as np
from grpo_gym.trainers.online import OnlinePolicy, kernels
policy, plain = OnlinePolicy(4, 5), OnlinePolicy(4, 5)
policy.warm_up()
used = (kernels.choose, kernels.learn, kernels.softmax_policy)
compiled = [len(each.signatures) for each in used]
assert compiled == [1, 1, 1], compiled
for each in (policy, plain):
    each.learn(each.choose(np.ones((4, 5))), [1.0, 2.0])
    each.probabilities(np.ones((4, 5)))
assert [len(each.signatures) for each in used] == compiled
assert (policy.weights == plain.weights).all() and policy.decisions == plain.decisions == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True)
