"""Native vector environments against single ones under Gymnasium's own SyncVectorEnv."""

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from grpo_gym.settings import ConfigError
from native_cases import CASES, DEFAULTS, NativeCase, assert_same, pair, some_actions, trace_of

PER_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
PER_ENV = pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)
FIRST = {case.env_id: case for case in reversed(CASES.values())}
PER_SHORT_ENV = pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
"""One case with short episodes per environment."""


def ended_at(env: Any, steps: int) -> list[int]:
    """Steps at which all episodes of a vector environment were truncated."""
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    truncated = [env.step(some_actions(env, rng))[3].all() for _ in range(steps)]
    return [step for step, end in enumerate(truncated, 1) if end]


@pytest.mark.parametrize("limit", [None, 5, 17])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@PER_CASE
def test_like_single_environments(case: NativeCase, mode: AutoresetMode, limit: int | None) -> None:
    vector, sync = pair(case, 3, mode, limit)
    assert vector.metadata["autoreset_mode"] is mode
    assert vector.single_observation_space == sync.single_observation_space
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert_same(vector.reset(seed=40), sync.reset(seed=40))
    rng = np.random.default_rng(0)
    ends = terminations = 0
    for step in range(90):
        if step == 43:  # a reset by hand, while others are in mid-episode
            assert_same(vector.reset(), sync.reset())
        if step == 65:
            assert_same(vector.reset(seed=[3, None, 8]), sync.reset(seed=[3, None, 8]))
        actions = some_actions(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        terminations += int(found[2].sum())
        ends += int((found[2] | found[3]).sum())
    assert ends >= 6
    always, sometimes = case.settings.get("preset") == "park", case.env_id == "Battleship-v0"
    if limit is None and not sometimes:
        assert terminations == (ends if always else 0)
    if limit is None and sometimes:
        assert terminations >= 4
    if limit == 5:
        assert ends - terminations >= 4


@pytest.mark.parametrize("limit", [None, 6])
@PER_CASE
def test_disabled_autoreset_with_masks(case: NativeCase, limit: int | None) -> None:
    vector, sync = pair(case, 4, AutoresetMode.DISABLED, limit)
    assert_same(vector.reset(seed=1), sync.reset(seed=1))
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(90):
        actions = some_actions(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        mask = found[2] | found[3]
        ends += int(mask.sum())
        if mask.any() or rng.random() < 0.1:
            mask |= rng.random(4) < 0.3
            mask[rng.integers(4)] = True
            seed = [None, 5, int(rng.integers(9)), None] if rng.random() < 0.5 else None
            again = vector.reset(seed=seed, options={"reset_mask": mask.copy()})
            expected_again = sync.reset(seed=seed, options={"reset_mask": mask.copy()})
            assert_same(again, expected_again, f"reset after {step}: ")
    assert ends >= 3


@PER_CASE
def test_step_alive_leaves_the_others_as_they_are(case: NativeCase) -> None:
    env, twins = case.vector(4, autoreset_mode="Disabled"), [case.single() for _ in range(4)]
    observations, _ = env.reset(seed=5)
    shown = [twin.reset(seed=5 + b)[0] for b, twin in enumerate(twins)]
    rng = np.random.default_rng(0)
    over = np.zeros(4, np.bool_)
    while not over.all():
        alive = ~over & (rng.random(4) < 0.6)
        actions = some_actions(env, rng)
        observations, rewards, terminated, truncated, infos = env.step_alive(actions, alive)
        for b, twin in enumerate(twins):
            expected: tuple[Any, ...] = (shown[b], 0.0, False, False, {})
            if alive[b]:
                expected = twin.step(actions[b])
            shown[b] = expected[0]
            assert_same(_of(observations, b), shown[b])
            assert (rewards[b], terminated[b], truncated[b]) == expected[1:4]
            present = {name for name in infos if infos.get(f"_{name}", alive * 0)[b]}
            assert present == set(expected[4])
            for name, value in expected[4].items():
                np.testing.assert_array_equal(infos[name][b], value)
            if hasattr(twin, "action_masks"):
                np.testing.assert_array_equal(env.action_masks()[b], twin.action_masks())
        over |= terminated | truncated


def _of(observations: Any, b: int) -> Any:
    if isinstance(observations, dict):
        return {name: rows[b] for name, rows in observations.items()}
    return observations[b]


@PER_SHORT_ENV
def test_without_automatic_resets_finished_environments_need_one(case: NativeCase) -> None:
    env = case.vector(2, autoreset_mode="Disabled", max_episode_steps=2)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    env.step_alive(some_actions(env, rng), np.array([True, False]))
    actions, everyone = some_actions(env, rng), np.ones(2, np.bool_)
    assert env.step_alive(actions, everyone)[3].tolist() == [True, False]
    for step in (env.step, partial(env.step_alive, alive=everyone)):
        with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
            step(actions)
    for alive in (np.ones(3, np.bool_), np.ones(2), [1, 0]):
        with pytest.raises(ConfigError, match=r"alive must be bool of shape \(2,\)"):
            env.step_alive(actions, np.asarray(alive))
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(actions)[3].tolist() == [False, True]
    automatic = case.vector(2)
    automatic.reset(seed=0)
    with pytest.raises(ConfigError, match="autoreset_mode must be DISABLED for step_alive"):
        automatic.step_alive(actions, everyone)


@PER_ENV
def test_no_step_before_a_reset(case: NativeCase) -> None:
    env = case.vector(3)
    actions = some_actions(env, np.random.default_rng(0))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions)
    env.reset(seed=1, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(actions)


@PER_ENV
def test_make_vec_with_a_limit_of_steps(case: NativeCase) -> None:
    env = gym.make_vec(case.env_id, num_envs=3, max_episode_steps=5)
    assert ended_at(env.unwrapped, 12) == [5, 11]
    unlimited = gym.make_vec(case.env_id, num_envs=3, max_episode_steps=-1)
    assert getattr(unlimited.unwrapped, "max_episode_steps") is None  # noqa: B009
    assert ended_at(unlimited.unwrapped, 12) == []


@PER_SHORT_ENV
def test_make_vec_with_gymnasiums_vectorization(case: NativeCase) -> None:
    sync = gym.make_vec(case.env_id, num_envs=2, vectorization_mode="sync", **case.settings)
    assert_same(case.vector(2).reset(seed=4), sync.reset(seed=4))


@PER_SHORT_ENV
def test_gymnasium_wrappers_work(case: NativeCase) -> None:
    env = case.vector(2)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    rng = np.random.default_rng(0)
    returns, steps, ended = np.zeros(2), 0, np.zeros(2, np.bool_)
    while not ended.any():
        _, rewards, terminated, truncated, infos = wrapped.step(some_actions(env, rng))
        returns += rewards
        steps += 1
        ended = terminated | truncated
    np.testing.assert_allclose(infos["episode"]["r"][ended], returns[ended], rtol=1e-6)
    assert (infos["episode"]["l"][ended] == steps).all()


@PER_SHORT_ENV
def test_async_vector_env(case: NativeCase) -> None:
    env = AsyncVectorEnv([case.single] * 2)
    try:
        native = case.vector(2)
        assert_same(env.reset(seed=7)[0], native.reset(seed=7)[0])
        rng = np.random.default_rng(0)
        for _ in range(30):
            actions = some_actions(native, rng)
            assert_same(native.step(actions)[:4], env.step(actions)[:4])
    finally:
        env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@PER_CASE
def test_nothing_returned_is_used_again(case: NativeCase, mode: AutoresetMode) -> None:
    env = case.vector(3, autoreset_mode=mode)
    observations, infos = env.reset(seed=0)
    kept, copies = [], []
    rng = np.random.default_rng(0)
    ends: tuple[np.ndarray, ...] = ()
    for _ in range(24):
        arrays = [*observations.values()] if isinstance(observations, dict) else [observations]
        arrays += [*ends, *(value for value in infos.values() if isinstance(value, np.ndarray))]
        assert len({id(array) for array in arrays}) == len(arrays)
        kept.append(arrays)
        copies.append(copy.deepcopy(arrays))
        if mode is AutoresetMode.DISABLED and env._finished.any():
            env.reset(options={"reset_mask": env._finished.copy()})
        observations, *ends, infos = env.step(some_actions(env, rng))
    for left, right in zip(kept, copies, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_equal(a.tolist(), b.tolist())


@PER_ENV
def test_unseeded_environments_have_traces_of_their_own(case: NativeCase) -> None:
    env = case.vector(4)
    env.reset(seed=[None, 4, None, 4])
    traces = [trace_of(env, b) for b in range(4)]
    assert traces[1] == traces[3]
    assert len(set(traces)) == 3
    other = case.vector(4)
    other.reset(seed=[None, 4, None, 4])
    assert trace_of(other, 1) == traces[1]
    assert trace_of(other, 0) != traces[0]


@PER_ENV
def test_equal_seeds_share_a_trace_until_one_is_reset(case: NativeCase) -> None:
    env = case.vector(4, autoreset_mode="Disabled")
    env.reset(seed=[4, 9, 4, 9])
    if env.simulator.trace_names:
        rows = env.simulator.episodes["trace_row"].tolist()
        assert rows[0] == rows[2] != rows[1] == rows[3]
    before = [trace_of(env, b) for b in range(4)]
    assert before[0] == before[2] != before[1] == before[3]
    env.reset(seed=[7, None, None, None], options={"reset_mask": np.array([True] + [False] * 3)})
    after = [trace_of(env, b) for b in range(4)]
    assert after[1:] == before[1:]
    assert after[0] != before[0]


@PER_CASE
def test_a_group_of_equal_seeds_keeps_equal_traces(case: NativeCase) -> None:
    """Whatever its members do, episode after episode."""
    env = case.vector(4, autoreset_mode="Disabled")
    env.reset(seed=[9, 9, 9, 9])
    rng = np.random.default_rng(1)
    traces = set()
    for _ in range(5):
        assert len({trace_of(env, b) for b in range(4)}) == 1
        traces.add(trace_of(env))
        over = np.zeros(4, np.bool_)
        while not over.all():
            _, _, terminated, truncated, _ = env.step_alive(some_actions(env, rng), ~over)
            over |= terminated | truncated
        env.reset()
    assert len(traces) == 5
