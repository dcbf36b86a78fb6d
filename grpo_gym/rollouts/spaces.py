"""Observations of any Gymnasium space as rows of float32 features; histories; random actions.

Boxes are flattened, discrete values one-hot encoded, and the parts of a Dict or Tuple joined in
the order of the space, as `gymnasium.spaces.flatten` does for one observation.

Shapes: B observations, D features, H frames of a history, A choices.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.settings import ConfigError

_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def flat_size(space: gym.Space[Any]) -> int:
    """Number of features of a flattened observation, D.

    Raises:
        ConfigError: If the space, or a part of it, has no fixed features (Text, Sequence, Graph).
    """
    if isinstance(space, spaces.Dict):
        return sum(flat_size(part) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(flat_size(part) for part in space.spaces)
    if not isinstance(space, _FLAT):
        raise ConfigError(
            "observation space must be a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict "
            f"or Tuple of them, got {space}"
        )
    return int(spaces.flatdim(space))


def flatten_batch(space: gym.Space[Any], batch: Any) -> np.ndarray:
    """Flatten a vector environment's batch of observations to (B, D), float32."""
    if isinstance(space, spaces.Dict):
        parts = [flatten_batch(part, batch[name]) for name, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, batch, strict=True)
        return np.concatenate([flatten_batch(part, values) for part, values in pairs], axis=1)
    values = np.asarray(batch)
    if isinstance(space, spaces.Discrete):
        return _one_hot(values - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        flat = (values - space.start).reshape(len(values), -1)
        sizes = space.nvec.reshape(-1)
        columns = [_one_hot(flat[:, i], int(n)) for i, n in enumerate(sizes)]
        return np.concatenate(columns, axis=1)
    return values.astype(np.float32, copy=False).reshape(len(values), -1)


def flatten_one(space: gym.Space[Any], observation: Any) -> np.ndarray:
    """Flatten one observation to (1, D), float32."""
    return np.asarray(spaces.flatten(space, observation), np.float32).reshape(1, -1)


def stack_frames(
    frames: np.ndarray | None,
    observations: np.ndarray,
    length: int,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Add the newest observations to each environment's history.

    Args:
        frames: Histories that the last call returned, shape (B, H, D), float32; None at first.
        observations: The newest, shape (B, D), float32.
        length: H.
        starts: Environments whose episode begins, shape (B,), bool: their history is the newest
            observation, repeated. None: none of them.

    Returns:
        Shape (B, H, D), float32, oldest first.
    """
    newest = observations[:, None, :]
    if frames is None or length == 1:
        return np.repeat(newest, length, axis=1)
    stacked = np.concatenate([frames[:, 1:], newest], axis=1)
    if starts is not None:
        stacked[starts] = newest[starts]
    return stacked


def is_batch(space: gym.Space[Any], observation: Any) -> bool:
    """Whether an observation has one more axis, the batch, than the space.

    Raises:
        ConfigError: If its shape is neither that of the space nor of a batch of it.
    """
    if isinstance(space, spaces.Dict):
        name, part = next(iter(space.spaces.items()))
        return is_batch(part, observation[name])
    if isinstance(space, spaces.Tuple):
        return is_batch(space.spaces[0], observation[0])
    shape = np.shape(observation)
    if shape == space.shape:
        return False
    if shape[1:] == space.shape:
        return True
    raise ConfigError(
        f"observation must have shape {space.shape} or (batch, *{space.shape}), got {shape}"
    )


def validate_action_space(space: gym.Space[Any]) -> None:
    """Refuse action spaces that no policy supports.

    Raises:
        ConfigError: If the space is not Discrete, one-dimensional MultiDiscrete or a float Box.
    """
    supported = isinstance(space, spaces.Discrete)
    supported |= isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1
    supported |= isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not supported:
        raise ConfigError(
            f"action space must be Discrete, MultiDiscrete (one-dimensional) or a float Box, got "
            f"{space}"
        )


def sample_batch(space: gym.Space[Any], count: int, masks: np.ndarray | None) -> np.ndarray:
    """Random actions, shape (B, ...), only legal ones if there are masks, shape (B, A), bool.

    The space's own generator draws.
    """
    if masks is None:
        return np.stack([space.sample() for _ in range(count)])
    legal: Sequence[Any] = list(masks.astype(np.int8))
    if isinstance(space, spaces.MultiDiscrete):  # whose masks are a tuple of parts
        legal = [tuple(np.split(mask, np.cumsum(space.nvec)[:-1])) for mask in legal]
    return np.stack([space.sample(mask) for mask in legal])


def _one_hot(values: np.ndarray, size: int) -> np.ndarray:
    rows = np.zeros((len(values), size), np.float32)
    rows[np.arange(len(values)), values.astype(np.int64)] = 1.0
    return rows
