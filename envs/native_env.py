"""The shell of single native environments: a simulator with B = 1 behind `gymnasium.Env`."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np

from grpo_gym.envs.arguments import check_options
from grpo_gym.envs.batch_simulator import BatchSimulator, Infos, Observations
from grpo_gym.envs.native_task import NativeTask, check_action
from grpo_gym.envs.randomness import fold_seed

Observation = TypeVar("Observation")
Action = TypeVar("Action")


class NativeEnv(gym.Env[Observation, Action]):
    """One environment; subclasses name their task.

    Attributes:
        config: The settings.
        simulator: Of one environment.
    """

    task: ClassVar[NativeTask]
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 8,
    }

    def __init__(self, *args: Any, render_mode: str | None = None, **settings: Any) -> None:
        """Build the environment.

        Args:
            *args: The preset; the class documents the arguments.
            render_mode: "ansi", "rgb_array", or None to render nothing.
            **settings: The preset too, and fields of the config in place of the preset's.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
            gymnasium.error.UnsupportedMode: If the render mode is unknown.
        """
        config = self.task.configure(*args, **settings)
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise gym.error.UnsupportedMode(
                f"render_mode must be one of {modes}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.config = config
        self.simulator: BatchSimulator = self.task.make_simulator(config, 1)
        self.observation_space = self.task.observation_space(config)
        self.action_space = self.task.action_space(config)
        self._seeded = False
        self._history: list[Any] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw a new episode: that of `seed`, or the next one of the current seed.

        Raises:
            ConfigError: If an option is unknown or makes no sense.
        """
        options = options or {}
        check_options(options, self.task.reset_options)
        arguments = self.task.reset_arguments(self.simulator, options, 1)
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            own = self.np_random_seed
            if own is None or own < 0:  # unknown: the generator was set from outside
                own = int(self.np_random.integers(2**63))
            self.simulator.seed(np.array([fold_seed(own)], np.uint64))
            self._seeded = True
        self.simulator.reset(**arguments)
        self._forget_pictures()
        return _only(self.simulator.observe()), _info_of(self.simulator.state_infos())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply an action.

        Raises:
            gymnasium.error.InvalidAction: If the action is not in the action space.
            gymnasium.error.ResetNeeded: If called before the first reset.
        """
        self._need_reset("step")
        simulator = self.simulator
        actions = check_action(action, self.action_space, self.task.action_name)
        observation = _only(simulator.step(actions))
        info = _info_of(simulator.state_infos_of_step() | simulator.step_infos(actions))
        terminated, truncated = simulator.ends()
        if self.render_mode is not None:
            self._history.append(self.task.event(simulator, 0, actions[0]))
        reward = float(simulator.rewards()[0])
        return observation, reward, bool(terminated[0]), bool(truncated[0]), info

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot from which `set_state` continues exactly as this environment would."""
        return self.simulator.get_state()

    def set_state(self, state: Mapping[str, np.ndarray]) -> Any:
        """Continue from a snapshot of an environment with the same configuration.

        Returns:
            The observation in that state.

        Raises:
            ValueError: If the snapshot does not fit this configuration.
        """
        self.simulator.set_state(state)
        self._seeded = True
        self._forget_pictures()
        return _only(self.simulator.observe())

    def render(self) -> Any:
        """A frame: text for "ansi", an array of shape (height, width, 3), uint8, for "rgb_array".

        Raises:
            gymnasium.error.ResetNeeded: If called before the first reset.
        """
        self._need_reset("render")
        if self.render_mode == "ansi":
            return self.task.render_ansi(self.simulator, self._history)
        if self.render_mode == "rgb_array":
            return self._render_rgb()
        gym.logger.warn('render() draws nothing without render_mode="ansi" or "rgb_array"')
        return None

    def _render_rgb(self) -> np.ndarray:
        return self.task.render_rgb(self.simulator, self._history, 0)

    def _forget_pictures(self) -> None:
        """Forget the steps that pictures show: they belong to another episode."""
        self._history.clear()

    def _need_reset(self, method: str) -> None:
        if not self._seeded:
            raise gym.error.ResetNeeded(f"call reset() before {method}()")


def _only(observations: Observations) -> Any:
    """The observation of the only environment: an array, or a dictionary of arrays."""
    if isinstance(observations, dict):
        return {name: rows[0] for name, rows in observations.items()}
    return observations[0]


def _info_of(infos: Infos) -> dict[str, Any]:
    """The infos of the only environment: Python scalars, and copies of arrays."""
    return {
        name: values.item() if values.ndim == 1 else values[0].copy()
        for name, values in infos.items()
    }
