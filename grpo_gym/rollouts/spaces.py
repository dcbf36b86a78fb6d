"""Observations of any Gymnasium space as rows of features; histories; random actions.

Boxes are flattened, discrete values one-hot encoded, and the parts of a Dict or Tuple joined in
the order of the space, as `gymnasium.spaces.flatten` does for one observation. What is not in the
space is refused, but for the bounds of a Box, which many environments exceed a little.

Shapes: B observations, D features, W numbers of a row (D, unless images lie among other parts: see
`rollouts.rows`), H frames of a history, A choices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.rollouts.returned import as_array, choices_of, short
from grpo_gym.rollouts.rows import is_bytes, join_parts, type_of
from grpo_gym.settings import ConfigError

_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def flat_size(space: gym.Space[Any]) -> int:
    """Number of features of a flattened observation, D.

    Raises:
        ConfigError: If the space, or a part of it, has no fixed features (Text, Sequence, Graph).
    """
    named = list(_leaves(space))
    for place, leaf in named:
        if not isinstance(leaf, _FLAT):
            remedy = _without_unsupported(space)
            raise ConfigError(
                "observation space must be a Box, Discrete, MultiDiscrete or MultiBinary, or a "
                f"Dict or Tuple of them, got {leaf}{place and f' as its part {place}'}: {remedy}"
            )
    size = sum(int(spaces.flatdim(leaf)) for _, leaf in named)
    if size == 0:
        raise ConfigError(
            f"observation space must be of at least one number, got {short(space)}: if there is "
            "nothing to observe, return a constant"
        )
    return size


def flatten_batch(space: gym.Space[Any], batch: Any, name: str = "observation") -> np.ndarray:
    """Flatten a vector environment's batch of observations to rows, shape (B, W).

    Raises:
        ConfigError: If one is not in the space; the message begins with `name`.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = [
            flatten_batch(part, _part(batch, key, name), f"{name}[{key!r}]")
            for key, part in _parts(space)
        ]
        return join_parts(parts)
    values = as_array(batch, name)
    if values.ndim == 0 or values.shape[1:] != space.shape:
        raise ConfigError(f"{name} must have shape {space.shape}, got {values.shape[1:]}")
    if isinstance(space, spaces.Box):
        if values.dtype.kind not in "biuf":
            raise ConfigError(f"{name} must be numbers, got {values.dtype}")
        if is_bytes(space):
            return _as_bytes(values, name).reshape(len(values), -1)
        rows = values.reshape(len(values), -1)
        with np.errstate(over="ignore"):  # infinite then, which is refused with its place
            single = rows.astype(np.float32, copy=False)
        if type_of(space) == np.float32:
            return single
        return np.where(np.isinf(single), single, rows).astype(np.float64, copy=False)
    if isinstance(space, spaces.MultiBinary):
        if values.dtype.kind not in "biuf" or not ((values == 0) | (values == 1)).all():
            raise ConfigError(f"{name} must be 0 or 1 everywhere, got {short(values)}")
        return values.astype(np.float32).reshape(len(values), -1)
    return _one_hot_each(space, values, name)


def flatten_each(space: gym.Space[Any], observations: Sequence[Any]) -> np.ndarray:
    """Flatten a list of single observations to rows, shape (B, W).

    Raises:
        ConfigError: If one is not in the space.
    """
    return flatten_batch(space, _gathered(space, observations, "observation"))


def flatten_one(space: gym.Space[Any], observation: Any) -> np.ndarray:
    """Flatten one observation to a row, shape (1, W).

    Raises:
        ConfigError: If it is not in the space.
    """
    return flatten_each(space, [observation])


def is_finite(numbers: np.ndarray) -> bool:
    """Whether all numbers are finite; almost always by one product, in half a microsecond."""
    if numbers.dtype.kind != "f":
        return True
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def stack_frames(
    frames: np.ndarray | None,
    observations: np.ndarray,
    length: int,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Add the newest observations to each environment's history.

    Args:
        frames: Histories that the last call returned, shape (B, H, W); None at first.
        observations: The newest, shape (B, W).
        length: H.
        starts: Environments whose episode begins, shape (B,), bool: their history is the newest
            observation, repeated. None: none of them.

    Returns:
        Shape (B, H, W), oldest first.
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
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        key, part = _parts(space)[0]
        return is_batch(part, _part(observation, key, "observation"))
    shape = as_array(observation, "observation").shape
    if shape == space.shape:
        return False
    if shape[1:] == space.shape:
        return True
    batch = ", ".join(["batch", *map(str, space.shape or ())])
    raise ConfigError(f"observation must have shape {space.shape} or ({batch}), got {shape}")


def validate_action_space(space: gym.Space[Any]) -> None:
    """Refuse action spaces that no policy supports.

    Raises:
        ConfigError: If the space is not Discrete, MultiDiscrete, MultiBinary or a float Box, or
            has no numbers.
    """
    supported = bool(choices_of(space))
    if isinstance(space, spaces.Box):
        supported = np.issubdtype(space.dtype, np.floating) and math.prod(space.shape) > 0
    if not supported:
        raise ConfigError(
            "action space must be Discrete, MultiDiscrete, MultiBinary or a float Box, of at least "
            f"one number, got {short(space)}: translate actions with "
            "gymnasium.wrappers.TransformAction"
        )


def sample_batch(space: gym.Space[Any], count: int, masks: np.ndarray | None) -> np.ndarray:
    """Random actions, shape (B, ...), only legal ones if there are masks, shape (B, A), bool.

    The space's own generator draws.
    """
    if masks is None:
        return np.stack([space.sample() for _ in range(count)])
    if isinstance(space, spaces.Discrete):
        return np.stack([space.sample(mask) for mask in masks.astype(np.int8)])
    parts = [
        tuple(np.split(mask, np.cumsum(choices_of(space))[:-1])) for mask in masks.astype(np.int8)
    ]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return np.stack([space.sample(mask) for mask in parts])
    chosen = [[space.np_random.choice(np.flatnonzero(part)) for part in mask] for mask in parts]
    start = getattr(space, "start", 0)
    return np.reshape(chosen, (count, *(space.shape or ()))).astype(space.dtype) + start


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, gym.Space[Any]]]:
    """The parts of a space by their keys, or by their numbers."""
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))


