"""Shaping leaves the best policy alone, on a small world solved both ways; rescaling."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.autoscaler.rewards import potential as cluster_potential
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.envs.wrappers import (
    RewardScale,
    ScaleReward,
    ScaleRewardVector,
    ShapeReward,
    ShapeRewardVector,
)
from grpo_gym.settings import ConfigError

STATES, ACTIONS, GOAL = 6, 3, 5
_RNG = np.random.default_rng(2)
NEXT = _RNG.integers(0, STATES, (STATES, ACTIONS))
NEXT[4, 0] = GOAL
REWARD = _RNG.normal(size=(STATES, ACTIONS)).round(2)
HEIGHT = np.array([3.0, -1.0, 4.0, 0.5, -2.0, 8.0])


class Maze(gym.Env[np.ndarray, np.int64]):
    """Five rooms and a goal, where it ends; `limit` cuts episodes."""

    observation_space = gym.spaces.Box(0, STATES, (1,), np.float32)
    action_space = gym.spaces.Discrete(ACTIONS)

    def __init__(self, limit: int = 1_000) -> None:
        self.limit = limit

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.room, self.step_number = int(self.np_random.integers(GOAL)), 0
        self.room = (options or {}).get("room", self.room)
        return self._seen(), {"height": HEIGHT[self.room]}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(REWARD[self.room, action])
        self.room = int(NEXT[self.room, action])
        self.step_number += 1
        over = self.room == GOAL
        cut = self.step_number >= self.limit
        return self._seen(), reward, over, cut, {"height": HEIGHT[self.room]}

    def _seen(self) -> np.ndarray:
        return np.array([self.room], np.float32)


def height(observation: Any, infos: dict[str, Any]) -> Any:
    """A potential, from both that it can look at."""
    rooms = np.asarray(observation)[..., 0].astype(int)
    values = np.asarray(infos["height"])
    known = infos.get("_height", np.ones(values.shape, np.bool_))
    assert (values == HEIGHT[rooms])[known].all()
    return HEIGHT[rooms]


def solve(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Values of actions, shape (STATES, ACTIONS), by value iteration; the goal is worth 0."""
    values = np.zeros((STATES, ACTIONS))
    for _ in range(4_000):
        best = values.max(axis=1)
        best[GOAL] = 0.0
        values = rewards + discount * best[NEXT]
    return values[:GOAL]


def shaped_rewards(env: gym.Env[Any, Any]) -> np.ndarray:
    """What the wrapper gives for each action in each room."""
    rewards = np.zeros((STATES, ACTIONS))
    for room in range(GOAL):
        for action in range(ACTIONS):
            env.reset(options={"room": room})
            rewards[room, action] = env.step(action)[1]
    return rewards


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_the_best_policy_stays_the_best(discount: float) -> None:
    plain = solve(REWARD, discount)
    shaped = shaped_rewards(ShapeReward(Maze(), height, discount))
    values = solve(shaped, discount)
    assert np.median(np.abs(shaped - REWARD)[:GOAL]) > 0.5, "the rewards are other ones"
    np.testing.assert_array_equal(values.argmax(axis=1), plain.argmax(axis=1))
    np.testing.assert_allclose(values, plain - HEIGHT[:GOAL, None], atol=1e-8)


def test_a_potential_at_the_goal_would_make_another_policy_best() -> None:
    """What the rule for terminal states is there for."""
    wrong = REWARD + 0.9 * HEIGHT[NEXT] - HEIGHT[:, None]
    assert (solve(wrong, 0.9).argmax(axis=1) != solve(REWARD, 0.9).argmax(axis=1)).any()


