"""MiniGrid's DoorKey as numbers, without the text of its mission.

It needs `pip install minigrid`, and shows how an id of one's own wraps an environment of others.

    python scripts/train.py --env doorkey:DoorKey-v0
"""

from typing import Any

import gymnasium as gym
import minigrid
from minigrid.wrappers import ImgObsWrapper

gym.register_envs(minigrid)


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    """The environment with the image of the grid, shape (7, 7, 3), uint8, as its observation."""
    env: gym.Env[Any, Any] = ImgObsWrapper(gym.make("MiniGrid-DoorKey-5x5-v0", **kwargs))
    return env


gym.register("DoorKey-v0", make)
