"""Spaces and option checks that the single and the vector environment share."""

from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.config import ConfigError, suggest
from grpo_gym.envs.load_balancer.parameters import count_features
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig


def observation_space(config: LoadBalancerConfig) -> gym.spaces.Box:
    """All features lie in [0, 1], shape (D,), float32."""
    return gym.spaces.Box(0.0, 1.0, (count_features(config),), np.float32)


def action_space(config: LoadBalancerConfig) -> gym.spaces.Discrete:
    """One action per server."""
    return gym.spaces.Discrete(config.num_servers)


def check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> None:
    """Refuse reset options that would be ignored.

    Raises:
        ConfigError: At the first unknown option.
    """
    for name in options or {}:
        if name not in known:
            raise ConfigError(f"reset has no option {name!r}.{suggest(str(name), known)}")
