"""Spaces that the single and the vector environment share."""

import gymnasium as gym
import numpy as np

from grpo_gym.envs.battleship.observation import observation_shape
from grpo_gym.envs.battleship.presets import BattleshipConfig


def observation_space(config: BattleshipConfig) -> gym.spaces.Box:
    """Images or a vector of numbers in [0, 1]; "compact": [-1, 1]."""
    low = -1.0 if config.observation == "compact" else 0.0
    return gym.spaces.Box(low, 1.0, observation_shape(config), np.float32)


def action_space(config: BattleshipConfig) -> gym.spaces.Discrete:
    """One action per cell, row by row."""
    return gym.spaces.Discrete(config.cells)
