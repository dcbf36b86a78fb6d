"""How observations are stored: rows of features or, with images among them, of bytes.

Features are float32. Those that may be large are float64: of the time since 1970, or of a price,
float32 would lose what changes before a normaliser can subtract the rest. Pixels of type uint8 stay
bytes, which take a quarter of the memory. Where an observation has other parts too, their features
lie between the pixels as four or eight bytes each.

Shapes: leading axes "..." are any batch dimensions; D features of an observation, W numbers of its
row, F of the features not uint8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_LARGEST_FLOAT = 1000.0
_LARGEST_INTEGER = 2**24
"""Bounds within which float32 is good enough."""


@dataclass(frozen=True)
class RowFormat:
    """How the features of an observation lie in a row.

    Attributes:
        runs: Neighbouring features of one type: the type, and how many.
    """

    runs: tuple[tuple[np.dtype[Any], int], ...]

    @property
    def has_bytes(self) -> bool:
        """Whether rows are uint8; else they are the features."""
        return np.dtype(np.uint8) in self._kinds

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of rows: uint8, float32 or float64."""
        return (
            np.dtype(np.uint8) if self.has_bytes else np.result_type(np.float32, *dict(self.runs))
        )

    @property
    def num_features(self) -> int:
        """Number of features, D."""
        return sum(count for _, count in self.runs)

    @property
    def width(self) -> int:
        """Numbers of a row, W."""
        return sum(self.widths) if self.has_bytes else self.num_features

    @property
    def num_bytes(self) -> int:
        """Memory of a row."""
        return self.width * self.dtype.itemsize

    @property
    def widths(self) -> list[int]:
        """Bytes of each run."""
        return [count * kind.itemsize for kind, count in self.runs]

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The features of rows (B, W), shape (B, D), float32 or float64."""
        if not self.has_bytes:
            return rows
        numbers = [
            part.astype(np.float32) if kind == np.uint8 else part
            for kind, part in self._parts(rows)
        ]
        return np.concatenate(numbers, axis=1)

    def floats(self, rows: np.ndarray) -> np.ndarray:
        """The features of rows (B, W) that may be nan or inf, shape (B, F)."""
        if not self.has_bytes:
            return rows
        parts = [part for kind, part in self._parts(rows) if kind != np.uint8]
        return np.concatenate([np.zeros((len(rows), 0), np.float32), *parts], axis=1)

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[np.dtype[Any], np.ndarray]]:
        """Each run's type and features (B, d) in rows of bytes."""
        parts = np.split(rows, np.cumsum(self.widths)[:-1], axis=1)
        for (kind, _), part in zip(self.runs, parts, strict=True):
            yield kind, np.ascontiguousarray(part).view(kind)

    @property
    def _kinds(self) -> list[np.dtype[Any]]:
        return [kind for kind, _ in self.runs]


def join_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows, shape (B, W), of the features of an observation's parts, each (B, d).

    Parts are of the types that `type_of` gives them.
    """
    if any(part.dtype == np.uint8 for part in parts):
        parts = [np.ascontiguousarray(part).view(np.uint8) for part in parts]
    return np.concatenate(parts, axis=1)


def row_format(space: gym.Space[Any]) -> RowFormat:
    """The format of a space's rows; its parts are supported."""
    leaves = [(type_of(part), spaces.flatdim(part)) for part in leaves_of(space)]
    grouped = groupby(leaves, key=lambda leaf: leaf[0])
    return RowFormat(tuple((kind, sum(count for _, count in run)) for kind, run in grouped))


def leaves_of(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    """The parts of a space that have no parts, in the order of its features."""
    if isinstance(space, spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaves_of(part)]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaves_of(part)]
    return [space]


def is_bytes(space: gym.Space[Any]) -> bool:
    """Whether the features of a part are stored as bytes."""
    return type_of(space) == np.uint8


def type_of(space: gym.Space[Any]) -> np.dtype[Any]:
    """The type that the features of a part are stored as: uint8, float32 or float64."""
    if not isinstance(space, spaces.Box):
        return np.dtype(np.float32)
    if space.dtype == np.uint8:
        return np.dtype(np.uint8)
    wide = space.dtype == np.float64
    if wide or (np.dtype(space.dtype).itemsize > 2 and space.dtype.kind in "iu"):
        bounds = np.abs(np.array([space.low, space.high], np.float64))
        if bounds.max(initial=0.0) > (_LARGEST_FLOAT if wide else _LARGEST_INTEGER):
            return np.dtype(np.float64)
    return np.dtype(np.float32)
