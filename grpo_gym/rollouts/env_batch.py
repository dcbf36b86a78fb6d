"""The interface of a batch: B environments that are stepped, saved and restored together.

Shapes: B environments, D features of a flattened observation, A choices, M saved environments,
K copies of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from grpo_gym.settings import ConfigError

ENDLESS = 50_000
"""Steps after which an episode without a time limit is considered endless."""


@dataclass(frozen=True)
class BatchStep:
    """The result of one step of B environments.

    Attributes:
        observations: Flattened, shape (B, D), float32.
        rewards: Shape (B,), float64; 0 where no step was taken.
        terminated: Shape (B,), bool.
        truncated: Shape (B,), bool.
        infos: Per-step quantities by name, shape (B,), float64; NaN where an environment did not
            report one or was not stepped.
        action_masks: Legal actions, shape (B, A), bool, or None if the environment has no mask;
            everything is legal where an episode has ended.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, np.ndarray]
    action_masks: np.ndarray | None


class EnvBatch(ABC):
    """B environments, each reset from its own seed and stepped until its episode ends.

    Attributes:
        name: What messages call the environment.
        num_envs: B.
        single_observation_space: Of one environment.
        single_action_space: Of one environment.
        has_time_limit: Whether every episode is known to end.
    """

    name: str
    num_envs: int
    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]
    has_time_limit: bool

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Start an episode in every environment, each from its own seed.

        Returns:
            Observations, shape (B, D), float32, and action masks, shape (B, A), bool, or None.
        """

    @abstractmethod
    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """Step the environments that are alive, shape (B,), bool; the others stay as they are.

        `actions` have first axis B, also for environments that are not stepped.
        """

    @abstractmethod
    def snapshot(self, members: np.ndarray) -> Any:
        """Save the states of the environments with these indices, shape (M,), int64."""

    @abstractmethod
    def restore(self, snapshot: Any, members: np.ndarray) -> None:
        """Put environments into saved states, from which they continue exactly as the originals.

        The state includes all future randomness and the steps left until a time limit.

        Args:
            snapshot: Of M environments; it can be restored any number of times.
            members: Row i lists the environments that take the i-th saved state; shape (M, K),
                int64, all distinct.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the environments' resources."""

    def check_ending(self, steps: int) -> None:
        """Refuse to continue episodes of `ENDLESS` steps that no time limit will end.

        Raises:
            ConfigError: If there is one.
        """
        if steps >= ENDLESS and not self.has_time_limit:
            raise ConfigError(
                f"episodes of {self} must end, got one of {steps:,} steps: limit them with "
                "env_kwargs max_episode_steps=..., or a TimeLimit wrapper"
            )

    def __str__(self) -> str:
        return self.name


def env_name(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """The id of an environment, or else the name of its class."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id
