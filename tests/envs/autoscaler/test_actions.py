"""Actions as numbers and as choices, masks, and clipping of unsafe actions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler_reference import CHANGES, Cluster
from grpo_gym.envs.autoscaler.actions import (
    ALL_TRAFFIC,
    COMPONENTS,
    NO_CHANGE,
    NO_CONFIGURATION,
    decode,
    encode,
)
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.settings import ConfigError

COUNTS = {"scaling": 7, "scaling_config": 49, "flat": 539}
NEUTRAL = (NO_CHANGE, NO_CONFIGURATION, ALL_TRAFFIC)


@pytest.mark.parametrize("kind", COUNTS)
def test_numbers_and_choices_are_a_bijection(kind: str) -> None:
    numbers = np.arange(COUNTS[kind])
    choices = decode(kind, numbers)
    assert choices.shape == (len(numbers), 3)
    assert len({tuple(row) for row in choices.tolist()}) == len(numbers)
    np.testing.assert_array_equal(encode(kind, choices), numbers)
    for part in range(3):
        expected = range(COMPONENTS[part]) if part <= list(COUNTS).index(kind) else [NEUTRAL[part]]
        assert set(choices[:, part].tolist()) == set(expected)


@given(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 10)))
def test_kinds_of_actions_agree(choices: tuple[int, int, int]) -> None:
    change, configuration, share = choices
    assert encode("flat", choices) == (change * 7 + configuration) * 11 + share
    assert encode("scaling_config", choices) == change * 7 + configuration
    assert encode("scaling", choices) == change
    assert encode("multi", choices).tolist() == list(choices)
    assert decode("flat", encode("flat", choices)).tolist() == list(choices)
    assert decode("multi", encode("multi", choices)).tolist() == list(choices)


def test_shapes_of_actions() -> None:
    choices = np.zeros((4, 5, 3), np.int64)
    assert encode("flat", choices).shape == (4, 5)
    assert decode("flat", encode("flat", choices)).shape == (4, 5, 3)
    assert encode("multi", choices).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode("falt", [0, 0, 0]), r"kind must be .*'falt'.*Did you mean 'flat'"),
        (lambda: decode("replicas", 3), "kind must be made of components, got 'replicas'"),
        (lambda: encode("flat", [0, 0, 11]), "choices must be"),
        (lambda: encode("flat", [0, -1, 0]), "choices must be"),
        (lambda: encode("flat", [0, 0]), "choices must be"),
        (lambda: decode("flat", 539), "actions must be from 0 to 538 for 'flat', got 539"),
        (lambda: decode("scaling", [-1]), "actions must be from 0 to 6"),
        (lambda: decode("multi", [0, 7, 0]), "choices must be"),
    ],
)
def test_invalid_actions_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("kind", ["flat", "multi", "scaling_config"])
def test_equal_choices_have_equal_effects_in_every_kind(kind: str) -> None:
    """Equal choices of all components, or of those that the kind has."""
    env, other = AutoScalerEnv(action=kind), AutoScalerEnv(action="flat")
    env.reset(seed=3)
    other.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        choices = rng.integers(0, COMPONENTS)
        if kind == "scaling_config":
            choices[2] = ALL_TRAFFIC
        left, right = env.step(encode(kind, choices)), other.step(encode("flat", choices))
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1] == right[1]


@pytest.mark.parametrize("constraints", [True, False])
@pytest.mark.parametrize("kind", ["scaling", "scaling_config", "flat", "multi", "replicas"])
def test_masks_follow_the_rules(kind: str, constraints: bool) -> None:
    env = AutoScalerEnv(
        action=kind, constraints=constraints, max_replicas=20, cooldown_steps=2, episode_steps=200,
        base_demand=700.0,
    )  # fmt: skip
    info = env.reset(seed=1)[1]
    cluster = Cluster(env.config, info["replicas"])
    rng = np.random.default_rng(1)
    legal_counts = set()
    for _ in range(200):
        masks = env.action_masks()
        assert ("action_mask" in info) == constraints
        if constraints:
            assert info["action_mask"].dtype == np.int8
            np.testing.assert_array_equal(info["action_mask"], masks)
        np.testing.assert_array_equal(masks, expected_mask(cluster, kind))
        legal_counts.add(int(masks.sum()))
        if kind == "multi":
            parts = np.split(masks, np.cumsum(COMPONENTS)[:-1])
            choices = np.array([rng.choice(np.flatnonzero(part)) for part in parts])
            action: Any = choices
        else:
            action = rng.choice(np.flatnonzero(masks))
        if kind == "replicas":
            wanted = (int(action) + 2 - cluster.total, NO_CONFIGURATION, ALL_TRAFFIC)
        else:
            change, configuration, share = decode(kind, action).tolist()
            wanted = (CHANGES[change], configuration, share)
        info = env.step(action)[4]
        cluster.step(*wanted[:2], wanted[2] / 10, info["demand"])
        assert not info["constrained"], "allowed actions are not clipped"
    assert len(legal_counts) > 1 or (kind == "replicas" and not constraints)


def expected_mask(cluster: Cluster, kind: str) -> list[bool]:
    if kind == "replicas":
        return [cluster.allowed(n - cluster.total) for n in range(2, 21)]
    scaling = [cluster.allowed(change) for change in CHANGES]
    configuration = [cluster.configurable(choice) for choice in range(7)]
    if kind == "multi":
        return scaling + configuration + [True] * 11
    if kind == "scaling":
        return scaling
    pairs = [a and b for a in scaling for b in configuration]
    return pairs if kind == "scaling_config" else [pair for pair in pairs for _ in range(11)]


@pytest.mark.parametrize(
    ("initial", "action", "total"),
    [
        (10, 0, 6), (6, 0, 3), (5, 6, 7), (3, 0, 2), (2, 0, 2), (2, 6, 4), (20, 6, 20), (19, 6, 20),
        (4, 5, 6), (8, 6, 12),
    ],
)  # fmt: skip
def test_an_unsafe_action_is_clipped(initial: int, action: int, total: int) -> None:
    env = AutoScalerEnv(initial_replicas=initial, max_replicas=20)
    mask = env.reset(seed=0)[1]["action_mask"]
    info = env.step(action)[4]
    assert info["replicas"] + info["pending"] == total
    assert info["constrained"] == (total != initial + CHANGES[action])
    assert bool(mask[action]) != info["constrained"]


def test_without_constraints_only_the_replica_limits_hold() -> None:
    env = AutoScalerEnv(action="replicas", constraints=False, initial_replicas=3)
    env.reset(seed=0)
    totals = []
    for action in (98, 0, 40):
        info = env.step(action)[4]
        totals.append(info["replicas"] + info["pending"])
        assert not info["constrained"]
    assert totals == [100, 2, 42]


def test_the_mask_is_fresh() -> None:
    env = AutoScalerVectorEnv(2)
    infos = env.reset(seed=0)[1]
    kept = infos["action_mask"]
    before = kept.copy()
    infos = env.step(np.array([6, 3]))[4]
    np.testing.assert_array_equal(kept, before)
    assert infos["action_mask"].tolist() == [[0, 0, 0, 1, 0, 0, 0], [1] * 7]


def test_ladders_end() -> None:
    env = AutoScalerEnv(action="scaling_config")
    env.reset(seed=0)
    for choice, field, last in [(1, "batch", 5), (2, "timeout", 0), (5, "concurrency", 6)]:
        for _ in range(9):
            env.step(NO_CHANGE * 7 + choice)
        assert env.simulator.clusters[field][0] == last
        assert not env.action_masks()[NO_CHANGE * 7 + choice]
        other = choice + 1 if choice % 2 == 0 else choice - 1
        assert env.action_masks()[NO_CHANGE * 7 + other]


def test_a_target_is_the_utilisation_by_the_last_requests() -> None:
    env = AutoScalerEnv("constant", action="target", constraints=False)
    env.reset(seed=0)
    totals = []
    for action in range(15):
        info = env.step(action)[4]
        totals.append(info["replicas"] + info["pending"])
    # 2,000 requests/s of which a replica serves 100 at most.
    assert totals == [math.ceil(2000 / percent) for percent in range(30, 101, 5)]


def test_a_target_counts_retries() -> None:
    env = AutoScalerEnv(
        "flash-crowd", action="target", constraints=False, retry_share=1.0, max_replicas=60
    )
    rng = np.random.default_rng(0)
    info = env.reset(seed=3)[1]
    requests, retried = info["demand"], 0.0
    for _ in range(400):
        percent = 30 + 5 * (choice := int(rng.integers(15)))
        info = env.step(choice)[4]
        expected = min(max(math.ceil(requests / percent), 2), 60)
        assert info["replicas"] + info["pending"] == expected
        requests = (info["arrivals"] + info["retried"]) / 60.0
        retried += info["retried"]
    assert retried > 0.0


def test_constraints_clip_a_target() -> None:
    env = AutoScalerEnv("constant", action="target", initial_replicas=20, cooldown_steps=2)
    info = env.reset(seed=0)[1]
    assert info["action_mask"].tolist() == [1] * 15
    infos = [env.step(0)[4] for _ in range(4)]  # wants 67
    assert [info["replicas"] + info["pending"] for info in infos] == [30, 30, 45, 45]
    assert [info["constrained"] for info in infos] == [True] * 4
