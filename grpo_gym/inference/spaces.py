"""Spaces in files: as JSON in what is exported, and as their text in checkpoints."""

import math
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.settings import ConfigError

_NUMBER = r"(-?[0-9][0-9.e+-]*|-inf|inf)"
_PLAIN_BOUNDS = re.compile(f"{_NUMBER}, {_NUMBER}")
_BOX = re.compile(r"Box\((.*), \(((?:[0-9]{1,9},? ?)+)\), (u?int[0-9]+|float[0-9]+)\)", re.DOTALL)
_MOST_NUMBERS = 10_000_000
"""Of a space in a file: a forged one shall not fill the memory."""
_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """A space as JSON, which has infinities as text; the order of parts counts.

    Raises:
        ConfigError: If it is of another kind than a policy can have.
    """
    match space:
        case spaces.Dict():
            parts = [[str(key), space_to_json(part)] for key, part in space.spaces.items()]
            return {"kind": "Dict", "parts": parts}
        case spaces.Tuple():
            return {"kind": "Tuple", "parts": [space_to_json(part) for part in space.spaces]}
        case spaces.Box():
            bounds = {name: _bound(getattr(space, name)) for name in ("low", "high")}
            return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            start = space.start.tolist()
            return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "shape": list(space.shape)}
    raise ConfigError(f"space must be one of {', '.join(_KINDS)}, got {space}")


def space_from_json(content: Mapping[str, Any]) -> gym.Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        Exception: Of any kind, if it is no such description. The caller says so in one message.
    """
    match content["kind"]:
        case "Dict":
            return spaces.Dict(
                [(str(key), space_from_json(part)) for key, part in content["parts"]]
            )
        case "Tuple":
            return spaces.Tuple([space_from_json(part) for part in content["parts"]])
        case "Box":
            shape, dtype = tuple(content["shape"]), np.dtype(content["dtype"])
            low, high = (_bound_array(content[name], shape, dtype) for name in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(content["n"], start=content["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(content["nvec"], start=content["start"])
        case "MultiBinary":
            shape = tuple(content["shape"])
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    raise ValueError(f"unknown kind of space {content['kind']!r}")


def space_from_text(text: str, *, with_bounds: bool) -> gym.Space[Any] | None:
    """The space that Gymnasium prints so, as in checkpoints; None if its text does not tell.

    A text tells of a Discrete, a MultiDiscrete and MultiBinary of one axis, and a Box, whose bounds
    it may round: one with different bounds has none here, or is not told `with_bounds`.
    """
    if found := re.fullmatch(r"Discrete\(([0-9]{1,9})(?:, start=(-?[0-9]{1,9}))?\)", text):
        return spaces.Discrete(int(found[1]), start=int(found[2] or 0))
    if found := re.fullmatch(r"MultiDiscrete\(\[([0-9\s]+)\]\)", text):
        return spaces.MultiDiscrete([int(each) for each in found[1].split()])
    if found := re.fullmatch(r"MultiBinary\(([0-9]{1,9})\)", text):
        return spaces.MultiBinary(int(found[1]))
    if not (found := _BOX.fullmatch(text)):
        return None
    shape, dtype = tuple(int(each) for each in re.findall("[0-9]+", found[2])), np.dtype(found[3])
    if math.prod(shape) > _MOST_NUMBERS:
        return None
    if bounds := _PLAIN_BOUNDS.fullmatch(found[1]):
        return spaces.Box(float(bounds[1]), float(bounds[2]), shape, dtype.type)
    # Only of float32 do features not depend on the bounds.
    if with_bounds or dtype != np.float32:
        return None
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _bound(bound: np.ndarray) -> Any:
    """A bound as JSON: one number if all are equal."""
    numbers = [_number(each) for each in bound.reshape(-1).tolist()]
    return numbers[0] if numbers and len(set(numbers)) == 1 else numbers


def _bound_array(content: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"a space must have at most {_MOST_NUMBERS:,} numbers, got shape {shape}")
    numbers = content if isinstance(content, list) else [content] * math.prod(shape)
    if dtype.kind == "f":
        return np.array([float(each) for each in numbers], dtype).reshape(shape)
    return np.array([int(each) for each in numbers], dtype).reshape(shape)


def _number(value: float) -> Any:
    return value if math.isfinite(value) else str(value)
