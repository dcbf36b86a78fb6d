"""The vector environment against single ones under Gymnasium's own SyncVectorEnv."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import grpo_gym  # noqa: F401
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

SETTINGS: dict[str, dict[str, Any]] = {
    "flaky": {"episode_length": 23, "mean_time_to_failure_ms": 200.0},
    "park": {"preset": "park", "episode_length": 17, "utilisation": 2.0},
    "tiny-grpo": {"preset": "tiny-grpo", "episode_length": 31,
                  "fault_schedule": ((0, "degraded", 9, 20),)},
    "stale": {"episode_length": 23, "staleness_ms": 40.0, "observe_size": True},
}  # fmt: skip


def make_single(settings: dict[str, Any], max_episode_steps: int | None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = LoadBalancerEnv(**settings)
    return gym.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


def pair(
    num_envs: int, mode: AutoresetMode, max_episode_steps: int | None = None, **settings: Any
) -> tuple[LoadBalancerVectorEnv, SyncVectorEnv]:
    settings = {"infos": "full", **settings}
    vector = LoadBalancerVectorEnv(
        num_envs, autoreset_mode=mode, max_episode_steps=max_episode_steps, **settings
    )
    makers = [lambda: make_single(settings, max_episode_steps)] * num_envs
    return vector, SyncVectorEnv(makers, autoreset_mode=mode)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal values, dtypes and masks; infos only where their mask says that they are there."""
    if isinstance(expected, tuple):
        for index, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
        return
    if isinstance(expected, dict):
        assert set(expected) <= set(found), where
        for name in set(found) - set(expected):  # said of no environment
            assert not found[f"_{name.removeprefix('_')}"].any(), f"{where}/{name}"
        for name in expected:
            mask = expected.get(f"_{name}")
            if mask is None:
                assert_same(found[name], expected[name], f"{where}/{name}")
            else:
                assert_masked(found[name], expected[name], mask, f"{where}/{name}")
        return
    assert np.asarray(found).dtype == np.asarray(expected).dtype, where
    np.testing.assert_array_equal(found, expected, err_msg=where)


def assert_masked(found: Any, expected: Any, mask: np.ndarray, where: str) -> None:
    if isinstance(expected, dict):
        assert_same(found, expected, where)
        return
    assert found.dtype == expected.dtype, where
    assert found.shape == expected.shape, where
    for b in np.flatnonzero(mask):
        np.testing.assert_array_equal(found[b], expected[b], err_msg=f"{where}[{b}]")
    for b in np.flatnonzero(~mask) if found.dtype == object else ():
        assert found[b] is None, where


@pytest.mark.parametrize("limit", [None, 11, 17, 40])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", SETTINGS)
def test_like_single_environments(name: str, mode: AutoresetMode, limit: int | None) -> None:
    vector, sync = pair(3, mode, limit, **SETTINGS[name])
    assert vector.metadata["autoreset_mode"] is mode
    assert vector.single_observation_space == sync.single_observation_space
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert_same(vector.reset(seed=40), sync.reset(seed=40))
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(110):
        if step == 50:  # a reset by hand, while others are in mid-episode
            assert_same(vector.reset(), sync.reset())
        if step == 75:
            assert_same(vector.reset(seed=[3, None, 8]), sync.reset(seed=[3, None, 8]))
        actions = rng.integers(0, vector.config.num_servers, 3)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        ends += int((found[2] | found[3]).sum())
    assert ends >= 6


@pytest.mark.parametrize("limit", [None, 9])
@pytest.mark.parametrize("name", SETTINGS)
def test_disabled_autoreset_with_masks(name: str, limit: int | None) -> None:
    vector, sync = pair(4, AutoresetMode.DISABLED, limit, **SETTINGS[name])
    assert_same(vector.reset(seed=1), sync.reset(seed=1))
    rng = np.random.default_rng(0)
    for step in range(90):
        actions = rng.integers(0, vector.config.num_servers, 4)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        mask = found[2] | found[3]
        if mask.any() or rng.random() < 0.1:
            mask |= rng.random(4) < 0.3
            mask[rng.integers(4)] = True
            seed = [None, 5, int(rng.integers(9)), None] if rng.random() < 0.5 else None
            found_reset = vector.reset(seed=seed, options={"reset_mask": mask.copy()})
            expected_reset = sync.reset(seed=seed, options={"reset_mask": mask.copy()})
            assert_same(found_reset, expected_reset, f"reset after {step}: ")