def _leaves(space: gym.Space[Any], place: str = "") -> Iterator[tuple[str, gym.Space[Any]]]:
    """The parts of a space that have no parts, each with its place, such as ['camera']['left']."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield place, space
        return
    for key, part in _parts(space):
        yield from _leaves(part, f"{place}[{key!r}]")


def _without_unsupported(space: gym.Space[Any]) -> str:
    """How to do without the parts that no policy supports."""
    if not isinstance(space, spaces.Dict):
        return "encode it as numbers with gymnasium.wrappers.TransformObservation"
    kept = [
        key
        for key, part in space.spaces.items()
        if all(isinstance(leaf, _FLAT) for _, leaf in _leaves(part))
    ]
    if "mission" in space.spaces and "image" in space.spaces:  # MiniGrid and BabyAI
        return (
            "use minigrid.wrappers.ImgObsWrapper(env), which leaves the image, "
            f"FlatObsWrapper(env), or gymnasium.wrappers.FilterObservation(env, {kept})"
        )
    if not kept:
        return "encode it as numbers with gymnasium.wrappers.TransformObservation"
    return f"leave it out with gymnasium.wrappers.FilterObservation(env, {kept})"


def _as_bytes(values: np.ndarray, name: str) -> np.ndarray:
    """Values of a Box of type uint8 as such.

    Raises:
        ConfigError: If one is no whole number from 0 to 255.
    """
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):  # found out below
        found = values.astype(np.uint8)
    if not (found == values).all():
        wrong = values[found != values][0]
        raise ConfigError(
            f"{name} must be whole numbers from 0 to 255, as its space is of type uint8, got "
            f"{wrong}: declare a Box of type float32 for others"
        )
    return found


def _part(observation: Any, key: Any, name: str) -> Any:
    try:
        return observation[key]
    except Exception as error:  # the observation may be anything
        raise ConfigError(f"{name} must have a part {key!r}, got {short(observation)}") from error


def _gathered(space: gym.Space[Any], observations: Sequence[Any], name: str) -> Any:
    """Single observations in the form of a vector environment's batch."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return observations
    kind: Any = Mapping if isinstance(space, spaces.Dict) else (tuple, list)
    for each in observations:
        if not isinstance(each, kind):
            rule = "a dictionary" if isinstance(space, spaces.Dict) else "a tuple"
            raise ConfigError(f"{name} must be {rule}, got {short(each)}")
        if len(each) != len(space.spaces):
            if isinstance(space, spaces.Dict):
                keys, got = short([*space]), short([*each])
                raise ConfigError(f"{name} must have the keys {keys}, got {got}")
            raise ConfigError(f"{name} must have {len(space.spaces)} parts, got {len(each)}")
    return {
        key: _gathered(part, [_part(each, key, name) for each in observations], f"{name}[{key!r}]")
        for key, part in _parts(space)
    }


def _one_hot_each(space: Any, values: np.ndarray, name: str) -> np.ndarray:
    """One-hot rows of a Discrete or MultiDiscrete, next to each other."""
    sizes = np.reshape(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n, -1)
    starts = np.reshape(space.start, -1)
    if values.dtype.kind not in "biu":
        raise ConfigError(f"{name} must be integers, got {values.dtype} {short(values)}")
    choices = values.reshape(len(values), -1).astype(np.int64) - starts
    outside = ((choices < 0) | (choices >= sizes)).any(axis=1)
    if outside.any():
        rule = ", ".join(f"{low} to {low + n - 1}" for low, n in zip(starts, sizes, strict=True))
        value = short(values[outside][0].tolist())
        raise ConfigError(f"{name} must be in {short(space)}, from {rule}, got {value}")
    columns = [_one_hot(choices[:, i], int(n)) for i, n in enumerate(sizes)]
    return np.concatenate(columns, axis=1)


def _one_hot(choices: np.ndarray, size: int) -> np.ndarray:
    rows = np.zeros((len(choices), size), np.float32)
    rows[np.arange(len(choices)), choices] = 1.0
    return rows
