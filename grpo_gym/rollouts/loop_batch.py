"""Batches of separate Gymnasium environments, stepped one after the other."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from typing_extensions import override

from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch, EnvError
from grpo_gym.rollouts.returned import one_by_one, read_flags, read_masks, read_rewards, short
from grpo_gym.rollouts.snapshots import EnvSnapshot, layers, restore_snapshot, take_snapshot
from grpo_gym.rollouts.spaces import flatten_each
from grpo_gym.settings import ConfigError

_NUMBER = (bool, int, float, np.bool_, np.integer, np.floating)
_RETURNED = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}


class SeparateBatch(EnvBatch):
    """Environments of one kind that are separate objects, wherever they are.

    Attributes:
        layers: The wrappers of one of them from the outermost inwards, then itself; perhaps closed.
    """

    def __init__(self, env: gym.Env[Any, Any], num_envs: int) -> None:
        """Describe B environments like `env`."""
        self.layers = layers(env)
        limited = any(isinstance(layer, TimeLimit) for layer in self.layers)
        spaces = env.observation_space, env.action_space
        super().__init__(env, num_envs, *spaces, has_time_limit=limited)


class LoopBatch(SeparateBatch):
    """B environments in this process.

    Attributes:
        envs: The environments.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.envs = list(envs)
        super().__init__(envs[0], len(self.envs))
        self._has_mask_method = _mask_method(envs[0]) is not None
        self._observations = np.zeros((self.num_envs, self.rows.width), self.rows.dtype)

    @override
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        everyone = range(self.num_envs)
        calls = [partial(env.reset, seed=int(s)) for env, s in zip(self.envs, seeds, strict=True)]
        observed, infos = self._results("reset", everyone, calls)
        self._keep_observations("reset", everyone, observed)
        return self._observations.copy(), self._read_masks("reset", infos, everyone)

    @override
    def _step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        infos: list[Mapping[str, Any]] = [{}] * self.num_envs
        members = np.flatnonzero(alive).tolist()
        if members:
            calls = [partial(self.envs[b].step, actions[b]) for b in members]
            observed, paid, ended, cut, reports = self._results("step", members, calls)
            self._keep_observations("step", members, observed)
            rewards[members] = self._read("step", members, read_rewards, paid)
            for name, flags, read in (
                ("terminated", terminated, ended),
                ("truncated", truncated, cut),
            ):
                flags[members] = self._read("step", members, partial(read_flags, name=name), read)
            for b, report in zip(members, reports, strict=True):
                infos[b] = report
        ended_now = terminated | truncated
        masks = self._read_masks("step", infos, np.flatnonzero(alive & ~ended_now).tolist())
        if masks is not None:
            masks[~alive | ended_now] = True
        return BatchStep(
            observations=self._observations.copy(),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            infos=_stack_numbers(infos),
            action_masks=masks,
        )

    @override
    def _snapshot(self, members: np.ndarray) -> tuple[list[EnvSnapshot], np.ndarray]:
        saved = [take_snapshot(self.envs[b]) for b in members.tolist()]
        return saved, self._observations[members]

    @override
    def _restore(self, states: tuple[list[EnvSnapshot], np.ndarray], members: np.ndarray) -> None:
        for saved, observation, copies in zip(*states, members.tolist(), strict=True):
            for b in copies:
                self.envs[b] = restore_snapshot(saved, self.envs[b])
            self._observations[copies] = observation

    @override
    def close(self) -> None:
        with ExitStack() as stack:  # all of them, also where closing one fails
            for env in reversed(self.envs):
                stack.callback(env.close)

    def _results(
        self,
        call: Literal["reset", "step"],
        members: Sequence[int],
        calls: Sequence[Callable[[], Any]],
    ) -> tuple[tuple[Any, ...], ...]:
        """What these environments return, place by place: observations first, infos last.

        Raises:
            EnvError: If one raises, or returns another number of values.
        """
        results: list[tuple[Any, ...]] = []
        try:
            for each in calls:
                results.append(each())
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a user's environment may raise anything, SystemExit too
            old = call == "reset" and "reset() got an unexpected keyword argument" in str(error)
            hint = ": define reset(self, *, seed=None, options=None)" if old else ""
            raise self.error(call, members[len(results)], f"raised {error!r}{hint}") from error
        count = len(_RETURNED[call])
        for b, result in zip(members, results, strict=True):
            if not isinstance(result, tuple) or len(result) != count:
                got = f"{len(result)} values" if isinstance(result, tuple) else short(result)
                wanted = ", ".join(_RETURNED[call])
                raise self.error(call, b, f"must return ({wanted}), got {got}")
            if type(result[-1]) is not dict and not isinstance(result[-1], Mapping):
                raise self.error(call, b, f"info must be a dictionary, got {short(result[-1])}")
        return tuple(zip(*results, strict=True))

    def _read(
        self,
        call: str,
        members: Sequence[int],
        read: Callable[[Any], np.ndarray],
        values: Sequence[Any],
    ) -> np.ndarray:
        """What `read` makes of these environments' values.

        Raises:
            EnvError: If one is wrong.
        """

        def error(i: int, fault: str) -> EnvError:
            return self.error(call, members[i], fault)

        return one_by_one(read, values, error)

    def _keep_observations(
        self, call: str, members: Sequence[int], observed: Sequence[Any]
    ) -> None:
        read = partial(flatten_each, self.single_observation_space)
        self._observations[members] = self._read(call, members, read, observed)

    def _read_masks(
        self, call: str, infos: Sequence[Mapping[str, Any]], playing: Sequence[int]
    ) -> np.ndarray | None:
        """Action masks, shape (B, A), all true for environments that report none.

        An environment reports one in its infos, by a method `action_masks`, or both: then what both
        allow is legal. The method is that of sb3-contrib, asked where an episode goes on.
        """
        given = [(b, info.get("action_mask")) for b, info in enumerate(infos)]
        if self._has_mask_method:
            given += [(b, self._ask_mask(call, b)) for b in playing]
        reported = [(b, mask) for b, mask in given if mask is not None]
        if not reported:
            return None
        read = partial(read_masks, self.single_action_space)
        members, values = zip(*reported, strict=True)
        rows = self._read(call, members, read, values)
        masks = np.ones((self.num_envs, rows.shape[1]), np.bool_)
        for b, row in zip(members, rows, strict=True):
            masks[b] &= row
        return masks

    def _ask_mask(self, call: str, b: int) -> Any:
        """The mask that the method of an environment returns.

        Raises:
            EnvError: If it raises.
        """
        ask = _mask_method(self.envs[b])
        try:
            return None if ask is None else ask()
        except Exception as error:  # a user's environment may raise anything
            raise self.error(call, b, f"action_masks() raised {error!r}") from error


