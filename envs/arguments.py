"""Checks of what users pass to environments of ours."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.settings.config import ConfigError, suggest


def check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> None:
    """Refuse reset options that would be ignored.

    Raises:
        ConfigError: At the first unknown option.
    """
    for name in options or {}:
        if name not in known:
            raise ConfigError(f"reset has no option {name!r}.{suggest(str(name), known)}")


def check_render_mode(mode: str | None, known: list[str]) -> str | None:
    """The mode itself.

    Raises:
        gymnasium.error.UnsupportedMode: If it is neither None nor known.
    """
    if mode is not None and mode not in known:
        raise gym.error.UnsupportedMode(f"render_mode must be one of {known}, got {mode!r}")
    return mode


def check_state(state: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], count: int) -> None:
    """Refuse a snapshot that is not one of environments like these.

    Args:
        state: What `set_state` was given.
        own: The simulator's arrays of these names; the first axis is the environment.
        count: Environments that the state is for.

    Raises:
        ValueError: At the first array that is missing, or has another shape or dtype.
    """
    for name, array in own.items():
        given = state.get(name) if isinstance(state, Mapping) else None
        shape = (count, *array.shape[1:])
        if not isinstance(given, np.ndarray) or (given.shape, given.dtype) != (shape, array.dtype):
            raise ValueError(
                f"state[{name!r}] must be an array of shape {shape} as get_state gives it: "
                "restore a state only into environments of the same configuration"
            )


def check_vector_arguments(
    num_envs: Any,
    render_mode: str | None,
    autoreset_mode: AutoresetMode | str,
    max_episode_steps: int | None,
) -> tuple[int, AutoresetMode, int | None]:
    """Number of environments, mode and limit of steps (None: none) from a user's arguments.

    Raises:
        ConfigError: If one of them makes no sense.
        gymnasium.error.UnsupportedMode: If many environments cannot be rendered like that.
    """
    count = check_count("num_envs", num_envs)
    if render_mode not in (None, "rgb_array"):
        raise gym.error.UnsupportedMode(
            f'render_mode must be None or "rgb_array" for many, got {render_mode!r}'
        )
    try:
        mode = AutoresetMode(autoreset_mode)
    except ValueError:
        hint = suggest(str(autoreset_mode), [mode.value for mode in AutoresetMode])
        raise ConfigError(
            f"autoreset_mode must be a known one, got {autoreset_mode!r}.{hint}"
        ) from None
    if max_episode_steps in (None, -1):
        return count, mode, None
    return count, mode, check_count("max_episode_steps", max_episode_steps)


def check_count(name: str, value: Any) -> int:
    """A number of things as an int.

    Raises:
        ConfigError: If it is not a whole number above 0.
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 1 <= value < float("inf") or value != int(value):
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)
