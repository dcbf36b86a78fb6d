"""Pictures for TensorBoard are taken only where there are some."""

import warnings

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from grpo_gym import GRPO
from grpo_gym.cli.pictures import episode_frames
from probe_envs import Luck


def test_an_environment_without_render_modes_is_not_asked_for_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = EnvSpec("Plain-v0", lambda **_: Luck(), max_episode_steps=5)
    monkeypatch.setitem(gym.registry, "Plain-v0", spec)
    model = GRPO("linear", "Plain-v0", num_groups=2, group_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert episode_frames(model, 0) is None


def test_an_environment_with_pictures_is() -> None:
    model = GRPO("linear", "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5"}, num_groups=2)
    frames = episode_frames(model, 0)
    assert frames is not None and frames.shape[0] == 4
