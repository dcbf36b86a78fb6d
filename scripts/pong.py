"""Pong from 4 grey frames of 42 x 42 pixels, with all its actions.

It needs `pip install ale-py opencv-python-headless`.

    python scripts/train.py --env pong:SmallPong-v0
"""

from typing import Any

import ale_py
import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

gym.register_envs(ale_py)


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    """The environment with observations of shape (4, 42, 42), uint8."""
    game: gym.Env[Any, Any] = gym.make("ALE/Pong-v5", frameskip=1, **kwargs)
    return FrameStackObservation(AtariPreprocessing(game, screen_size=42), 4)


gym.register("SmallPong-v0", make)
