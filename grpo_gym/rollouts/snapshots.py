"""Snapshots of single environments.

A snapshot includes all wrappers, and with them elapsed steps and statistics. The innermost
environment is saved in one of two ways:

- by `get_state()` and `set_state(state)`, or ALE's `clone_state(include_rng=True)` and
  `restore_state(state)`, if it has them and no `__deepcopy__`. Later steps must not change a
  state that was returned; the state of `np_random` is saved with it.
- otherwise by `copy.deepcopy` of all its attributes.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

Environment = gym.Env[Any, Any]

_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_COPY_METHODS = (
    "__deepcopy__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
    "__setstate__",
)


@dataclass(frozen=True)
class EnvSnapshot:
    """The saved state of one environment.

    Attributes:
        env: A copy with all its wrappers. If `state` is set, the wrappers surround the original
            innermost environment, which restoring replaces.
        state: Result of the innermost environment's `get_state`; None if `env` is a full copy.
        random_state: State of the innermost environment's `np_random`; None if `env` is a full
            copy.
    """

    env: Environment
    state: Any = None
    random_state: Mapping[str, Any] | None = None


def take_snapshot(env: Environment) -> EnvSnapshot:
    """Save an environment, with its wrappers, random generators and elapsed steps.

    Raises:
        Exception: Whatever a part of the environment raises when it is copied.
    """
    inner: Any = env.unwrapped
    methods = _state_methods(inner.__class__)
    if methods is None:
        return EnvSnapshot(copy_environment(env))
    get_state, _ = methods
    random_state = inner.np_random.bit_generator.state
    return EnvSnapshot(copy_environment(env, inner), get_state(inner), random_state)


def restore_snapshot(snapshot: EnvSnapshot, env: Environment) -> Environment:
    """Make an environment that continues from a snapshot, which stays unchanged.

    It replaces `env`, of the same kind, whose innermost environment it reuses if the snapshot has a
    `state`.
    """
    inner: Any = env.unwrapped
    methods = _state_methods(inner.__class__)
    if methods is None or snapshot.random_state is None:
        return copy_environment(snapshot.env)
    _, set_state = methods
    # In place: the environment may hold other references to its generator.
    inner.np_random.bit_generator.state = snapshot.random_state
    set_state(inner, snapshot.state)
    return copy_environment(snapshot.env, inner)


def copy_environment(env: Environment, inner: Environment | None = None) -> Environment:
    """Make a deep copy of an environment and its wrappers.

    Plain `copy.deepcopy` loses the episode of `EzPickle` environments (MuJoCo, Box2D), which it
    makes again from their arguments; here their attributes are copied. The spec and the bounds of
    spaces, which never change, are shared; random generators never are. `inner` replaces the
    innermost environment, uncopied.

    Raises:
        Exception: Whatever a part of the environment raises when it is copied.
    """
    memo: dict[int, Any] = {}
    if inner is not None:
        memo[id(env.unwrapped)] = inner
    plain: list[tuple[Environment, Environment]] = []
    for layer in layers(env):
        kind = layer.__class__
        if id(layer) not in memo and _copies_by_attributes(kind):
            memo[id(layer)] = blank = kind.__new__(kind)
            plain.append((layer, blank))
    for layer, _ in plain:
        for value in vars(layer).values():
            if type(value) is EnvSpec:
                memo[id(value)] = value
            elif type(value) is np.random.Generator:
                memo[id(value)] = _copy_generator(value, memo)
            elif type(value) in _SPACES:
                memo[id(value)] = _copy_space(value, memo)
    for layer, blank in plain:
        attributes = vars(blank)
        for name, value in vars(layer).items():
            attributes[name] = copy.deepcopy(value, memo)
    return copy.deepcopy(env, memo)


def layers(env: Environment) -> list[Any]:
    """The wrappers from the outermost inwards, then the innermost environment."""
    found: list[Any] = [env]
    while isinstance(found[-1], gym.Wrapper):
        found.append(found[-1].env)
    return found


@functools.cache
def _copies_by_attributes(layer: type) -> bool:
    """Whether a class leaves copying to Python or EzPickle and keeps its state in `__dict__`."""
    return not any(
        name in vars(base) or vars(base).get("__slots__")
        for base in layer.__mro__
        if base not in (object, EzPickle)
        for name in _COPY_METHODS
    )


def _copy_space(space: gym.Space[Any], memo: dict[int, Any]) -> gym.Space[Any]:
    """A space with its own random generator and the same bounds."""
    copied = type(space).__new__(type(space))
    attributes = vars(copied)
    for name, value in vars(space).items():
        is_generator = isinstance(value, np.random.Generator)
        attributes[name] = _copy_generator(value, memo) if is_generator else value
    return copied


def _copy_generator(generator: np.random.Generator, memo: dict[int, Any]) -> np.random.Generator:
    """Like `copy.deepcopy`, but faster: that draws entropy from the system first."""
    if id(generator) not in memo:
        bits = generator.bit_generator
        if id(bits) not in memo:
            seeds: Any = copy.deepcopy(bits.seed_seq, memo)
            memo[id(bits)] = type(bits)(seeds)
            memo[id(bits)].state = bits.state
        memo[id(generator)] = np.random.Generator(memo[id(bits)])
    copied: np.random.Generator = memo[id(generator)]
    return copied


@functools.cache
def _state_methods(
    inner: type,
) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]] | None:
    """A class's own methods to save and to restore its state, if it has both."""
    if hasattr(inner, "__deepcopy__"):
        return None
    get_state, set_state = getattr(inner, "get_state", None), getattr(inner, "set_state", None)
    if _accepts(get_state, 1) and _accepts(set_state, 2):
        return get_state, set_state
    clone_state = getattr(inner, "clone_state", None)
    restore_state = getattr(inner, "restore_state", None)
    if callable(clone_state) and callable(restore_state):
        return functools.partial(clone_state, include_rng=True), restore_state
    return None


def _accepts(method: Any, count: int) -> TypeGuard[Callable[..., Any]]:
    """Whether an unbound method takes `count` arguments, including `self`."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    return True
