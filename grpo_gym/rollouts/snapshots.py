"""Snapshots of single environments, and the check that what is restored goes on identically.

A snapshot holds all wrappers, so that elapsed steps and statistics are part of it. The innermost
environment is saved in one of two ways:

- by `get_state()` and `set_state(state)`, or ALE's `clone_state(include_rng=True)` and
  `restore_state(state)`, if it has them and no `__deepcopy__`. A state must not be changed by
  what the environment does later; the state of `np_random` is kept beside it.
- else by `copy.deepcopy` of all its attributes.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.settings.config import ConfigError

if TYPE_CHECKING:  # batches.py uses this module
    from grpo_gym.rollouts.batches import BatchStep, EnvBatch

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
_WARM_UPS = (3, 3, 3, 2, 1, 0)
"""Steps before the check's snapshot, by attempt: fewer for episodes that end before."""
_COMPARED_STEPS = 250
_RESTORATIONS = 2


class SnapshotError(ConfigError):
    """An environment that cannot be put back to where it was, so that no group can branch there."""


@dataclass(frozen=True)
class EnvSnapshot:
    """One environment at one moment.

    Attributes:
        env: A copy with all its wrappers; with `state`, around the environment it was taken of,
            which is never used.
        state: What the innermost environment's own `get_state` gave; None if `env` is complete.
        random_state: With `state`, that of the innermost environment's `np_random`.
    """

    env: Environment
    state: Any = None
    random_state: Mapping[str, Any] | None = None


def take_snapshot(env: Environment) -> EnvSnapshot:
    """Save an environment, with its wrappers, random generators and elapsed steps.

    Raises:
        Exception: Whatever a part of the environment raises at being copied.
    """
    inner: Any = env.unwrapped
    methods = _state_methods(inner.__class__)
    if methods is None:
        return EnvSnapshot(copy_environment(env))
    get_state, _ = methods
    random_state = inner.np_random.bit_generator.state
    return EnvSnapshot(copy_environment(env, inner), get_state(inner), random_state)


def restore_snapshot(snapshot: EnvSnapshot, env: Environment) -> Environment:
    """Make an environment that goes on from a snapshot, which stays as it is.

    Args:
        snapshot: Of an environment of the same kind.
        env: The environment to be replaced; its innermost part is used again where the snapshot
            has a `state`.

    Returns:
        The environment to use from now on instead of `env`.
    """
    inner: Any = env.unwrapped
    methods = _state_methods(inner.__class__)
    if methods is None or snapshot.random_state is None:
        return copy_environment(snapshot.env)
    _, set_state = methods
    # In place: the environment may know its generator by other names as well.
    inner.np_random.bit_generator.state = snapshot.random_state
    set_state(inner, snapshot.state)
    return copy_environment(snapshot.env, inner)


