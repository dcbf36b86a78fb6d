"""Rotations and reflections of boards, as permutations of observations and actions.

Shapes: M steps, C channels, H rows, W columns, A = H * W cells, D = C * A numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Symmetry:
    """A rotation or reflection of a board.

    Attributes:
        observations: Source of each feature of the transformed observation, shape (D,), int64.
        cells: Source of each cell of the transformed board, shape (A,), int64.
        moved: Destination of each cell, shape (A,), int64.
    """

    observations: Tensor
    cells: Tensor
    moved: Tensor


def board_symmetries(shape: tuple[int, int, int]) -> list[Symmetry]:
    """All symmetries of boards of a shape (C, H, W), the identity first: 8, or 4 if not square."""
    channels, rows, columns = shape
    board = torch.arange(rows * columns).reshape(rows, columns)
    turns = range(4) if rows == columns else (0, 2)
    symmetries = []
    for mirror in (False, True):
        for turn in turns:
            turned = torch.rot90(board.flip(1) if mirror else board, turn).reshape(-1)
            offsets = torch.arange(channels)[:, None] * rows * columns
            symmetries.append(Symmetry((offsets + turned).reshape(-1), turned, turned.argsort()))
    return symmetries
