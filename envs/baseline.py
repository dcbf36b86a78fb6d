"""The base class of all baselines: a trained model's `predict`, and reproducible randomness.

A baseline is bound to an environment, single or vector, and reads its simulator. Its memory travels
in `state`. Its random numbers depend only on its seed and on the environment's seed, episode and
step, so results do not depend on how many environments run side by side.

Shapes: B environments, M random numbers.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import fields
from importlib import import_module
from typing import Annotated, Any, ClassVar, TypeVar, get_origin, get_type_hints

import numpy as np

from grpo_gym.envs.randomness import episode_noise, fold_seed
from grpo_gym.settings import ConfigError, check_value, suggest

AnyBaseline = TypeVar("AnyBaseline", bound="Baseline")


class Baseline:
    """A heuristic policy; its settings are the `Annotated` class attributes.

    Attributes:
        name: Its name in `BASELINES`.
        simulator: The simulator of the environment that it is bound to.
    """

    name: str
    deterministic = False
    """Whether it draws no random numbers."""
    privileged = False
    """Whether it reads what no policy in production could observe."""
    simulator_class: ClassVar[type]
    """The class of simulators that it reads."""

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment.

        Args:
            env: A native environment, single or vector, wrapped or not.
            seed: Seed of its random choices, >= 0.
            **settings: Values in place of the defaults.

        Raises:
            ConfigError: If `env` is not of the right kind, `seed` is negative, or a setting is
                unknown or out of range.
        """
        simulator = getattr(getattr(env, "unwrapped", env), "simulator", None)
        if not isinstance(simulator, self.simulator_class):
            kind = self.simulator_class.__name__.removesuffix("Simulator")
            raise ConfigError(
                f"env must be a {kind} environment for the baseline {self.name}, got {env}"
            )
        self.simulator: Any = simulator
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigError(f"seed must be an integer >= 0, got {seed!r}")
        self._arguments = {"seed": seed, **settings}
        self._salt = np.uint64(fold_seed(int(seed)))
        hints = get_type_hints(type(self), include_extras=True) if settings else {}
        known = {name: hint for name, hint in hints.items() if get_origin(hint) is Annotated}
        for name, value in settings.items():
            if name not in known:
                raise ConfigError(f"{self.name} has no setting {name!r}.{suggest(name, known)}")
            setattr(self, name, check_value(name, value, known[name]))

    @classmethod
    def is_for_tables(cls, simulator: Any) -> bool:
        """Whether it can play this simulator, fast enough for the hundreds of episodes of a table.

        Args:
            simulator: The simulator of the environments.
        """
        return True

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose an action for each environment.

        Args:
            observation: One observation or a batch, of a Dict space too; only shapes are read.
            state: The state that the last call returned, or None at the start.
            episode_start: Which environments have just been reset, shape (B,), bool.
            deterministic: Ignored; a trained model's `predict` has it too.

        Returns:
            Actions, int64, shape () or (B,), and the state for the next call.
        """
        if state is None:
            state = self.initial_state()
        elif episode_start is not None and np.any(episode_start):
            started = np.broadcast_to(episode_start, (self.simulator.num_envs,))
            state = tuple(
                np.where(started.reshape(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip(self.initial_state(), state, strict=True)
            )
        actions, state = self.choose(state)
        parts = observation.values() if isinstance(observation, Mapping) else [observation]
        single = any(np.shape(part) == self.simulator.observation_shape for part in parts)
        return (actions[0] if single else actions), state

    def evaluate(self, episodes: int = 100, *, seed: int = 1_000_000, warmup: int = 0) -> Any:
        """Play whole episodes in environments of its own, with the settings of its environment.

        A trained model's `evaluate` with the same seed plays the same episodes, so that
        `Evaluation.difference` compares the two. Wrappers around the environment do not count.

        Args:
            episodes: Number of episodes.
            seed: Seed of the first; episode i has seed + i.
            warmup: First steps of each episode, which metrics leave out.

        Returns:
            A `grpo_gym.evaluation.episodes.Evaluation`.

        Raises:
            ConfigError: If a number is out of range.
        """
        # Only now: evaluations need torch, and environments do not.
        playing = import_module("grpo_gym.evaluation.episodes")
        package = self.simulator_class.__module__.rpartition(".")[0]
        env_id = import_module(f"{package}.descriptor").DESCRIPTOR.env_id
        config = self.simulator.config
        env_kwargs = {each.name: getattr(config, each.name) for each in fields(config)}
        num_envs = max(1, min(episodes, playing.MAX_ENVS))
        with closing(playing.make_batch(env_id, env_kwargs, num_envs)) as batch:
            player = type(self)(batch.env, **self._arguments)

            def act(observations: Any, masks: Any, state: Any, start: Any) -> Any:
                return player.predict(observations, state, start)

            return playing.evaluate(act, batch, episodes, seed, warmup)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())
        return f"{type(self).__name__}({settings})"

    def initial_state(self) -> tuple[np.ndarray, ...]:
        """The memory at an episode's start: arrays whose first axis is B."""
        return ()

    def choose(self, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Actions, shape (B,), int64, and the new state."""
        raise NotImplementedError

    def _noise(self, columns: int) -> np.ndarray:
        """Uniforms in (0, 1], shape (B, M), float64; equal at the same step of an episode."""
        noise = np.empty((self.simulator.num_envs, columns))
        episode_noise(self.simulator.episodes, self._salt, noise)
        return noise


def baseline_maker(
    baselines: Mapping[str, Callable[..., AnyBaseline]],
) -> Callable[..., AnyBaseline]:
    """The function `make_baseline` of the environment that has these baselines."""

    def make_baseline(name: str, env: Any, seed: int = 0, **settings: Any) -> AnyBaseline:
        """Make a baseline by its name, bound to an environment.

        Args:
            name: A key of `BASELINES`.
            env: A native environment, single or vector, wrapped or not.
            seed: Seed of its random choices, >= 0.
            **settings: The baseline's own settings, where it has some.

        Raises:
            ConfigError: If the name or a setting is unknown, a value makes no sense, or the
                baseline cannot play this environment.
        """
        if name not in baselines:
            raise ConfigError(f"there is no baseline {name!r}.{suggest(str(name), baselines)}")
        return baselines[name](env, seed, **settings)

    return make_baseline
