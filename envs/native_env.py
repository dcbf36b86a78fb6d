"""What the single environments of ours share: seeding, snapshots, render modes."""

import operator
from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from grpo_gym.envs.arguments import check_render_mode
from grpo_gym.envs.native_vector_env import BatchSimulator, observation_of
from grpo_gym.envs.seeding import fold_seed

Observation = TypeVar("Observation")
Action = TypeVar("Action")


class NativeEnv(gym.Env[Observation, Action]):
    """One environment: a batch simulator with B = 1."""

    def __init__(
        self,
        simulator: BatchSimulator,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        render_mode: str | None,
    ) -> None:
        """Wrap a simulator of one environment.

        Raises:
            gymnasium.error.UnsupportedMode: If the render mode is unknown.
        """
        self.render_mode = check_render_mode(render_mode, self.metadata["render_modes"])
        self._single = simulator
        self.observation_space = observation_space
        self.action_space = action_space
        self._seeded = False
        self._history: list[Any] = []

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot from which `set_state` continues exactly as this environment would."""
        return self._single.get_state()

    def set_state(self, state: Mapping[str, np.ndarray]) -> Any:
        """Continue from a snapshot of an environment with the same configuration.

        Returns:
            The observation there.

        Raises:
            ValueError: If the snapshot does not fit this configuration.
        """
        self._single.set_state(state)
        self._seeded = True
        # Pictures show recent steps, and those were another episode's.
        self._history.clear()
        return self._observe()

    def _begin(self, seed: int | None, **world: Any) -> None:
        """Draw a new episode: that of `seed`, or the next one of the current seed.

        Args:
            seed: As for `reset`.
            **world: The outside world instead, as the simulator's `reset` takes it.
        """
        gym.Env.reset(self, seed=seed)
        if seed is not None or not self._seeded:
            own = self.np_random_seed
            if own is None or own < 0:  # unknown: the generator was set from outside
                own = int(self.np_random.integers(2**63))
            self._single.seed(np.array([fold_seed(own)], np.uint64))
            self._seeded = True
        self._single.reset(**world)
        self._history.clear()

    def _observe(self) -> Any:
        return observation_of(self._single.observe(), 0)

    def _need_reset(self, method: str) -> None:
        if not self._seeded:
            raise gym.error.ResetNeeded(f"call reset() before {method}()")

    def _choice(self, action: Any, name: str) -> int:
        """A number that stands for an action, as an int.

        Raises:
            gymnasium.error.InvalidAction: If it is none.
        """
        count = int(self.action_space.n)  # type: ignore[attr-defined]
        try:
            number = operator.index(action)
        except TypeError:
            number = -1
        if not 0 <= number < count:
            raise gym.error.InvalidAction(
                f"action must be a {name} from 0 to {count - 1}, got {action!r}"
            )
        return number

    def _choices(self, action: Any, name: str) -> np.ndarray:
        """An action of a MultiDiscrete, shape (C,), int64.

        Raises:
            gymnasium.error.InvalidAction: If it is none.
        """
        counts = self.action_space.nvec  # type: ignore[attr-defined]
        choices = np.asarray(action)
        fits = choices.shape == counts.shape and choices.dtype.kind in "iu"
        if not fits or ((choices < 0) | (choices >= counts)).any():
            raise gym.error.InvalidAction(
                f"action must be {name} from 0 and below {counts.tolist()}, got {action!r}"
            )
        return choices.astype(np.int64)
