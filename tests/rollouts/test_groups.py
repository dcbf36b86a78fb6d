from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.groups import EnvGroups, GroupError
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import ConfigError
from probe_envs import BestAction, Countdown, IgnoresSeed, OneStep, Search


def grouped(env: Any, group_size: int, num_envs: int, **kwargs: Any) -> EnvGroups:
    return EnvGroups(make_batch(env, kwargs, num_envs), group_size)


def parts(env: EnvGroups) -> list[Any]:
    assert isinstance(env.batch, LoopBatch)
    return [one.unwrapped for one in env.batch.envs]


# Starts


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_members_of_any_id_start_equal_and_groups_differ(env_id: str) -> None:
    env = grouped(env_id, 4, 12)
    observations, masks = env.reset(np.array([5, 6, 5]))
    starts = observations.reshape(3, 4, -1)
    assert masks is None
    assert (starts == starts[:, :1]).all()
    assert (starts[0] == starts[2]).all()
    assert (starts[0] != starts[1]).any()
    single = gym.make(env_id)
    np.testing.assert_array_equal(starts[1, 3], single.reset(seed=6)[0])


def test_members_of_unrelated_groups_have_seeds_of_their_own() -> None:
    observations, _ = grouped("CartPole-v1", 2, 4).reset(np.array([[1, 2], [2, 3]]))
    assert (observations[1] == observations[2]).all()
    assert len(np.unique(observations, axis=0)) == 3


def test_members_that_draw_randomness_of_their_own_are_an_error() -> None:
    env = grouped(IgnoresSeed, 2, 4)
    with pytest.raises(GroupError, match=r"IgnoresSeed\.reset\(\), seed 1: members of a group"):
        env.reset(np.array([1, 2]))
    env.reset(np.array([[1, 2], [3, 4]]))  # unrelated: nothing to share


@pytest.mark.parametrize("wrapper", ["NormalizeReward", "NormalizeObservation"])
def test_wrappers_with_statistics_of_their_own_are_refused(wrapper: str) -> None:
    make = getattr(gym.wrappers, wrapper)
    with pytest.raises(ConfigError, match=f"CartPole-v1 must come without {wrapper}"):
        grouped(lambda: gym.wrappers.FlattenObservation(make(gym.make("CartPole-v1"))), 2, 4)


def test_one_environment_in_several_wrappers_is_refused() -> None:
    base = gym.make("CartPole-v1")
    with pytest.raises(ConfigError, match="env must make a new environment at every call"):
        grouped(lambda: gym.wrappers.TimeLimit(base, 50), 2, 4)


def test_members_of_native_groups_share_a_trace() -> None:
    env = grouped("LoadBalancer-v0", 3, 6, episode_length=40)
    assert isinstance(env.batch, NativeBatch)
    env.reset(np.array([1, 2]))
    steps = [env.batch.step(np.full(6, t % 4), np.ones(6, np.bool_)) for t in range(40)]
    times = np.array([step.infos["response_time_ms"] for step in steps]).reshape(40, 2, 3)
    assert (times == times[:, :, :1]).all()
    assert (times[:, 0] != times[:, 1]).any()
    assert steps[-1].truncated.all()


# Steps


def test_only_members_that_are_alive_are_stepped() -> None:
    env = grouped(Countdown, 2, 4)
    env.reset(np.array([1, 2]))
    lengths = np.array([0, 3, 1, 2])
    alive = np.ones(4, np.bool_)
    for t in range(4):
        step = env.batch.step(lengths, alive)
        assert step.rewards.tolist() == alive.astype(float).tolist()
        assert not step.terminated[~alive].any()
        time = np.where(alive, t + 1.0, np.nan)
        np.testing.assert_array_equal(step.infos["time"], time)
        # Those that have ended keep their last observation.
        np.testing.assert_array_equal(step.observations[:, 0], np.minimum(t, lengths) + 1)
        alive = alive & ~step.terminated
        np.testing.assert_array_equal(alive, lengths > t)
    assert [one.calls for one in parts(env)] == [1, 4, 2, 3]


def test_observations_of_a_step_are_not_overwritten_by_the_next() -> None:
    env = grouped(Countdown, 2, 2)
    env.reset(np.array([1]))
    first = env.batch.step(np.array([3, 3]), np.ones(2, np.bool_)).observations
    env.batch.step(np.array([3, 3]), np.ones(2, np.bool_))
    assert first.tolist() == [[1.0], [1.0]]


def test_masks_of_members_that_have_ended_allow_everything() -> None:
    env = grouped(Search, 3, 3)
    _, masks = env.reset(np.array([1]))
    assert masks is not None
    assert masks.tolist() == [[True, True, True, False]] * 3
    everyone = np.ones(3, np.bool_)
    # The first finds the prize: nothing is legal.
    step = env.batch.step(np.array([1, 0, 2]), everyone)
    assert step.action_masks is not None
    assert step.action_masks.tolist() == [
        [True, True, True, True],
        [False, True, True, False],
        [True, True, False, False],
    ]
    masks = env.batch.step(np.array([0, 1, 0]), ~step.terminated).action_masks
    assert masks is not None
    assert masks.tolist() == [[True] * 4, [True] * 4, [False, True, False, False]]


class OddInfos(OneStep):
    """Infos whose types change, and a mask in parts as Gymnasium's MultiDiscrete has it."""

    action_space: gym.Space[Any] = spaces.MultiDiscrete([2, 3])

    def step(self, action: Any) -> Any:
        winner = None if action[0] else 1
        mask = (np.array([1, 0]), np.array([0, 1, 1]))
        return self.observe(), 0.0, False, False, {"winner": winner, "action_mask": mask}


def test_infos_and_masks_of_other_forms() -> None:
    env = grouped(OddInfos, 2, 2)
    env.reset(np.array([1]))
    step = env.batch.step(np.array([[0, 0], [1, 0]]), np.ones(2, np.bool_))
    np.testing.assert_array_equal(step.infos["winner"], [1.0, np.nan])
    assert step.action_masks is not None
    assert step.action_masks.tolist() == [[True, False, False, True, True]] * 2


@pytest.mark.parametrize("group_size", [4, 0])
def test_group_size_must_divide(group_size: int) -> None:
    with pytest.raises(ConfigError, match=f"group_size must divide .* \\(6\\), got {group_size}"):
        EnvGroups(make_batch(BestAction, None, 6), group_size)
