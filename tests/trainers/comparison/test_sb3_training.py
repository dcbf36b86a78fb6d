"""Algorithms of Stable-Baselines3 in training and at play, beside their own `predict`."""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.options import BoardOptions
from grpo_gym.rollouts.spaces import flatten_batch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.comparison.settings import SB3Settings
from probe_envs import BestAction, Context, Patience

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from grpo_gym.trainers.comparison.contenders import find_contender
from grpo_gym.trainers.comparison.sb3_training import SB3Training, unflatten_batch
from grpo_gym.trainers.comparison.training import GRPOTraining

SMALL: dict[str, Any] = {"num_envs": 4, "settings": {"n_steps": 8, "batch_size": 16, "n_epochs": 1}}


WORLDS: dict[str, Any] = {
    "Shifted-v0": BestAction,
    "Parts-v0": lambda: Context("dict"),
    "Digit-v0": lambda: Context("discrete"),
    "Patience-v0": Patience,
    "Lamp35-v0": lambda: _Lamp(35),
    "Lamp36-v0": lambda: _Lamp(36),
}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    for name, entry_point in WORLDS.items():
        gym.register(name, entry_point)
    yield
    for name in WORLDS:
        del gym.registry[name]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (2, 3, 3), np.uint8),
        spaces.Box(-1.0, 1.0, (4,), np.float64),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
        spaces.MultiBinary((2, 2)),
    ],
)
def test_observations_come_back_from_features(space: gym.Space[Any]) -> None:
    space.seed(0)
    batch = np.stack([np.asarray(space.sample()) for _ in range(6)])
    found = unflatten_batch(space, flatten_batch(space, batch))
    np.testing.assert_allclose(found, batch, atol=1e-6)
    assert found.dtype == space.dtype and found.shape == batch.shape


def test_the_action_function_is_predict_on_normalised_observations() -> None:
    training = SB3Training(
        SB3Settings(
            env="CartPole-v1", normalise_observations=True, normalise_rewards=True, **SMALL
        ),
        seed=0,
    )
    training.learn(64, lambda steps: None)
    rows = np.random.default_rng(0).normal(0.0, 3.0, (50, 4)).astype(np.float32)
    actions, _ = training.action_function(deterministic=True)(
        rows, None, None, np.ones(50, np.bool_)
    )
    statistics = training.model.get_vec_normalize_env().obs_rms
    seen = (rows - statistics.mean) / np.sqrt(statistics.var + 1e-8)
    wanted, _ = training.model.predict(np.clip(seen, -10.0, 10.0), deterministic=True)
    np.testing.assert_array_equal(actions, wanted)
    assert 0 < actions.sum() < 50 and statistics.count > 64


class _Lamp(gym.Env[np.ndarray, Any]):
    """An image that is bright or dark; action 1 is right where it is bright."""

    action_space = spaces.Discrete(2)

    def __init__(self, pixels: int) -> None:
        self.observation_space = spaces.Box(0, 255, (1, pixels, pixels), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self._bright = int(self.np_random.integers(2))
        shape = self.observation_space.shape
        assert shape is not None
        return np.full(shape, 255 * self._bright, np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        right = action == self._bright
        return self.reset()[0], float(right), True, False, {}


def test_images_are_learned_from_with_cnn() -> None:
    iterations = {"n_steps": 32, "batch_size": 32, "n_epochs": 4, "learning_rate": 1e-3}
    settings = SB3Settings(env="Lamp36-v0", policy="cnn", num_envs=4, settings=iterations)
    training = SB3Training(settings, seed=0)
    training.learn(1024, lambda steps: None)
    act = training.action_function(deterministic=True)
    for bright in (0, 1):
        rows = np.full((3, 36 * 36), 255 * bright, np.uint8)
        actions, _ = act(rows, None, None, np.ones(3, np.bool_))
        np.testing.assert_array_equal(actions, [bright] * 3)


@pytest.mark.parametrize(
    ("env", "message"),
    [("Lamp35-v0", "less than 36 x 36"), ("CartPole-v1", "observation space must be an image")],
)
def test_cnn_refuses_what_is_no_large_image(env: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SB3Training(SB3Settings(env=env, policy="cnn", **SMALL), seed=0)


def test_the_action_function_remembers_as_predict_does() -> None:
    training = SB3Training(
        SB3Settings(env="CartPole-v1", algorithm="recurrent_ppo", lstm_width=8, **SMALL), seed=0
    )
    rows = np.random.default_rng(0).normal(0.0, 3.0, (20, 3, 4)).astype(np.float32)
    starts = np.random.default_rng(1).random((20, 3)) < 0.3
    action_function, state, other = training.action_function(deterministic=True), None, None
    for observations, start in zip(rows, starts, strict=True):
        actions, state = action_function(observations, None, state, start)
        wanted, other = training.model.predict(observations, other, start, deterministic=True)
        np.testing.assert_array_equal(actions, wanted)
    assert state is not None
    assert other is not None
    assert np.shape(state) == np.shape(other)


def test_only_legal_actions_are_played() -> None:
    training = SB3Training(
        SB3Settings(
            env="Battleship-v0",
            env_kwargs={"preset": "uniform-5x5"},
            algorithm="maskable_ppo",
            **SMALL,
        ),
        seed=0,
    )
    assert training.model.observation_space.shape is not None
    size = int(np.prod(training.model.observation_space.shape))
    for cell in range(25):
        masks = np.zeros((1, 25), np.bool_)
        masks[0, cell] = True
        act = training.action_function(deterministic=False)
        actions, _ = act(np.zeros((1, size), np.float32), masks, None, np.ones(1, np.bool_))
        assert actions.tolist() == [cell]


def test_discrete_observations_are_seen_as_they_are() -> None:
    training = SB3Training(SB3Settings(env="Patience-v0", **SMALL), seed=0)
    training.learn(64, lambda steps: None)
    seen = np.random.default_rng(0).integers(0, 4, 300)
    rows = np.eye(4, dtype=np.float32)[seen]
    torch.manual_seed(1)
    actions, _ = training.action_function(False)(rows, None, None, np.ones(300, np.bool_))
    torch.manual_seed(1)
    wanted, _ = training.model.predict(seen)
    np.testing.assert_array_equal(actions, wanted)
    assert 0 < actions.sum() < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "CartPole-v1", "algorithm": "maskable_ppo"}, "no info"),
        (
            {"env": "Pendulum-v1", "algorithm": "maskable_ppo"},
            "must be ppo.*actions are Box",
        ),
        ({"env": "Parts-v0"}, "must not be a Dict for ppo.*FlattenObservation"),
        ({"env": "Shifted-v0"}, "actions must count from 0"),
        ({"env": "Digit-v0"}, "observations must count from 0"),
        (
            {"env": "Patience-v0", "normalise_observations": True},
            "must be false with observations",
        ),
        ({"env": "CartPole-v1", "policy": "board"}, "Box of channels"),
        (
            {"env": "Battleship-v0", "training_env_kwargs": {"preset": "uniform-5x5"}},
            "leave the spaces",
        ),
    ],
)
def test_what_cannot_be_played_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SB3Training(SB3Settings(**{**SMALL, **settings}), seed=0)


