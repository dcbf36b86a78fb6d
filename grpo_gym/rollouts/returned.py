"""What an environment returned, as arrays: rewards, ends and action masks, each checked.

Every function takes the values of several environments, and refuses them all if one is wrong.

Shapes: M environments, A choices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.settings import ConfigError


def as_array(values: Any, name: str) -> np.ndarray:
    """An array of values that others gave.

    Raises:
        ConfigError: If they do not form one.
    """
    try:
        return np.asarray(values)
    except Exception as error:  # their own code may convert them, and raise anything
        raise ConfigError(f"{name} must be an array, got {short(values)}") from error


def read_rewards(rewards: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Rewards, shape (M,), float64; an array of one number is one.

    Raises:
        ConfigError: If one is not a number.
    """
    values = as_array(rewards, "rewards")
    if values.dtype == np.object_:
        values = np.array([_number(reward) for reward in rewards])
    if values.dtype.kind not in "biuf":
        raise ConfigError(f"rewards must be numbers, got {short(*rewards[:1])}")
    if values.size != len(rewards):
        raise ConfigError(
            f"rewards must be one number for each step, got {short(*rewards[:1])}: combine several "
            "objectives with a wrapper, such as mo_gymnasium.wrappers.LinearReward"
        )
    return values.reshape(-1).astype(np.float64, copy=False)


def read_flags(flags: Sequence[Any], name: str) -> np.ndarray:
    """`terminated` or `truncated`, shape (M,), bool; 0 and 1 are accepted.

    Raises:
        ConfigError: If one is neither.
    """
    values = as_array(flags, name)
    known = values.dtype == np.bool_
    if not known and values.dtype.kind in "iu":
        known = bool(((values == 0) | (values == 1)).all())
    if not known or values.size != len(flags):
        raise ConfigError(f"{name} must be True or False, got {short(*flags[:1])}")
    return values.reshape(-1).astype(np.bool_, copy=False)


def choices_of(space: gym.Space[Any]) -> list[int]:
    """Number of choices of each component of an action; none of a Box."""
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flat]
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    return [int(space.n)] if isinstance(space, spaces.Discrete) else []


def read_masks(space: gym.Space[Any], masks: Sequence[Any]) -> np.ndarray:
    """Action masks, shape (M, A), bool.

    Args:
        space: Of the actions.
        masks: Each bool, or 0 and 1, in one of these forms: an array of shape (A,), which is
            sb3-contrib's; with several components also one row of choices for each, in a list, a
            tuple (Gymnasium's) or an array, which 0 fills up where some have fewer choices.

    Raises:
        ConfigError: If one does not fit the space.
    """
    if not choices_of(space):
        raise ConfigError(f"action_mask must come with discrete actions, got one for {space}")
    rows = as_array([_joined(space, mask) for mask in masks], "action_mask")
    expected = (sum(choices_of(space)),)
    if rows.shape[1:] != expected:
        raise ConfigError(f"action_mask must have shape {expected}, got {rows.shape[1:]}")
    if rows.dtype == np.bool_:
        return rows
    if rows.dtype.kind not in "iu" or not ((rows == 0) | (rows == 1)).all():
        raise ConfigError(f"action_mask must be bool, or 0 and 1, got {rows.dtype} {short(masks)}")
    return rows.astype(np.bool_)


def is_one_mask(space: gym.Space[Any], masks: Any) -> bool:
    """Whether masks are one, in a form that `read_masks` knows, and not one for each of several."""
    if _in_parts(space, masks):
        return True
    shape = _shape(masks)
    return shape is not None and (len(shape) < 2 or shape == _table_shape(space))


def have_choice(space: gym.Space[Any], masks: np.ndarray) -> np.ndarray:
    """Which masks (M, A), bool, allow an action in every component: shape (M,), bool."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(masks.any(axis=1))
    starts = np.cumsum([0, *choices_of(space)[:-1]])
    return np.asarray(np.logical_or.reduceat(masks, starts, axis=1).all(axis=1))


def one_by_one(
    read: Callable[[Any], np.ndarray],
    values: Sequence[Any] | np.ndarray,
    error: Callable[[int, str], Exception],
) -> np.ndarray:
    """What `read` makes of the values together, or else of each alone.

    Raises:
        Exception: What `error` makes of the number and the fault of the first that is wrong.
    """
    try:
        return read(values)
    except ConfigError:
        rows = []
        for i, value in enumerate(values):
            try:
                rows.append(read([value]))
            except ConfigError as fault:
                raise error(i, str(fault)) from fault
        return np.concatenate(rows)


def short(*values: Any) -> str:
    """Values in one line for a message."""
    try:
        text = ", ".join(" ".join(repr(value).split()) for value in values)
    except Exception:  # their own code writes them, and may raise anything
        return ", ".join(f"a {type(value).__name__}" for value in values)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(reward: Any) -> float:
    """A number that numpy does not know, such as a Fraction, or one that is too large for it."""
    if isinstance(reward, (str, bytes)):
        raise ConfigError(f"rewards must be numbers, got {short(reward)}")
    try:
        return float(reward)
    except OverflowError:
        return np.inf
    except Exception as error:  # its own code converts it, and may raise anything
        raise ConfigError(f"rewards must be numbers, got {short(reward)}") from error


def _table_shape(space: gym.Space[Any]) -> tuple[int, ...] | None:
    """Shape of a mask with a row of choices for each component; None for a Discrete."""
    if isinstance(space, spaces.Discrete):
        return None
    return (*(space.shape or ()), max(choices_of(space)))


def _in_parts(space: gym.Space[Any], mask: Any) -> bool:
    """Whether a mask is a list or tuple with a part for each component."""
    if isinstance(space, spaces.Discrete) or not isinstance(mask, (list, tuple)):
        return False
    sizes = choices_of(space)
    shapes = [_shape(part) for part in mask]
    if len(sizes) > 1 and shapes[:1] == [(sum(sizes),)]:
        return False  # whole masks, as many as there are components
    return len(mask) == len(sizes) and all(shape and len(shape) == 1 for shape in shapes)


def _shape(values: Any) -> tuple[int, ...] | None:
    """The shape of an array of these values; None if they do not form one."""
    try:
        return as_array(values, "action_mask").shape
    except ConfigError:
        return None


def _joined(space: gym.Space[Any], mask: Any) -> np.ndarray:
    """A mask as one array, of shape (A,) if it fits."""
    sizes = choices_of(space)
    if _in_parts(space, mask):
        parts = [as_array(part, "action_mask") for part in mask]
        shapes = [part.shape for part in parts]
        if shapes == [(size,) for size in sizes]:
            return np.concatenate(parts)
        if len(set(shapes)) > 1 or shapes[0] != (max(sizes),):
            raise ConfigError(
                f"action_mask must have parts of {sizes} choices, got shapes {shapes}"
            )
    table = as_array(mask, "action_mask")
    if table.shape != _table_shape(space):
        return table
    table = table.reshape(len(sizes), -1)
    used = np.arange(table.shape[1]) < np.array(sizes)[:, None]
    if table[~used].any():
        raise ConfigError(f"action_mask must be 0 beyond {sizes} choices, got {short(mask)}")
    joined: np.ndarray = table[used]
    return joined
