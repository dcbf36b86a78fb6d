"""What the single and the vector environment of one kind share, and how both check actions.

Shapes: B environments, C components of a MultiDiscrete.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.envs.batch_simulator import BatchSimulator
from grpo_gym.settings import ConfigError, UnknownSettingError
from grpo_gym.settings.memory import check_memory

_COPIES = 4
"""Of observations: the bounds of their space, the last ones, and those of a step."""


@dataclass(frozen=True, kw_only=True)
class NativeTask:
    """One kind of native environment: its simulator, spaces, reset options and pictures."""

    make_config: Callable[..., Any]
    """(preset, **overrides) -> the config: the arguments of the environments' constructors."""
    simulator: Callable[[Any, int], BatchSimulator]
    """(config, num_envs) -> the simulator."""
    observation_space: Callable[[Any], gym.Space[Any]]
    """config -> the space of one environment's observations."""
    action_space: Callable[[Any], gym.Space[Any]]
    """config -> the space of one environment's actions: Discrete or MultiDiscrete."""
    action_name: str
    """What an action selects, such as "server"; for error messages."""
    event: Callable[[Any, int, Any], Any]
    """(simulator, b, action) -> what pictures show of the last step of environment b."""
    render_ansi: Callable[[Any, list[Any]], str]
    """(simulator of one environment, its events) -> text."""
    render_rgb: Callable[[Any, list[Any], int], np.ndarray]
    """(simulator, events of environment b, b) -> a picture, shape (height, width, 3), uint8."""
    reset_options: tuple[str, ...] = ()
    """Options of `reset` that `reset_arguments` reads."""
    reset_arguments: Callable[[Any, Mapping[str, Any], int], dict[str, Any]] = lambda *_: {}
    """(simulator, options, environments to reset) -> arguments of the simulator's `reset`."""

    def configure(self, *args: Any, **settings: Any) -> Any:
        """The config of a constructor's arguments.

        Raises:
            ConfigError: If a value makes no sense.
            UnknownSettingError: If a setting is unknown; in Python's words, by which others know
                that they may leave it out.
        """
        try:
            return self.make_config(*args, **settings)
        except UnknownSettingError as error:
            error.args = (f"got an unexpected keyword argument {error.setting!r}: {error}",)
            raise

    def make_simulator(self, config: Any, num_envs: int) -> BatchSimulator:
        """The simulator of B environments, which is not reset yet.

        Raises:
            ConfigError: If the settings cannot be used, or it would not fit into memory.
        """
        remedy = "make fewer environments, or smaller ones"
        what = f"num_envs={num_envs} environments of these settings"
        try:
            simulator = self.simulator(config, num_envs)
        except ConfigError:
            raise
        except (MemoryError, OverflowError, ValueError) as error:  # NumPy has one for each size
            raise ConfigError(f"{what} must fit into memory: {remedy}") from error
        # The system has only promised what is not written yet.
        observed = 4 * math.prod(simulator.observation_shape) * num_envs
        check_memory(simulator.nbytes + _COPIES * observed, what, remedy)
        return simulator


def check_action(action: Any, space: gym.Space[Any], name: str) -> np.ndarray:
    """One action as a batch of one, shape (1,) or (1, C), int64.

    Raises:
        gymnasium.error.InvalidAction: If it is not in the space.
    """
    if isinstance(space, gym.spaces.MultiDiscrete):
        choices = np.asarray(action)
        if choices.dtype.kind not in "iu" or choices not in space:
            raise gym.error.InvalidAction(
                f"action must be one {name} below each of {space.nvec.tolist()}, got {action!r}"
            )
        return choices.astype(np.int64)[None]
    count = int(space.n)  # type: ignore[attr-defined]
    try:
        number = operator.index(action)
    except TypeError:
        number = -1
    if not 0 <= number < count:
        raise gym.error.InvalidAction(
            f"action must be a {name} from 0 to {count - 1}, got {action!r}"
        )
    actions = np.empty(1, np.int64)  # half the time of np.array([number])
    actions[0] = number
    return actions


def check_actions(actions: Any, space: gym.Space[Any], num_envs: int, name: str) -> np.ndarray:
    """The actions of B environments as a contiguous array.

    Args:
        actions: What the user passed.
        space: Of one environment; Discrete or MultiDiscrete.
        num_envs: B.
        name: What an action selects.

    Returns:
        Shape (B,) or (B, C), int64.

    Raises:
        gymnasium.error.InvalidAction: If an action is not in the space, or the shape is wrong.
    """
    actions = np.asarray(actions)
    shape = (num_envs, *(space.shape or ()))
    if actions.shape != shape or actions.dtype.kind not in "iu":
        raise gym.error.InvalidAction(
            f"actions must be integers of shape {shape}, got {actions.dtype} of shape "
            f"{actions.shape}"
        )
    actions = np.ascontiguousarray(actions, np.int64)
    is_multi = isinstance(space, gym.spaces.MultiDiscrete)
    counts = np.uint64(space.nvec if is_multi else space.n)  # type: ignore[attr-defined]
    if (actions.view(np.uint64) >= counts).any():  # as unsigned numbers negative ones are large
        raise gym.error.InvalidAction(
            f"actions must be {name}s below {counts.tolist()}, got {actions.min(axis=0)} to "
            f"{actions.max(axis=0)}"
        )
    return actions