def make_loop(
    make: Callable[[], gym.Env[Any, Any]], num_envs: int, first: gym.Env[Any, Any] | None = None
) -> LoopBatch:
    """A batch of what a function makes, with a first one that is there already, if it is.

    All are closed if the batch cannot be made.

    Raises:
        ConfigError: If some are the same, or their spaces are not supported.
    """
    envs = [make() if first is None else first]
    with ExitStack() as made:
        made.callback(envs[0].close)
        for _ in range(num_envs - 1):
            envs.append(make())
            made.callback(envs[-1].close)
        if len({id(one.unwrapped) for one in envs}) < num_envs:
            made.pop_all()  # it is the user's
            raise ConfigError("env must make a new environment at every call, got the same again")
        batch = LoopBatch(envs)
        made.pop_all()
    return batch


def _mask_method(env: gym.Env[Any, Any]) -> Callable[[], Any] | None:
    """The method `action_masks` of the outermost layer that has one."""
    methods = (getattr(layer, "action_masks", None) for layer in layers(env))
    return next((method for method in methods if callable(method)), None)


def _stack_numbers(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = {
        name
        for info in infos
        for name, value in info.items()
        if isinstance(value, _NUMBER) and isinstance(name, str)
    }
    return {name: np.array([_number(info.get(name)) for info in infos]) for name in sorted(names)}


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, _NUMBER) else np.nan
    except OverflowError:  # an integer too large for a float
        return np.inf
