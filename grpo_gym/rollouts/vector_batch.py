"""Batches of users' vector environments: Gymnasium's, envpool's, or their own.

Each of their environments plays from a reset to its episode's end, and idles until all have ended:
where autoreset starts another episode, nobody looks at it.

Shapes: B environments, A choices.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from typing_extensions import override

from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch, EnvError
from grpo_gym.rollouts.returned import (
    as_array,
    have_choice,
    one_by_one,
    read_flags,
    read_masks,
    read_rewards,
    short,
)
from grpo_gym.rollouts.spaces import flatten_batch
from grpo_gym.settings import ConfigError

_SEEDED = (
    "reset(seed=[...]) must start each environment of a vector environment from its own seed; "
    "where seeds are fixed when it is made, as in envpool, pass a function of num_envs and seed: "
    "lambda num_envs, seed: envpool.make_gymnasium(ID, num_envs=num_envs, seed=seed)"
)


class VectorBatch(EnvBatch):
    """A vector environment that others wrote.

    Attributes:
        env: The vector environment.
        max_episode_steps: Steps after which it is known to truncate; None: unknown.
    """

    can_branch = False
    seeding_rule = "reset(seed=[...]) must start each environment from its own seed"

    def __init__(self, env: VectorEnv[Any, Any, Any], keep_open: bool = False) -> None:
        """Take a vector environment in any mode of autoreset.

        Args:
            env: The vector environment.
            keep_open: Whether `close` leaves it open, for its owner.

        Raises:
            ConfigError: If its spaces are not supported, or it cannot be seeded.
        """
        self.env: Any = env
        self._keep_open = keep_open
        limit = getattr(env.spec, "max_episode_steps", None)
        self.max_episode_steps: int | None = limit if isinstance(limit, int) else None
        super().__init__(
            env,
            env.num_envs,
            env.single_observation_space,
            env.single_action_space,
            has_time_limit=self.max_episode_steps is not None,
        )
        self._needs_reset = env.metadata.get("autoreset_mode") == AutoresetMode.DISABLED
        self._observations = np.zeros((self.num_envs, self.rows.width), self.rows.dtype)
        self._refuse_fixed_seeds()

    @override
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        everyone = np.ones(self.num_envs, np.bool_)
        observed, infos = self._call(
            "reset", partial(self._start, [int(seed) for seed in seeds]), 2
        )
        self._keep_observations("reset", observed, everyone)
        return self._observations.copy(), self._read_masks("reset", infos)

    @override
    def _step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        results = self._call("step", lambda: self.env.step(actions), 5)
        observed, paid, ended, cut, infos = results
        self._keep_observations("step", observed, alive)
        rewards = self._read(read_rewards, paid, "rewards")
        terminated = self._read(partial(read_flags, name="terminated"), ended, "terminated")
        truncated = self._read(partial(read_flags, name="truncated"), cut, "truncated")
        ended_now = terminated | truncated
        masks = self._read_masks("step", infos, idle=~alive | ended_now)
        if self._needs_reset and ended_now.any() and (alive & ~ended_now).any():
            options = {"reset_mask": ended_now.copy()}
            _, infos_of_reset = self._call("reset", lambda: self.env.reset(options=options), 2)
            fresh = self._read_masks("reset", infos_of_reset, idle=ended_now)
            if masks is not None and fresh is not None:
                masks[ended_now] = fresh[ended_now]
        return BatchStep(
            observations=self._observations.copy(),
            rewards=np.where(alive, rewards, 0.0),
            terminated=terminated & alive,
            truncated=truncated & alive,
            infos=self._numbers(infos, alive),
            action_masks=masks,
        )

    @override
    def _snapshot(self, members: np.ndarray) -> Any:
        raise NotImplementedError("vector environments cannot copy single members")

    @override
    def _restore(self, states: Any, members: np.ndarray) -> None:
        raise NotImplementedError("vector environments cannot copy single members")

    @override
    def close(self) -> None:
        if not self._keep_open:
            self.env.close()

    def _start(self, seeds: list[int]) -> Any:
        """What a reset from these seeds returns."""
        return self.env.reset(seed=seeds)

    def _refuse_fixed_seeds(self) -> None:
        if _is_of_envpool(self.env.unwrapped):
            raise ConfigError(f"{self}: {_SEEDED}")

    def _call(self, name: str, call: Callable[[], Any], count: int) -> tuple[Any, ...]:
        """What a method of the vector environment returns.

        Raises:
            EnvError: If it raises, or returns another number of values.
        """
        try:
            result = call()
        except MemoryError:
            raise
        except Exception as error:  # a user's environment may raise anything
            hint = f" ({_SEEDED})" if name == "reset" else ""
            raise EnvError(f"{self}.{name}() raised {error!r}{hint}") from error
        if not isinstance(result, tuple) or len(result) != count:
            got = f"{len(result)} values" if isinstance(result, tuple) else short(result)
            raise EnvError(f"{self}.{name}() must return a tuple of {count}, got {got}")
        if not isinstance(result[-1], Mapping):
            raise EnvError(f"{self}.{name}(): infos must be a dictionary, got {short(result[-1])}")
        return result

    def _read(self, read: Callable[[Any], np.ndarray], values: Any, name: str) -> np.ndarray:
        """What `read` makes of the values of all environments.

        Raises:
            EnvError: If one is wrong, or there are not as many as environments.
        """
        each = as_array(values, name)
        if each.shape[:1] != (self.num_envs,):
            raise EnvError(
                f"{self}.step(): {name} must have shape ({self.num_envs},), got {each.shape}"
            )
        return one_by_one(read, each, lambda b, fault: self.error("step", b, fault))

    def _keep_observations(self, call: str, observed: Any, alive: np.ndarray) -> None:
        try:
            rows = flatten_batch(self.single_observation_space, observed, "observations")
        except ConfigError as fault:
            raise EnvError(f"{self}.{call}(): {fault}") from fault
        if len(rows) != self.num_envs:
            raise EnvError(
                f"{self}.{call}(): observations must be {self.num_envs}, got {len(rows)}"
            )
        self._observations[alive] = rows[alive]

    def _read_masks(
        self, call: str, infos: Mapping[str, Any], idle: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Action masks, shape (B, A); where nobody looks, an action must be legal all the same."""
        masks = infos.get("action_mask")
        if masks is None:
            return None
        given = np.asarray(infos.get("_action_mask", np.ones(self.num_envs, np.bool_)))
        members = np.flatnonzero(given).tolist()
        read = partial(read_masks, self.single_action_space)
        reported = one_by_one(
            read, [masks[b] for b in members], lambda i, fault: self.error(call, members[i], fault)
        )
        rows = np.ones((self.num_envs, reported.shape[1]), np.bool_)
        rows[members] = reported
        if idle is not None:
            rows[idle & ~have_choice(self.single_action_space, rows)] = True
        return rows

    def _numbers(self, infos: Mapping[str, Any], alive: np.ndarray) -> dict[str, np.ndarray]:
        """The quantities that are one number for each environment; NaN where not reported."""
        final = infos.get("final_info")
        if not isinstance(final, Mapping):
            return self._reported(infos, alive)
        # Autoreset in the same step: the infos of those that ended are those of their next episode.
        ended = np.asarray(infos.get("_final_info", False), np.bool_)
        found = self._reported(infos, alive & ~ended)
        for name, values in self._reported(final, alive & ended).items():
            found[name] = np.where(ended, values, found.get(name, np.nan))
        return found

    def _reported(self, infos: Mapping[str, Any], members: np.ndarray) -> dict[str, np.ndarray]:
        """The numbers in infos for these environments, shape (B,), bool; NaN for all others."""
        numbers = {
            name: values
            for name, values in infos.items()
            if isinstance(values, np.ndarray)
            and values.shape == (self.num_envs,)
            and values.dtype.kind in "biuf"
            and not str(name).startswith("_")
        }
        return {
            name: np.where(np.asarray(infos.get(f"_{name}", True)) & members, values, np.nan)
            for name, values in numbers.items()
        }


