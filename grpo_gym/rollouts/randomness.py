"""Where a run's random numbers come from: its seed, the iteration and the group, nothing else.

Keys are global indices, never processes or order, so a run is the same however it is spread
over processes, and an interrupted run goes on as if nothing had happened.

Shapes: G groups, K members, C components of an action.
"""

from enum import IntEnum
from typing import Literal

import numpy as np

NoiseKind = Literal["uniform", "normal"]
"""What actions are sampled from: a uniform number or a standard normal one a component."""
_CHUNK = 32


class Stream(IntEnum):
    """What random numbers are for; part of their key."""

    EPISODES = 0
    ACTIONS = 1
    MINIBATCHES = 2
    WEIGHTS = 3
    EVALUATION = 4
    PREDICTION = 5
    TRUNKS = 6
    VALUES = 7


def derive_seed(seed: int, stream: Stream, *key: int) -> int:
    """A seed of 62 bits from these arguments; keys of one stream have one length and 32 bits."""
    state = np.random.SeedSequence((seed, int(stream), *key)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(2))


def episode_seeds(seed: int, iteration: int, groups: range, group_size: int | None) -> np.ndarray:
    """Seeds of the outside worlds of an iteration's groups: (G,) for shared ones, else (G, K)."""
    members = range(group_size or 0)
    key = (seed, Stream.EPISODES, iteration)
    if group_size is None:
        return np.array([derive_seed(*key, g) for g in groups], np.int64)
    return np.array([[derive_seed(*key, g, k) for k in members] for g in groups], np.int64)


def group_generators(
    seed: int, stream: Stream, iteration: int, groups: range
) -> list[np.random.Generator]:
    """One generator for each of an iteration's groups, by their numbers."""
    keys = [(seed, int(stream), iteration, g) for g in groups]
    return [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]


class ActionNoise:
    """The noise that decides an iteration's actions, one stream a group."""

    def __init__(
        self,
        kind: NoiseKind,
        seed: int,
        iteration: int,
        groups: range,
        group_size: int,
        components: int,
    ) -> None:
        """Key one generator per group; `groups` are their numbers within the iteration."""
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
