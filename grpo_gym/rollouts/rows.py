"""How observations are stored: rows of float32 features or, with images among them, of bytes.

Pixels of type uint8 stay bytes, which take a quarter of the memory. Where an observation has other
parts too, their float32 features lie between the pixels as four bytes each.

Shapes: leading axes "..." are any batch dimensions; D features of an observation, W numbers of its
row, F of the features float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


@dataclass(frozen=True)
class RowFormat:
    """How the features of an observation lie in a row.

    Attributes:
        runs: Neighbouring features of one type: whether they are bytes, and how many.
    """

    runs: tuple[tuple[bool, int], ...]

    @property
    def has_bytes(self) -> bool:
        """Whether rows are uint8; else they are the features, float32."""
        return any(are_bytes for are_bytes, _ in self.runs)

    @property
    def dtype(self) -> type[np.generic]:
        """Of rows: uint8 or float32."""
        return np.uint8 if self.has_bytes else np.float32

    @property
    def num_features(self) -> int:
        """Number of features, D."""
        return sum(count for _, count in self.runs)

    @property
    def width(self) -> int:
        """Numbers of a row, W."""
        return sum(self._widths()) if self.has_bytes else self.num_features

    @property
    def num_bytes(self) -> int:
        """Memory of a row."""
        return self.width * np.dtype(self.dtype).itemsize

    def features(self, rows: Tensor) -> Tensor:
        """Features, shape (..., D), float32, of rows (..., W)."""
        if not self.has_bytes:
            return rows
        if len(self.runs) == 1:
            return rows.to(torch.float32)
        parts = rows.split(self._widths(), dim=-1)
        return torch.cat(
            [
                # Cloned, as four bytes are read as one number only from where such numbers lie.
                part.to(torch.float32)
                if are_bytes
                else part.clone(memory_format=torch.contiguous_format).view(torch.float32)
                for (are_bytes, _), part in zip(self.runs, parts, strict=True)
            ],
            dim=-1,
        )

    def floats(self, rows: np.ndarray) -> np.ndarray:
        """The features of rows (B, W) that may be nan or inf, shape (B, F), float32."""
        if not self.has_bytes:
            return rows
        starts = np.cumsum([0, *self._widths()])
        parts = [
            np.ascontiguousarray(rows[:, start : start + 4 * count]).view(np.float32)
            for (are_bytes, count), start in zip(self.runs, starts, strict=False)
            if not are_bytes
        ]
        return np.concatenate([np.zeros((len(rows), 0), np.float32), *parts], axis=1)

    def _widths(self) -> list[int]:
        """Bytes of each run."""
        return [count if are_bytes else 4 * count for are_bytes, count in self.runs]


def join_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows, shape (B, W), of the features of an observation's parts, each (B, d).

    Parts are uint8 or float32; see `is_bytes`.
    """
    if any(part.dtype == np.uint8 for part in parts):
        parts = [np.ascontiguousarray(part).view(np.uint8) for part in parts]
    return np.concatenate(parts, axis=1)


def row_format(space: gym.Space[Any]) -> RowFormat:
    """The format of a space's rows; its parts are supported."""
    leaves = [(is_bytes(part), spaces.flatdim(part)) for part in leaves_of(space)]
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
    return isinstance(space, spaces.Box) and space.dtype == np.uint8