def copy_environment(env: Environment, inner: Environment | None = None) -> Environment:
    """Copy an environment and its wrappers deeply.

    Unlike plain `copy.deepcopy` it also copies what `EzPickle` would make anew from its arguments,
    forgetting the episode (MuJoCo, Box2D), and it shares what only describes the environment: its
    spec and the bounds of its spaces. Random generators are never shared.

    Args:
        env: The environment.
        inner: Takes the place of the innermost environment, uncopied.

    Raises:
        Exception: Whatever a part of the environment raises at being copied.
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


def check_snapshots(batch_of_two: "EnvBatch", seed: int = 0) -> None:
    """See whether restored copies really go on as the original did.

    After a few steps the first environment is saved and goes on for up to 250 steps. Then it is
    restored into both, twice over: observations, rewards, ends and action masks must be equal to
    the last bit. What no step among these draws or changes is not seen.

    Args:
        batch_of_two: Two environments; they are reset and stepped.
        seed: Of the episode and of the actions.

    Raises:
        SnapshotError: If they do not, or if the environment cannot be copied.
    """
    batch = batch_of_two
    space = copy.deepcopy(batch.single_action_space)
    space.seed(seed)
    for attempt, steps in enumerate(_WARM_UPS):
        alive, masks = _warm_up(batch, space, seed + 2 * attempt, steps)
        if alive:
            break
    # What third parties' environments raise at being copied may be anything.
    try:
        snapshot = batch.snapshot(np.array([0]))
    except Exception as error:
        raise _refusal(batch, f"copying it raised {error!r}") from error
    original = _go_on(batch, space, masks)
    for _ in range(_RESTORATIONS):
        try:
            batch.restore(snapshot, np.array([[0, 1]]))
        except Exception as error:
            raise _refusal(batch, f"restoring it raised {error!r}") from error
        _replay(batch, original)


def _warm_up(
    batch: "EnvBatch", space: gym.Space[Any], seed: int, steps: int
) -> tuple[bool, np.ndarray | None]:
    """Take both environments to different moments: is the first alive, and action masks."""
    _, masks = batch.reset([seed, seed + 1])
    alive = np.ones(2, np.bool_)
    for _ in range(steps):
        step = batch.step(sample_batch(space, 2, masks), alive)
        alive = alive & ~(step.terminated | step.truncated)
        masks = step.action_masks
        if not alive[0]:
            break
    return bool(alive[0]), masks


def _go_on(
    batch: "EnvBatch", space: gym.Space[Any], masks: np.ndarray | None
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Play the first environment on: for both the action of each step, and what came of it."""
    record = []
    for _ in range(_COMPARED_STEPS):
        actions = sample_batch(space, 2, masks)
        actions[1] = actions[0]
        step = batch.step(actions, np.array([True, False]))
        record.append((actions, _seen(step, 0)))
        if step.terminated[0] or step.truncated[0]:
            break
        masks = step.action_masks
    return record


def _replay(batch: "EnvBatch", original: list[tuple[np.ndarray, dict[str, Any]]]) -> None:
    for t, (actions, expected) in enumerate(original):
        try:
            step = batch.step(actions, np.ones(2, np.bool_))
        except Exception as error:
            raise _refusal(batch, f"a copy raised {error!r} where the original went on") from error
        for b in range(2):
            for name, value in _seen(step, b).items():
                if not _same(value, expected[name]):
                    raise _refusal(
                        batch,
                        f"{t + 1} steps after the snapshot a copy's {name} was not the original's",
                    )


def _seen(step: "BatchStep", b: int) -> dict[str, Any]:
    """What an agent notices of a step of environment b."""
    return {
        "observation": step.observations[b],
        "reward": step.rewards[b],
        "end": [step.terminated[b], step.truncated[b]],
        "action mask": None if step.action_masks is None else step.action_masks[b],
    }


def _same(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    return np.array_equal(left, right, equal_nan=True)


def _refusal(batch: "EnvBatch", reason: str) -> SnapshotError:
    return SnapshotError(
        f"{batch} cannot be branched: {reason}. Use grouping='shared', or give the environment "
        "get_state() and set_state(state), or __deepcopy__, that cover all it goes on from"
    )


def layers(env: Environment) -> list[Any]:
    """The wrappers from the outermost on, then the innermost environment."""
    found: list[Any] = [env]
    while isinstance(found[-1], gym.Wrapper):
        found.append(found[-1].env)
    return found


@functools.cache
def _copies_by_attributes(layer: type) -> bool:
    """Whether a class leaves its copying to Python, or to EzPickle, which forgets the episode."""
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
    """As `copy.deepcopy`, which is three times slower: it first draws a seed from the system."""
    bits = generator.bit_generator
    seeds = bits.seed_seq
    known = not memo.keys().isdisjoint((id(generator), id(bits), id(seeds)))
    if known or type(bits) is not np.random.PCG64 or type(seeds) is not np.random.SeedSequence:
        return copy.deepcopy(generator, memo)
    memo[id(seeds)] = copied_seeds = np.random.SeedSequence(
        seeds.entropy,
        spawn_key=seeds.spawn_key,
        pool_size=seeds.pool_size,
        n_children_spawned=seeds.n_children_spawned,
    )
    memo[id(bits)] = copied_bits = np.random.PCG64(copied_seeds)
    copied_bits.state = bits.state
    memo[id(generator)] = copied = np.random.Generator(copied_bits)
    return copied


@functools.cache
def _state_methods(
    inner: type,
) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]] | None:
    """A class's own ways to save and to restore an environment, if it has both."""
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
    """Whether this is a method, not bound, that takes so many arguments with `self`."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    return True
