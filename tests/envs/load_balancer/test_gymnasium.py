"""Settings that only the load balancer has, ends of episodes, and observations in their space."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

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


def test_the_number_of_servers_decides_the_spaces() -> None:
    env = LoadBalancerVectorEnv(3, preset="park", num_servers=5)
    assert env.single_action_space == gym.spaces.Discrete(5)
    assert env.observation_space.shape == (3, 41)


@pytest.mark.parametrize("reward", ["latency", "demo", "park"])
def test_how_episodes_end(reward: str) -> None:
    env = LoadBalancerEnv(reward=reward, episode_length=7)
    env.reset(seed=0)
    ends = [env.step(np.int64(0))[2:4] for _ in range(7)]
    assert ends[:6] == [(False, False)] * 6
    assert ends[6] == ((True, False) if reward == "park" else (False, True))
    assert all(type(flag) is bool for end in ends for flag in end)


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
        assert (record >= (-1.0 if env.config.is_padded else 0.0)).all()
        assert (record <= 1.0).all()
        assert all(row in env.single_observation_space for row in record[:: len(record) // 20])
        steps += len(record)
    assert steps > 250_000


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_basic_infos_change_nothing_else(mode: AutoresetMode) -> None:
    full = LoadBalancerVectorEnv(3, episode_length=9, autoreset_mode=mode, infos="full")
    basic = LoadBalancerVectorEnv(3, episode_length=9, autoreset_mode=mode)
    assert basic.config.infos == "basic"
    full.reset(seed=0)
    basic.reset(seed=0)
    for step in range(9):
        left, right = full.step(np.full(3, step % 4)), basic.step(np.full(3, step % 4))
        for a, b in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        for name in ("response_time_ms", "error"):
            mask = left[4][f"_{name}"]
            np.testing.assert_array_equal(left[4][name][mask], right[4][name][mask])
        assert "estimated_rewards" not in right[4]


def test_basic_infos_of_steps_say_nothing_about_the_servers() -> None:
    servers = {"in_flight", "latency_ms", "error_rate", "age_ms", "degraded"}
    for infos in ("basic", "full"):
        env = LoadBalancerEnv(infos=infos, num_servers=2, max_servers=3)
        _, of_reset = env.reset(seed=0)
        *_, of_step = env.step(np.int64(0))
        assert set(of_reset) == {*servers, "action_mask"}
        named = set(of_step) - {"oracle_action", "regret", "estimated_rewards"}
        of_request = {"response_time_ms", "error", "action_mask"}
        assert named == (of_request if infos == "basic" else of_request | servers)
