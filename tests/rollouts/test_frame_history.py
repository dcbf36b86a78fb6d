"""Policies that see the last few observations: in collection, prediction and evaluation alike."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.rollouts.spaces import stack_frames
from probe_envs import Countdown, Cue, Recall

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}


def rows(*values: float) -> np.ndarray:
    """One feature in each environment, shape (B, 1)."""
    return np.array(values, np.float32)[:, None]


def test_frames_by_hand() -> None:
    first = stack_frames(None, rows(1, 10), 3)
    assert first[..., 0].tolist() == [[1, 1, 1], [10, 10, 10]]
    second = stack_frames(first, rows(2, 20), 3, np.array([False, False]))
    assert second[..., 0].tolist() == [[1, 1, 2], [10, 10, 20]]
    third = stack_frames(second, rows(3, 30), 3, np.array([False, True]))
    assert third[..., 0].tolist() == [[1, 2, 3], [30, 30, 30]]
    assert second[..., 0].tolist() == [[1, 1, 2], [10, 10, 20]]  # what was returned stays
    assert third.dtype == np.float32
    one = stack_frames(first[:, :1], rows(5, 6), 1)
    assert one[..., 0].tolist() == [[5], [6]]


def test_collection_shows_the_last_observations() -> None:
    rollout, _ = GRPO("mlp", Countdown, frame_history=3, **SMALL)._collect()
    for t, frames in enumerate(rollout.observations):
        wanted = torch.tensor([max(t - 2, 0), max(t - 1, 0), t], dtype=torch.float32)
        alive = rollout.alive[t]
        assert torch.equal(frames[alive], wanted.expand(int(alive.sum()), 3))
    assert len(rollout.alive) == 4


# What needs memory


@pytest.mark.parametrize(("history", "solved"), [(1, False), (2, True), (3, True)])
def test_a_cue_is_remembered_or_not(history: int, solved: bool) -> None:
    model = GRPO(
        "mlp", Cue, frame_history=history, num_groups=4, group_size=8, hidden_sizes=(16,),
        num_minibatches=2, learning_rate=0.02,
    ).learn(3_000)  # fmt: skip
    mean = model.evaluate(128).mean_return  # which shows as many observations
    assert mean == 1.0 if solved else mean < 0.7


class Falling(gym.Env[Any, Any]):
    """Only the position is seen; the right action says whether it falls or rises."""

    observation_space: gym.Space[Any] = gym.spaces.Box(-20.0, 20.0, (1,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        self.position = float(self.np_random.uniform(-5.0, 5.0))
        self.speed = float(self.np_random.choice([-1.0, 1.0]))
        return np.array([self.position], np.float32), {}

    def step(self, action: Any) -> Any:
        right = self.time > 0 and action == (self.speed > 0)
        self.time += 1
        self.position += self.speed
        observation = np.array([self.position], np.float32)
        return observation, float(right), self.time == 4, False, {}


@pytest.mark.parametrize(("history", "low", "high"), [(1, 0.0, 2.5), (2, 2.9, 3.0)])
def test_a_velocity_is_inferred_or_not(history: int, low: float, high: float) -> None:
    model = GRPO(
        "mlp", Falling, frame_history=history, num_groups=8, group_size=8, hidden_sizes=(16,),
        num_minibatches=2, learning_rate=0.02,
    ).learn(12_000)  # fmt: skip
    assert low <= model.evaluate(128).mean_return <= high


# Prediction


def trained(env: Any = "CartPole-v1", history: int = 3) -> GRPO:
    options = {**SMALL, "frame_history": history, "learning_rate": 0.02}
    return GRPO("mlp", env, **options).learn(600)


def seen_by(model: GRPO, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Features that the policy is asked about from now on."""
    seen: list[np.ndarray] = []
    real = model.policy.act

    def act(observations: np.ndarray, masks: Any, noise: Any) -> np.ndarray:
        seen.append(observations.copy())
        return real(observations, masks, noise)

    monkeypatch.setattr(model.policy, "act", act)
    return seen


def test_prediction_sees_what_collection_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    rollout, _ = model._collect()
    seen = seen_by(model, monkeypatch)
    g, k = 1, 2
    steps = int(rollout.lengths[g, k])
    newest = rollout.observations[:steps, g, k, -4:].numpy()
    state = None
    for t in range(steps):
        _, state = model.predict(newest[t], state, np.array([t == 0]))
    features = np.concatenate(seen)
    np.testing.assert_array_equal(features, rollout.observations[:steps, g, k].numpy())


def test_a_batch_forgets_where_episodes_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(history=2)
    seen = seen_by(model, monkeypatch)
    first, second, third = (np.full((3, 4), v, np.float32) for v in (1, 2, 3))
    _, state = model.predict(first, None, np.ones(3, bool))
    kept = state.copy()
    _, after = model.predict(second, state, np.array([False, True, False]))
    np.testing.assert_array_equal(state, kept)  # the caller's state is not written to
    model.predict(third, after, np.array([True, False, False]))
    ends = [features[:, [0, -1]].tolist() for features in seen]
    assert ends == [[[1, 1]] * 3, [[1, 2], [2, 2], [1, 2]], [[3, 3], [2, 3], [2, 3]]]
    # Without episode_start nothing is forgotten.
    model.predict(third, after)
    assert seen[-1][:, [0, -1]].tolist() == [[2, 3]] * 3


def test_one_observation_and_a_batch_of_one_are_alike() -> None:
    model = trained()
    observations = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    single, many = None, None
    for observation in observations:
        action, single = model.predict(observation, single, deterministic=True)
        actions, many = model.predict(observation[None], many, deterministic=True)
        assert actions.tolist() == [int(action)]
        np.testing.assert_array_equal(single, many)


def test_a_loop_as_in_stable_baselines3_is_an_evaluation() -> None:
    """Vector environments go on after an end: the first observation starts a new history."""
    model = trained()
    wanted = model.evaluate(4, seed=7)
    for i in range(4):
        env = gym.make("CartPole-v1")
        observation, _ = env.reset(seed=7 + i)
        state: Any = np.full((1, 3, 4), 9.0, np.float32)  # of an episode before
        start, total, over = np.ones(1, bool), 0.0, False
        while not over:
            action, state = model.predict(observation, state, start, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            start = np.array([terminated or truncated])
            over = bool(start[0])
        assert total == wanted.returns[i]


def test_a_loaded_model_sees_as_many(tmp_path: Path) -> None:
    model = trained(Recall, 4)
    model.save(tmp_path / "m.grpo")
    loaded = GRPO.load(tmp_path / "m.grpo", Recall)
    assert loaded.policy.observation_size == model.policy.observation_size == 4
    assert loaded.weights_sha256() == model.weights_sha256()
    np.testing.assert_array_equal(loaded.evaluate(8).returns, model.evaluate(8).returns)
    states: list[Any] = [None, None]
    for bit in (0, 1, 1, 0, 1):
        pairs = [
            m.predict(np.array([bit], np.int8), s, deterministic=True)
            for m, s in zip((model, loaded), states, strict=True)
        ]
        states = [state for _, state in pairs]
        assert pairs[0][0] == pairs[1][0]
        np.testing.assert_array_equal(*states)


def test_one_frame_is_as_without_history() -> None:
    """And keeps whatever state it is given."""
    model = trained(history=1)
    assert model.policy.observation_size == 4
    _, state = model.predict(np.zeros(4, np.float32), "kept")
    assert state == "kept"
