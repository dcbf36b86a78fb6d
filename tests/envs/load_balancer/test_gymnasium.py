"""The single environment as Gymnasium wants it, and observations inside their space."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import grpo_gym  # noqa: F401
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import PRESETS
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

FAULTY: dict[str, Any] = {
    "mean_time_to_failure_ms": 300.0,
    "mean_time_to_recovery_ms": 100.0,
    "fault_mix": {"degraded": 1, "slow": 1, "erroring": 1, "down": 1},
    "recovery_ramp_ms": 50.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{preset: {"preset": preset} for preset in PRESETS},
    "basic": {"infos": "basic"},
    "one server": {"num_servers": 1},
    "aggregate with size": {"observation": "aggregate", "observe_size": True, **FAULTY},
    "stale with size": {"observe_size": True, "staleness_ms": 90.0, **FAULTY},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_check_env(variant: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("LoadBalancer-v0", **VARIANTS[variant])
        check_env(env.unwrapped)
        env.close()


def test_other_ways_to_make_it() -> None:
    env = gym.make("grpo_gym:LoadBalancer-v0", preset="park", num_servers=5)
    assert isinstance(env.unwrapped, LoadBalancerEnv)
    assert env.action_space == gym.spaces.Discrete(5)
    vector = gym.make_vec("grpo_gym:LoadBalancer-v0", num_envs=3, preset="park", num_servers=5)
    assert isinstance(vector.unwrapped, LoadBalancerVectorEnv)
    assert vector.single_action_space == gym.spaces.Discrete(5)
    assert vector.observation_space.shape == (3, 41)
    assert env.spec is not None
    again = gym.make(env.spec).unwrapped
    assert isinstance(again, LoadBalancerEnv)
    assert again.config == env.unwrapped.config


@pytest.mark.parametrize("reward", ["latency", "demo", "park"])
def test_how_episodes_end(reward: str) -> None:
    env = LoadBalancerEnv(reward=reward, episode_length=7)
    env.reset(seed=0)
    ends = [env.step(np.int64(0))[2:4] for _ in range(7)]
    assert ends[:6] == [(False, False)] * 6
    assert ends[6] == ((True, False) if reward == "park" else (False, True))
    assert all(type(flag) is bool for end in ends for flag in end)


def rollout(env: Any, seed: int | None, steps: int = 60) -> list[Any]:
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    record = [observation.copy(), *map(np.copy, info.values())]
    for _ in range(steps):
        observation, reward, *_, info = env.step(rng.integers(env.action_space.n))
        record += [observation, reward, *info.values()]
    return record


def same(left: list[Any], right: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_reset_is_reproducible() -> None:
    env, other = LoadBalancerEnv(**FAULTY), LoadBalancerEnv(**FAULTY)
    first = rollout(env, 5)
    following = rollout(env, None)
    assert not same(first, following)
    assert same(rollout(env, 5), first)
    assert same(rollout(env, None), following)
    assert same(rollout(other, 5), first)
    assert same(rollout(other, None), following)
    assert not same(rollout(other, 6), first)
    for seed in (0, 2**63, 2**64 + 5, 2**130 + 1):
        assert same(rollout(env, seed), rollout(other, seed))


def test_unseeded_environments_differ() -> None:
    env, other = LoadBalancerEnv(), LoadBalancerEnv()
    assert not same(rollout(env, None), rollout(other, None))
    # Looking at the generator before the first reset is no seed.
    env, other = LoadBalancerEnv(), LoadBalancerEnv()
    assert env.np_random is not other.np_random
    assert not same(rollout(env, None), rollout(other, None))
    env.np_random = np.random.default_rng(3)
    other = LoadBalancerEnv()
    other.np_random = np.random.default_rng(3)
    assert not same(rollout(other, None), rollout(env, None))
    fresh = LoadBalancerEnv()
    fresh.np_random = np.random.default_rng(3)
    other = LoadBalancerEnv()
    other.np_random = np.random.default_rng(3)
    assert same(rollout(other, None), rollout(fresh, None))


def test_nothing_returned_is_used_again() -> None:
    env = LoadBalancerEnv(**FAULTY)
    rng = np.random.default_rng(0)
    kept = [env.reset(seed=3)]
    copies = [copy.deepcopy(kept[0])]
    for _ in range(50):
        result = env.step(rng.integers(4))
        kept.append((result[0], result[4]))
        copies.append(copy.deepcopy(kept[-1]))
    for (observation, info), (observation_copy, info_copy) in zip(kept, copies, strict=True):
        assert np.array_equal(observation, observation_copy)
        assert same(list(info.values()), list(info_copy.values()))


def test_pickling_in_mid_episode() -> None:
    env = LoadBalancerEnv(**FAULTY)
    rollout(env, 1, steps=30)
    clones = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    expected = [env.step(np.int64(b % 4))[:2] for b in range(20)]
    for clone in clones:
        found = [clone.step(np.int64(b % 4))[:2] for b in range(20)]
        assert all(same(list(a), list(b)) for a, b in zip(expected, found, strict=True))
    expected_next = env.reset()[0]
    assert all(np.array_equal(clone.reset()[0], expected_next) for clone in clones)


def test_a_group_of_equal_seeds_sees_equal_traffic() -> None:
    env = LoadBalancerVectorEnv(4, preset="flaky", infos="full", observe_size=True)
    env.reset(seed=[9, 9, 9, 9])
    rng = np.random.default_rng(1)
    for _ in range(900):  # through two automatic resets
        actions = rng.integers(0, 4, 4)
        observations, _, _, _, infos = env.step(actions)
        assert np.ptp(observations[:, -1]) == 0.0
        assert np.ptp(infos["degraded"].astype(int), axis=0).max() == 0
        assert np.ptp(env.simulator.episodes["now_ms"]) == 0.0
    assert np.ptp(observations[:, :-1], axis=0).max() > 0.0


def all_modes() -> Iterator[dict[str, Any]]:
    for preset in PRESETS:
        for observation in ("per_server", "aggregate"):
            for observe_size in (False, True):
                yield {
                    "preset": preset,
                    "observation": observation,
                    "observe_size": observe_size,
                }


EXTREMES: list[dict[str, Any]] = [
    {},
    {"utilisation": 5.0, "episode_length": 2_000},
    {"utilisation": 1e-4},
    {"staleness_ms": 500.0},
    FAULTY,
]
PRESET_LENGTH = {"mm4": 1_500, "tiny-grpo": 3_000}


@pytest.mark.parametrize("extreme", range(len(EXTREMES)))
def test_a_million_observations_lie_in_their_space(extreme: int) -> None:
    """Over all presets and modes together; including the last ones of episodes."""
    steps = 0
    rng = np.random.default_rng(0)
    for mode in all_modes():
        settings = {**EXTREMES[extreme], **mode}
        if mode["preset"] in PRESET_LENGTH:
            settings["episode_length"] = PRESET_LENGTH[mode["preset"]]
        env = LoadBalancerVectorEnv(10, **settings)
        observations = [env.reset(seed=0)[0]]
        count = env.config.num_servers
        # Uniform choices, then everything on one server.
        for step in range(env.config.episode_length + 150):
            actions = rng.integers(0, count, 10) if step % 300 < 200 else np.full(10, count - 1)
            observation, reward, *_ = env.step(actions)
            observations.append(observation)
            assert np.isfinite(reward).all()
        record = np.concatenate(observations)
        assert record.dtype == np.float32
        assert (record >= 0.0).all()
        assert (record <= 1.0).all()
        assert all(row in env.single_observation_space for row in record[:: len(record) // 20])
        steps += len(record)
    assert steps > 250_000