def test_a_training_leaves_nothing_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    SB3Training(SB3Settings(env="CartPole-v1", **SMALL), seed=0).learn(64, lambda steps: None)
    assert not [*tmp_path.iterdir()]


def test_learning_rate_and_discount_move_to_their_ends() -> None:
    settings = SB3Settings(
        env="CartPole-v1",
        learning_rate_schedule="linear",
        final_learning_rate=0.1,
        final_discount=1.0,
        **{**SMALL, "settings": {**SMALL["settings"], "gamma": 0.9, "learning_rate": 0.01}},
    )
    training = SB3Training(settings, seed=0)
    seen: list[tuple[int, float]] = []
    training.learn(128, lambda steps: seen.append((steps, training.model.gamma)))
    assert [steps for steps, _ in seen] == [0, 32, 64, 96]
    assert [gamma for _, gamma in seen] == pytest.approx([0.9, 0.9, 0.925, 0.95])
    assert training.model.rollout_buffer.gamma == pytest.approx(0.975)
    assert training.model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_equal_layers_have_equal_parameters() -> None:
    settings = SB3Settings(env="CartPole-v1", hidden_sizes=(64, 64), **SMALL)
    theirs = SB3Training(settings, seed=0)
    ours = find_contender("grpo", "CartPole-v1", {}).new_training(seed=0)
    assert isinstance(ours, GRPOTraining)
    actor = (4 * 64 + 64) + (64 * 64 + 64) + (64 * 2 + 2)
    critic = (4 * 64 + 64) + (64 * 64 + 64) + (64 + 1)
    assert theirs.policy_parameters == ours.policy_parameters == ours.parameters == actor
    assert theirs.parameters == actor + critic


@pytest.mark.parametrize("algorithm", ["ppo", "maskable_ppo", "a2c", "trpo"])
def test_the_board_policy_is_ours(algorithm: Any) -> None:
    settings = {name: v for name, v in SMALL["settings"].items() if name == "n_steps"}
    if algorithm != "a2c":
        settings["batch_size"] = 16
    theirs = SB3Training(
        SB3Settings(
            env="Battleship-v0",
            env_kwargs={"preset": "uniform-5x5", "observation": "planes"},
            algorithm=algorithm,
            policy="board",
            channels=8,
            blocks=1,
            num_envs=4,
            settings=settings,
        ),
        seed=0,
    )
    spaces_of = (theirs.model.observation_space, theirs.model.action_space)
    ours = BoardPolicy(*spaces_of, BoardOptions(channels=8, blocks=1))
    # The last layer's bias is the same for all cells, so theirs goes without.
    assert theirs.policy_parameters == sum(p.numel() for p in ours.parameters()) - 1
    assert theirs.learn(64, lambda steps: None) == 64
