"""Spaces that the single and the vector environment share."""

import gymnasium as gym
import numpy as np

from grpo_gym.envs.load_balancer.parameters import count_features
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig


def observation_space(config: LoadBalancerConfig) -> gym.spaces.Box:
    """All features lie in [0, 1], shape (D,), float32."""
    return gym.spaces.Box(0.0, 1.0, (count_features(config),), np.float32)


def action_space(config: LoadBalancerConfig) -> gym.spaces.Discrete:
    """One action per server."""
    return gym.spaces.Discrete(config.num_servers)
