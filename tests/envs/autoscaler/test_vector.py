"""The vector environment against single ones under Gymnasium's own SyncVectorEnv."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.records import STATE_INFOS, STEP_INFOS
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.rollouts.spaces import sample_batch

SETTINGS: dict[str, dict[str, Any]] = {
    "scaling": {"episode_steps": 9, "start_up_steps": 0},
    "history": {"episode_steps": 7, "history": 4, "action": "scaling_config"},
    "flat": {"episode_steps": 8, "action": "flat", "reward": "dollars", "retry_share": 0.5},
    "multi": {"episode_steps": 11, "action": "multi", "history": 3, "random_start": True},
    "replicas": {
        "preset": "flash-crowd", "action": "replicas", "constraints": False, "bursts_per_day": 200,
        "episode_steps": 10, "max_replicas": 40,
    },
    "weekly": {"preset": "weekly", "episode_steps": 6, "random_start": True},
}  # fmt: skip


def make_single(settings: dict[str, Any], max_episode_steps: int | None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = AutoScalerEnv(**settings)
    return gym.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


def pair(
    num_envs: int, mode: AutoresetMode, max_episode_steps: int | None = None, **settings: Any
) -> tuple[AutoScalerVectorEnv, SyncVectorEnv]:
    vector = AutoScalerVectorEnv(
        num_envs, autoreset_mode=mode, max_episode_steps=max_episode_steps, **settings
    )
    makers = [lambda: make_single(settings, max_episode_steps)] * num_envs
    return vector, SyncVectorEnv(makers, autoreset_mode=mode)


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Equal values and kinds; of infos those that their mask says are there."""
    if isinstance(expected, tuple):
        for index, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    elif isinstance(expected, dict):
        assert set(expected) <= set(found), where
        for name in set(found) - set(expected):  # said of no environment
            assert not found[f"_{name.removeprefix('_')}"].any(), f"{where}/{name}"
        for name, values in expected.items():
            mask = expected.get(f"_{name}")
            if mask is None or isinstance(values, dict):
                assert_same(found[name], values, f"{where}/{name}")
                continue
            assert found[name].dtype == values.dtype, f"{where}/{name}"
            for b in np.flatnonzero(mask):
                assert_same(found[name][b], values[b], f"{where}/{name}[{b}]")
    else:
        assert np.asarray(found).dtype == np.asarray(expected).dtype, where
        np.testing.assert_array_equal(found, expected, err_msg=where)