class RemadeVectorBatch(VectorBatch):
    """A vector environment whose seeds are fixed when it is made: each reset makes it anew."""

    def __init__(
        self, make: Callable[[list[int]], VectorEnv[Any, Any, Any]], num_envs: int
    ) -> None:
        """Make it once, to know its spaces; `make` takes one seed for each of B environments."""
        self._make = make
        super().__init__(make(list(range(num_envs))))

    @override
    def _start(self, seeds: list[int]) -> Any:
        self.env.close()
        self.env = self._make(seeds)
        return self.env.reset()

    @override
    def _refuse_fixed_seeds(self) -> None:
        pass


def is_vector(env: Any) -> bool:
    """Whether an environment is several."""
    return isinstance(env, VectorEnv) or bool(getattr(env, "is_vector_env", False))


def _is_of_envpool(env: Any) -> bool:
    return any(kind.__module__.startswith("envpool.") for kind in type(env).__mro__)


def make_vector_batch(make: Callable[..., Any], num_envs: int) -> VectorBatch | None:
    """A batch of a function that makes vector environments; None if it is another one.

    Args:
        make: A function, or a class, of `num_envs`. One that must be given a `seed` too is called
            at each reset, with a seed for each environment.
        num_envs: B.

    Raises:
        ConfigError: If it makes something else, or another number of environments.
    """
    kind: Any = make
    if inspect.isclass(kind) and not issubclass(kind, VectorEnv):
        return None
    try:
        names = inspect.signature(make).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    if "num_envs" not in names:
        return None
    if "seed" in names and names["seed"].default is inspect.Parameter.empty:
        return RemadeVectorBatch(
            lambda seeds: _checked(make(num_envs=len(seeds), seed=seeds), len(seeds)), num_envs
        )
    return VectorBatch(_checked(make(num_envs=num_envs), num_envs))


def _checked(env: Any, num_envs: int) -> VectorEnv[Any, Any, Any]:
    if not is_vector(env):
        hint = ": install envpool 1.2 or later" if _is_of_envpool(env) else ""
        raise ConfigError(
            "env must make a gymnasium.vector.VectorEnv as it takes num_envs, got "
            f"{short(env)}{hint}"
        )
    if env.num_envs != num_envs:
        raise ConfigError(f"env must make num_envs={num_envs} environments, got {env.num_envs}")
    vector: VectorEnv[Any, Any, Any] = env
    return vector
