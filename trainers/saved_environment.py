"""How a checkpoint knows the environment that its policy is for: id, arguments and spaces."""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.storage.checkpoint import CheckpointError

_SCALARS = (bool, int, float, str, bytes, type(None))
_PRINTED: dict[str, Any] = {
    "precision": 8,
    "threshold": 1000,
    "edgeitems": 3,
    "linewidth": 75,
    "suppress": False,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "floatmode": "maxprec",
    "formatter": None,
    "legacy": False,
}
"""NumPy's own print options, whatever the user's are."""


def describe_environment(
    env: EnvSource,
    kwargs: Mapping[str, Any],
    training_kwargs: Mapping[str, Any],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
) -> dict[str, Any]:
    """What a checkpoint holds; arguments that a file cannot hold as they are become None."""
    env_id = env if isinstance(env, str) else None
    return {
        "id": env_id,
        "kwargs": as_in_file(kwargs, env_id),
        "training_kwargs": as_in_file(training_kwargs, env_id),
        "observation_space": _text(observation_space),
        "action_space": _text(action_space),
        "observation_space_sha256": space_sha256(observation_space),
        "action_space_sha256": space_sha256(action_space),
    }


def saved_arguments(
    saved: Mapping[str, Any] | None, given: Mapping[str, Any] | None, name: str, path: Any
) -> Mapping[str, Any]:
    """The arguments of training.

    Raises:
        CheckpointError: If the file could not hold them, and none are given.
    """
    if saved is None and given is None:
        raise CheckpointError(
            f"{path} was trained with {name} that a file cannot hold, such as functions, objects "
            f"or arrays: pass {name}="
        )
    return saved or {}


def as_in_file(kwargs: Mapping[str, Any], env_id: str | None) -> dict[str, Any] | None:
    """Arguments as a checkpoint can hold them, none of another meaning; None if it cannot."""
    # Native environments take arrays as lists.
    arrays = env_id is not None and descriptor_of(env_id) is not None
    try:
        return {name: _plain(value, arrays) for name, value in kwargs.items()}
    except (TypeError, RecursionError):
        return None


def is_plain(value: Any) -> bool:
    """Whether a checkpoint can hold a value as it is."""
    try:
        _plain(value, arrays=False)
    except (TypeError, RecursionError):
        return False
    return True


def check_spaces(
    saved: Mapping[str, Any], here: Mapping[str, Any], path: str | PathLike[str]
) -> None:
    """Refuse other spaces than those of training; older files have only their text.

    Raises:
        CheckpointError: If one differs.
    """
    for space in ("observation_space", "action_space"):
        texts = [each[space] for each in (saved, here)]
        digests = [each.get(f"{space}_sha256") for each in (saved, here)]
        trained, found = texts if digests[0] is None else digests
        if trained != found:
            before, now = (" ".join(text.split()) for text in texts)
            other = ", of other values" * (before == now)
            raise CheckpointError(
                f"{path} was trained with {space.replace('_', ' ')} {before}, but the "
                f"environment here has {now}{other}: pass the env and env_kwargs it was trained "
                "with"
            )


def space_sha256(space: gym.Space[Any]) -> str:
    """A hash of a space's values, equal for equal spaces, however they are printed."""
    return hashlib.sha256(json.dumps(_content(space)).encode()).hexdigest()


def _content(space: gym.Space[Any]) -> list[Any]:
    """A space as JSON; the order of parts counts, as in rows of features."""
    if isinstance(space, spaces.Dict):
        return ["Dict", [[repr(key), _content(part)] for key, part in space.spaces.items()]]
    if isinstance(space, spaces.Tuple):
        return ["Tuple", [_content(part) for part in space.spaces]]
    if isinstance(space, spaces.Box):
        bounds = [_array_sha256(bound) for bound in (space.low, space.high)]
        return ["Box", list(space.shape), str(space.dtype), bounds]
    if isinstance(space, spaces.Discrete):
        return ["Discrete", int(space.n), int(space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        return ["MultiDiscrete", space.nvec.tolist(), space.start.tolist()]
    if isinstance(space, spaces.MultiBinary):
        return ["MultiBinary", list(space.shape)]
    return [type(space).__name__, _text(space)]


def _array_sha256(bound: np.ndarray) -> str:
    values = bound + 0.0 if bound.dtype.kind == "f" else bound  # no -0.0, which equals 0.0
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _text(space: gym.Space[Any]) -> str:
    with np.printoptions(**_PRINTED):
        return str(space)


def _plain(value: Any, arrays: bool) -> Any:
    """A copy of a value of plain types, those of a checkpoint; with `arrays` they become lists.

    Raises:
        TypeError: If there are others in it.
    """
    if type(value) is dict:
        return {_plain(key, arrays): _plain(item, arrays) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, arrays) for item in value)
    if arrays and isinstance(value, np.ndarray):
        return _plain(value.tolist(), arrays)
    scalar = value.item() if isinstance(value, np.generic) else value
    if type(scalar) not in _SCALARS:
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")
    return scalar
