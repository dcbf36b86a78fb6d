"""get_state, set_state and copy_members go on exactly; groups can branch."""

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.snapshot_check import check_snapshots
from grpo_gym.rollouts.spaces import flatten_batch, sample_batch

VARIANTS: dict[str, dict[str, Any]] = {
    "scaling": {"episode_steps": 30, "start_up_steps": 3},
    "overloaded": {
        "episode_steps": 25, "preset": "flash-crowd", "bursts_per_day": 300, "max_replicas": 30,
        "reward": "dollars",
    },
    "multi": {"episode_steps": 20, "action": "multi", "history": 5, "start_up_steps": 0},
    "flat": {"episode_steps": 18, "action": "flat", "random_start": True, "constraints": False},
}  # fmt: skip


def flat(env: Any, observations: Any) -> np.ndarray:
    return flatten_batch(env.single_observation_space, observations)


def go_on(env: AutoScalerVectorEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    space = env.single_action_space
    space.seed(seed)
    record = []
    for _ in range(steps):
        result = env.step(sample_batch(space, env.num_envs, None))
        infos = result[4]
        record += [flat(env, result[0]), *result[1:4], infos["served"], infos["p99_latency_ms"]]
    return record


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vector_goes_on_exactly(variant: str, mode: AutoresetMode) -> None:
    settings = {"autoreset_mode": mode, **VARIANTS[variant]}
    env = AutoScalerVectorEnv(5, **settings)
    env.reset(seed=[3, 1, 3, 1, 2])
    used = AutoScalerVectorEnv(5, **settings)
    used.reset(seed=50)
    go_on(used, 7)
    # At episodes' ends (NEXT_STEP is about to reset) as well as in the middle of one.
    for steps in (env.config.episode_steps, 4, 40):
        go_on(env, steps)
        state = pickle.loads(pickle.dumps(env.get_state()))
        expected = go_on(env, 45, seed=1)
        for other in (env, used, AutoScalerVectorEnv(5, **settings)):
            other.set_state(state)
            assert_same(go_on(other, 45, seed=1), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_goes_on_exactly(variant: str) -> None:
    env = AutoScalerEnv(**VARIANTS[variant])
    env.reset(seed=4)
    actions = [env.action_space.sample() for _ in range(16)]
    for action in actions[:6]:
        env.step(action)
    state = env.get_state()
    kept = pickle.dumps(state)
    expected = [env.step(action) for action in actions[6:]]
    assert pickle.dumps(state) == kept
    other = AutoScalerEnv(**VARIANTS[variant])
    other.set_state(state)
    for action, (observation, reward, *_, info) in zip(actions[6:], expected, strict=True):
        found = other.step(action)
        assert data_equivalence(found[0], observation)
        assert found[1] == reward
        assert data_equivalence(found[4], info)


def test_states_move_between_single_and_vector() -> None:
    vector = AutoScalerVectorEnv(3, **VARIANTS["multi"])
    vector.reset(seed=7)
    go_on(vector, 6)
    env = AutoScalerEnv(**VARIANTS["multi"])
    observation = env.set_state(vector.get_state(np.array([2])))
    for name, rows in vector.observe().items():
        np.testing.assert_array_equal(observation[name], rows[2])
    action = np.array([5, 2, 7])
    assert env.step(action)[1] == vector.step(np.tile(action, (3, 1)))[1][2]


def test_copies_live_on_when_their_source_is_reset() -> None:
    env = AutoScalerVectorEnv(4, autoreset_mode="Disabled", **VARIANTS["overloaded"])
    env.reset(seed=0)
    go_on(env, 4)
    twin = AutoScalerVectorEnv(4, autoreset_mode="Disabled", **VARIANTS["overloaded"])
    twin.set_state(env.get_state(np.array([0, 0, 0, 0])))
    env.copy_members(np.array([0, 0]), np.array([1, 3]))
    env.reset(seed=[8, None, 9, None], options={"reset_mask": np.array([True, False, True, False])})
    for action in (6, 3, 3, 0, 5):
        found, expected = env.step(np.full(4, action)), twin.step(np.full(4, action))
        np.testing.assert_array_equal(found[0][[1, 3]], expected[0][[1, 3]])
        np.testing.assert_array_equal(found[1][[1, 3]], expected[1][[1, 3]])
    everyone = np.array([False, True, False, True])
    again = env.reset(options={"reset_mask": everyone})[0]
    np.testing.assert_array_equal(again[[1, 3]], twin.reset()[0][[1, 3]])


def test_a_foreign_state_is_refused() -> None:
    state = AutoScalerVectorEnv(2).get_state()
    others: list[dict[str, Any]] = [{"start_up_steps": 3}, {"history": 2}, {"episode_steps": 50}]
    for settings in others:
        with pytest.raises(ValueError, match=r"state\['\w+'\] must be an array of shape"):
            AutoScalerVectorEnv(2, **settings).set_state(state)
    with pytest.raises(ValueError, match="must be an array of shape"):
        AutoScalerVectorEnv(3).set_state(state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_can_branch(variant: str) -> None:
    check_snapshots(make_batch("AutoScaler-v0", VARIANTS[variant], 2))
