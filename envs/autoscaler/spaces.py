"""Spaces that the single and the vector environment share."""

from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.envs.autoscaler.actions import COMPONENTS, count_choices
from grpo_gym.envs.autoscaler.observation import NUM_METRICS, feature_names
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig


def observation_space(config: AutoScalerConfig) -> gym.Space[Any]:
    """Numbers in [-1, 1], shape (M,); with a history a Dict of them and of (H, 10)."""
    current = gym.spaces.Box(-1.0, 1.0, (len(feature_names(config)),), np.float32)
    if config.history == 0:
        return current
    history = gym.spaces.Box(-1.0, 1.0, (config.history, NUM_METRICS), np.float32)
    return gym.spaces.Dict({"current_metrics": current, "metrics_history": history})


def action_space(config: AutoScalerConfig) -> gym.spaces.Discrete | gym.spaces.MultiDiscrete:
    """One number, or with "multi" three."""
    if config.action == "multi":
        return gym.spaces.MultiDiscrete(list(COMPONENTS))
    return gym.spaces.Discrete(count_choices(config))