def test_an_episode_adds_up_to_its_first_potential() -> None:
    for limit in (1_000, 4):
        env = ShapeReward(Maze(limit), height, 1.0)
        observation, _ = env.reset(seed=4)
        first, total, over, cut = HEIGHT[int(observation[0])], 0.0, False, False
        rng = np.random.default_rng(0)
        while not (over or cut):
            action = rng.integers(3)
            if limit == 4:  # do not end before
                action = np.flatnonzero(NEXT[int(observation[0])] != GOAL)[0]
            observation, shaped, over, cut, info = env.step(action)
            total += float(shaped) - info["reward"]
        last = 0.0 if over else HEIGHT[int(observation[0])]
        assert over != (limit == 4)
        assert total == pytest.approx(last - first)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_many_like_single_ones(mode: AutoresetMode) -> None:
    env = ShapeRewardVector(SyncVectorEnv([lambda: Maze(6)] * 4, autoreset_mode=mode), height, 0.9)
    singles = [ShapeReward(Maze(6), height, 0.9) for _ in range(4)]
    env.reset(seed=1)
    for b, single in enumerate(singles):
        single.reset(seed=1 + b)
    rng = np.random.default_rng(0)
    over = np.zeros(4, np.bool_)
    ends = np.zeros(2, np.int64)
    for _ in range(80):
        if mode is AutoresetMode.DISABLED and over.any():
            env.reset(options={"reset_mask": over.copy()})
            for finished in np.flatnonzero(over):
                singles[finished].reset()
        actions = rng.integers(0, 3, 4)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for b, single in enumerate(singles):
            if mode is AutoresetMode.NEXT_STEP and over[b]:
                single.reset()
                assert rewards[b] == 0.0
                continue
            observation, shaped, single_over, single_cut, info = single.step(int(actions[b]))
            assert rewards[b] == pytest.approx(shaped)
            assert infos["reward"][b] == info["reward"]
            assert (terminated[b], truncated[b]) == (single_over, single_cut)
            if mode is AutoresetMode.SAME_STEP and (single_over or single_cut):
                observation, _ = single.reset()
            np.testing.assert_array_equal(observations[b], observation)
        over = terminated | truncated
        ends += [terminated.sum(), truncated.sum()]
    assert ends.min() > 3


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("history", [0, 3])
def test_the_potential_of_a_cluster(mode: AutoresetMode, history: int) -> None:
    """Undiscounted, an episode's shaped rewards differ from its own by last minus first."""
    settings: dict[str, Any] = {"episode_steps": 12, "history": history}
    env = ShapeRewardVector(
        AutoScalerVectorEnv(3, autoreset_mode=mode, **settings), cluster_potential, 1.0
    )
    single = ShapeReward(gym.make("AutoScaler-v0", **settings), cluster_potential, 1.0)
    _, infos = env.reset(seed=5)
    _, info = single.reset(seed=7)
    first = cluster_potential(None, infos)
    assert first[2] == pytest.approx(cluster_potential(None, info))
    gained = np.zeros(3)
    for step in range(12):
        _, shaped, _, truncated, infos = env.step(np.full(3, step % 7))
        _, alone, *_ = single.step(step % 7)
        assert shaped[2] == pytest.approx(alone)
        gained += shaped - infos["reward"]
    assert truncated.all()
    last = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    np.testing.assert_allclose(gained, cluster_potential(None, last) - first, atol=1e-9)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_discounts_that_are_none(discount: float) -> None:
    with pytest.raises(ConfigError, match="discount must be "):
        ShapeReward(Maze(), height, discount)
    with pytest.raises(ConfigError, match="discount must be "):
        ShapeRewardVector(SyncVectorEnv([Maze]), height, discount)


def test_unknown_resets_are_refused() -> None:
    env = SyncVectorEnv([Maze])
    env.metadata = {}
    with pytest.raises(ConfigError, match=r'env.metadata\["autoreset_mode"\] must be'):
        ShapeRewardVector(env, height)


@pytest.mark.parametrize("center", [False, True])
def test_the_scale_is_that_of_the_last_rewards(center: bool) -> None:
    scale = RewardScale(window=7, clip=1.5, center=center)
    rewards = np.random.default_rng(0).normal(3.0, 5.0, 40)
    for t in range(40):
        known = rewards[max(0, t - 6) : t + 1]
        spread = known.std() if t else 1.0
        expected = (rewards[t] - known.mean() * center) / spread
        found = scale(rewards[t : t + 1])
        np.testing.assert_allclose(found, np.clip([expected], -1.5, 1.5), rtol=1e-12)
    # A batch counts like its rewards one after the other, even one larger than the window.
    batch = RewardScale(window=7, clip=100.0, center=center)(rewards)
    tail = rewards[-7:]
    np.testing.assert_allclose(batch, (rewards - tail.mean() * center) / tail.std(), rtol=1e-12)


def test_equal_rewards_are_left_alone() -> None:
    scale = RewardScale()
    np.testing.assert_array_equal(scale(np.array([2.0, 2.0])), [2.0, 2.0])
    spread = np.std([2.0, 2.0, 50.0])
    np.testing.assert_allclose(scale(np.array([50.0])), [50.0 / spread])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"window": 1}, "window must be >= 2"), ({"clip": 0.0}, "clip must be > 0")],
)
def test_scales_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardScale(**settings)


def test_scaled_environments() -> None:
    shared = RewardScale(window=50)
    expected = RewardScale(window=50)
    pair = [ScaleReward(Maze(), shared) for _ in range(2)]
    for b, env in enumerate(pair):
        env.reset(seed=b)
    for step in range(30):
        _, reward, over, _, info = pair[step % 2].step(np.int64(step % 3))
        assert reward == expected(np.array([info["reward"]]))[0]
        if over:
            pair[step % 2].reset()


def test_resets_do_not_count_as_rewards() -> None:
    env = ScaleRewardVector(SyncVectorEnv([lambda: Maze(3)] * 3), RewardScale(window=40))
    expected = RewardScale(window=40)
    env.reset(seed=0)
    over = np.zeros(3, np.bool_)
    for step in range(40):
        _, rewards, terminated, truncated, infos = env.step(np.full(3, step % 3))
        assert (rewards[over] == 0.0).all()
        if not over.all():
            np.testing.assert_array_equal(rewards[~over], expected(infos["reward"][~over]))
        over = terminated | truncated
