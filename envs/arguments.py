"""Arguments that users pass to environments: checks, and how they combine; needs no Gymnasium."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from grpo_gym.settings import ConfigError, suggest


def check_options(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse reset options that would be ignored.

    Raises:
        ConfigError: At the first unknown option.
    """
    for name in options:
        if name not in known:
            raise ConfigError(f"reset has no option {name!r}.{suggest(str(name), known)}")


def check_preset(preset: Any, known: Collection[str]) -> None:
    """Refuse a preset that does not exist.

    Raises:
        ConfigError: If it is not one of the known names.
    """
    if not isinstance(preset, str) or preset not in known:
        hint = suggest(str(preset), known)
        raise ConfigError(f"preset must be a known name, got {preset!r}.{hint}")


def check_count(name: str, value: Any, most: float = math.inf) -> int:
    """A count as an int.

    Args:
        name: The argument's name.
        value: What the user passed; whole floats such as 10.0 are accepted.
        most: The largest that makes sense.

    Raises:
        ConfigError: If it is not a whole number from 1 to `most`.
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 1 <= value < math.inf or value != int(value):
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most:,}, got {value!r}")
    return int(value)


def merge_env_kwargs(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments over those of training, of which none stay with another preset."""
    same_preset = given.get("preset", trained.get("preset")) == trained.get("preset")
    return {**trained, **given} if same_preset else dict(given)