def test_disabled_autoreset_insists_on_a_reset() -> None:
    env = LoadBalancerVectorEnv(2, episode_length=2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(np.array([0, 1]))
    env.step(np.array([0, 1]))
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        env.step(np.array([0, 1]))
    env.reset(options={"reset_mask": np.array([True, True])})
    env.step(np.array([0, 1]))


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


def test_make_vec() -> None:
    env = gym.make_vec("LoadBalancer-v0", num_envs=3, max_episode_steps=5)
    assert isinstance(env.unwrapped, LoadBalancerVectorEnv)
    env.reset(seed=0)
    truncated = [env.step(np.zeros(3, np.int64))[3].all() for _ in range(12)]
    assert [step for step, end in enumerate(truncated, 1) if end] == [5, 11]
    unlimited = gym.make_vec("LoadBalancer-v0", num_envs=3, max_episode_steps=-1)
    assert getattr(unlimited.unwrapped, "max_episode_steps") is None  # noqa: B009
    sync = gym.make_vec("LoadBalancer-v0", num_envs=2, vectorization_mode="sync")
    native = gym.make_vec("LoadBalancer-v0", num_envs=2, infos="full")
    assert_same(native.reset(seed=4), sync.reset(seed=4))


def test_gymnasium_wrappers_work() -> None:
    env = gym.make_vec("LoadBalancer-v0", num_envs=2, episode_length=6)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    returns = np.zeros(2)
    for _ in range(6):
        _, rewards, _, _, infos = wrapped.step(np.array([0, 1]))
        returns += rewards
    np.testing.assert_allclose(infos["episode"]["r"], returns, rtol=1e-6)
    assert infos["episode"]["l"].tolist() == [6, 6]


def test_async_vector_env() -> None:
    settings: dict[str, Any] = {"episode_length": 12, "preset": "park"}
    env = AsyncVectorEnv([lambda: LoadBalancerEnv(**settings)] * 2)
    try:
        native = LoadBalancerVectorEnv(2, infos="full", **settings)
        np.testing.assert_array_equal(env.reset(seed=7)[0], native.reset(seed=7)[0])
        for step in range(30):
            actions = np.array([step % 10, (3 * step) % 10])
            for left, right in zip(env.step(actions)[:4], native.step(actions)[:4], strict=True):
                np.testing.assert_array_equal(left, right)
    finally:
        env.close()


def test_nothing_returned_is_used_again() -> None:
    env = LoadBalancerVectorEnv(3, episode_length=7, infos="full", autoreset_mode="SameStep")
    env.reset(seed=0)
    kept, copies = [], []
    for _ in range(16):
        observations, rewards, terminated, truncated, infos = env.step(np.array([0, 1, 2]))
        arrays = [observations, rewards, terminated, truncated]
        arrays += [value for value in infos.values() if isinstance(value, np.ndarray)]
        kept.append(arrays)
        copies.append([array.copy() for array in arrays])
        assert len({id(array) for array in arrays}) == len(arrays)
    for left, right in zip(kept, copies, strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.dtype == object or np.array_equal(a, b)


def test_unseeded_members_get_seeds_of_their_own() -> None:
    env = LoadBalancerVectorEnv(3)
    env.reset(seed=[None, 4, None])
    rows = env.simulator.arrivals["arrival_ms"][env.simulator.episodes["trace_row"], 0]
    assert len(set(rows.tolist())) == 3
    other = LoadBalancerVectorEnv(3)
    with pytest.raises(gym.error.ResetNeeded):
        other.step(np.zeros(3, np.int64))
    other.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded):
        other.step(np.zeros(3, np.int64))
    other.reset(seed=[None, 4, None])
    other.step(np.zeros(3, np.int64))
    assert not np.array_equal(env.observe()[0], other.observe()[0])
