"""All random numbers of a training run, derived from its seed, the iteration and the group.

Keys are global indices and never depend on processes or order, so a run gives the same results
however it is distributed over processes, and after an interruption.

Shapes: G groups, K members, C components of an action.
"""

from copy import copy
from enum import IntEnum
from typing import Literal

import numpy as np

NoiseKind = Literal["uniform", "normal"]
"""Noise from which actions are sampled: one uniform or standard normal number per component."""
_CHUNK = 32


class Stream(IntEnum):
    """The purpose of random numbers; part of their key."""

    EPISODES = 0
    ACTIONS = 1
    MINIBATCHES = 2
    WEIGHTS = 3
    EVALUATION = 4
    PREDICTION = 5
    TRUNKS = 6
    VALUES = 7
    REDRAWS = 8


def derive_seed(seed: int, stream: Stream, *key: int) -> int:
    """A seed of 62 bits for one purpose of a run with this seed.

    `key` are indices of at most 32 bits, always the same number of them for one stream.
    """
    state = np.random.SeedSequence((seed, int(stream), *key)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(2))


def episode_seeds(seed: int, iteration: int, groups: range, group_size: int | None) -> np.ndarray:
    """Seeds of the episodes of an iteration's groups, which are given by their indices.

    Returns:
        Shape (G,), int64; with a `group_size` of K, for unrelated episodes, (G, K).
    """
    key = (seed, Stream.EPISODES, iteration)
    if group_size is None:
        return np.array([derive_seed(*key, g) for g in groups], np.int64)
    return np.array([[derive_seed(*key, g, k) for k in range(group_size)] for g in groups])


def redrawn_seeds(
    seed: int, iteration: int, group: int, attempt: int, group_size: int | None
) -> np.ndarray:
    """Other seeds for a group whose episodes were lost for the `attempt`-th time, from 1.

    Returns:
        Shape (), int64; with a `group_size` of K, (K,).
    """
    key = (seed, Stream.REDRAWS, iteration, group, attempt)
    drawn = [derive_seed(*key, k) for k in range(group_size or 1)]
    return np.array(drawn[0] if group_size is None else drawn, np.int64)


def narrow_seeds(seeds: np.ndarray) -> np.ndarray:
    """Seeds below 2^31, for environments that may pass theirs to RandomState or to C++.

    Of 10^6 episodes some 230 have the seed of an earlier one: a trace that is seen twice.
    """
    return seeds % 2**31


def group_generators(
    seed: int, stream: Stream, iteration: int, groups: range
) -> list[np.random.Generator]:
    """One generator for each of an iteration's groups, given by their indices."""
    keys = [(seed, int(stream), iteration, g) for g in groups]
    return [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]


def draw_noise(
    generator: np.random.Generator, kind: NoiseKind, shape: tuple[int, ...]
) -> np.ndarray:
    """Noise of a kind, float32: uniform numbers in [0, 1), or standard normal ones."""
    draw = generator.random if kind == "uniform" else generator.standard_normal
    noise: np.ndarray = draw(shape, np.float32)
    return noise


class ActionNoise:
    """The noise that determines an iteration's sampled actions, from one generator per group."""

    def __init__(
        self,
        kind: NoiseKind,
        seed: int,
        iteration: int,
        groups: range,
        group_size: int,
        components: int,
    ) -> None:
        """Make the generators; `groups` are indices within the iteration."""
        self._kind = kind
        self._shape = (_CHUNK, group_size, components)
        self._generators = group_generators(seed, Stream.ACTIONS, iteration, groups)
        self._chunk = np.empty((0, 0, 0), np.float32)
        self._next = _CHUNK

    def draw(self) -> np.ndarray:
        """The next step's noise, shape (G*K, C), float32."""
        if self._next == _CHUNK:
            parts = [draw_noise(each, self._kind, self._shape) for each in self._generators]
            self._chunk = np.concatenate(parts, axis=1)
            self._next = 0
        noise = self._chunk[self._next]
        self._next += 1
        return noise

    def aside(self, number: int) -> "ActionNoise":
        """Other noise for a detour from here, the `number`-th, from 0, which leaves this as it is.

        The noise that follows it does not depend on how long a group's detour was.
        """
        other = copy(self)
        other._generators = [
            np.random.Generator(each.bit_generator.jumped(number + 1))  # type: ignore[attr-defined]
            for each in self._generators
        ]
        other._next = _CHUNK
        return other
