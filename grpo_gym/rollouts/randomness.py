"""All random numbers of a training run, derived from its seed, the iteration and the group.

Keys are global indices and never depend on processes or order, so a run gives the same results
however it is distributed over processes, and after an interruption.

Shapes: G groups, K members, C components of an action.
"""

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


def derive_seed(seed: int, stream: Stream, *key: int) -> int:
    """A seed of 62 bits.

    Args:
        seed: Of the run.
        stream: The seed's purpose.
        key: Indices of at most 32 bits; always the same number of them for one stream.
    """
    state = np.random.SeedSequence((seed, int(stream), *key)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(2))


def episode_seeds(seed: int, iteration: int, groups: range, group_size: int | None) -> np.ndarray:
    """Seeds of the episodes of an iteration's groups.

    Args:
        seed: Of the run.
        iteration: Index of the iteration.
        groups: Indices of the groups within the iteration.
        group_size: K, for groups of unrelated episodes; None: members share their group's episode.

    Returns:
        Shape (G,), or (G, K) for unrelated episodes, int64.
    """
    key = (seed, Stream.EPISODES, iteration)
    if group_size is None:
        return np.array([derive_seed(*key, g) for g in groups], np.int64)
    return np.array([[derive_seed(*key, g, k) for k in range(group_size)] for g in groups])


def group_generators(
    seed: int, stream: Stream, iteration: int, groups: range
) -> list[np.random.Generator]:
    """One generator for each of an iteration's groups, given by their indices."""
    keys = [(seed, int(stream), iteration, g) for g in groups]
    return [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]


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
        """The next step's noise, shape (G*K, C), float32: uniforms in [0, 1) or normals."""
        if self._next == _CHUNK:
            self._chunk = np.concatenate([self._draw(g) for g in self._generators], axis=1)
            self._next = 0
        noise = self._chunk[self._next]
        self._next += 1
        return noise

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        if self._kind == "uniform":
            return generator.random(self._shape, np.float32)
        return generator.standard_normal(self._shape, np.float32)