def actions_for(env: AutoScalerVectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Mostly safe actions."""
    space = env.single_action_space
    safe = env.config.constraints and rng.random() < 0.8
    return sample_batch(space, env.num_envs, env.action_masks() if safe else None)


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", SETTINGS)
def test_like_single_environments(name: str, mode: AutoresetMode, limit: int | None) -> None:
    vector, sync = pair(3, mode, limit, **SETTINGS[name])
    assert vector.metadata["autoreset_mode"] is mode
    assert vector.single_observation_space == sync.single_observation_space
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert_same(vector.reset(seed=40), sync.reset(seed=40), "reset")
    vector.single_action_space.seed(0)
    rng = np.random.default_rng(0)
    truncations = 0
    for step in range(60):
        if step == 25:  # a reset by hand, in mid-episode
            assert_same(vector.reset(), sync.reset(), "reset")
        if step == 41:
            assert_same(vector.reset(seed=[3, None, 8]), sync.reset(seed=[3, None, 8]), "reset")
        actions = actions_for(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        truncations += int(found[3].sum())
        assert not found[2].any()
    assert truncations >= 12


@pytest.mark.parametrize("name", SETTINGS)
def test_disabled_autoreset_with_masks(name: str) -> None:
    vector, sync = pair(4, AutoresetMode.DISABLED, **SETTINGS[name])
    assert_same(vector.reset(seed=1), sync.reset(seed=1), "reset")
    vector.single_action_space.seed(0)
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(50):
        actions = actions_for(vector, rng)
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
    assert ends >= 4


def test_step_alive_leaves_the_others_as_they_are() -> None:
    settings: dict[str, Any] = {"action": "multi", "history": 3, "episode_steps": 20}
    env = AutoScalerVectorEnv(3, autoreset_mode="Disabled", **settings)
    twins = [AutoScalerEnv(**settings) for _ in range(3)]
    env.reset(seed=5)
    shown = [twin.reset(seed=5 + b)[0] for b, twin in enumerate(twins)]
    rng = np.random.default_rng(0)
    over = np.zeros(3, np.bool_)
    while not over.all():
        alive = ~over & (rng.random(3) < 0.6)
        actions = sample_batch(env.single_action_space, 3, env.action_masks())
        observations, rewards, _, truncated, infos = env.step_alive(actions, alive)
        for b, twin in enumerate(twins):
            expected: tuple[Any, ...] = (shown[b], 0.0, False, False, {})
            if alive[b]:
                expected = twin.step(actions[b])
            shown[b] = expected[0]
            for name, value in shown[b].items():
                np.testing.assert_array_equal(observations[name][b], value)
            assert (rewards[b], truncated[b]) == (expected[1], expected[3])
            for name in (*STEP_INFOS, *STATE_INFOS):
                assert infos[f"_{name}"][b] == alive[b]
                assert not alive[b] or infos[name][b] == expected[4][name]
            np.testing.assert_array_equal(env.action_masks()[b], twin.action_masks())
        over |= truncated


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        ("scaling", [0, 7]), ("scaling", [-1, 0]), ("scaling", [0]), ("scaling", [0.0, 1.0]),
        ("scaling", [[0, 1]]), ("scaling_config", [0, 49]), ("flat", [539, 0]),
        ("replicas", [99, 0]), ("multi", [0, 1]), ("multi", [[0, 0, 11], [0, 0, 0]]),
        ("multi", [[0, 0, 0], [0, -1, 0]]), ("multi", [[0, 0], [0, 0]]), ("multi", [[0.0] * 3] * 2),
    ],
)  # fmt: skip
def test_wrong_actions(kind: str, actions: Any) -> None:
    env = AutoScalerVectorEnv(2, action=kind)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match="actions must be"):
        env.step(np.array(actions))
    assert env.simulator.elapsed().tolist() == [0, 0]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_nothing_returned_is_used_again(mode: AutoresetMode) -> None:
    env = AutoScalerVectorEnv(3, episode_steps=6, history=4, action="flat", autoreset_mode=mode)
    kept: list[list[np.ndarray]] = []
    observations, infos = env.reset(seed=0)
    for step in range(20):
        arrays = [*observations.values()]
        arrays += [value for value in infos.values() if isinstance(value, np.ndarray)]
        kept.append([array for array in arrays if array.dtype != object])
        assert len({id(array) for array in arrays}) == len(arrays)
        copies = [[array.copy() for array in each] for each in kept]
        if mode is AutoresetMode.DISABLED and env._finished.any():
            env.reset(options={"reset_mask": env._finished.copy()})
        observations, *_, infos = env.step(np.full(3, 20 * step))
        for left, right in zip(kept, copies, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)


def test_equal_seeds_share_their_demand_in_memory() -> None:
    env = AutoScalerVectorEnv(4, autoreset_mode="Disabled")
    env.reset(seed=[4, 9, 4, 9])
    rows = env.simulator.episodes["trace_row"]
    assert rows[0] == rows[2] != rows[1] == rows[3]
    # A reset of one of them leaves the demand of the others alone.
    before = env.simulator.demand_ahead(1_440)
    env.reset(seed=[7, None, None, None], options={"reset_mask": np.array([True] + [False] * 3)})
    after = env.simulator.demand_ahead(1_440)
    np.testing.assert_array_equal(after[1:], before[1:])
    assert (after[0] != before[0]).all()


def test_make_vec_with_a_limit_of_steps() -> None:
    env = gym.make_vec("AutoScaler-v0", num_envs=3, max_episode_steps=5)
    assert isinstance(env.unwrapped, AutoScalerVectorEnv)
    env.reset(seed=0)
    truncated = [env.step(np.full(3, 3))[3].all() for _ in range(12)]
    assert [step for step, end in enumerate(truncated, 1) if end] == [5, 11]
