"""Observations: what the player knows, encoded for policies.

Shapes: B games, A cells, S ships, D observed numbers.
"""

import numpy as np

from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN
from grpo_gym.envs.kernels import kernel


def count_planes(config: BattleshipConfig) -> int:
    """Planes in the observation "planes": one per kind of cell, and one per length of ship."""
    return 4 + len(config.lengths) if config.announce_sunk else 3


def observation_shape(config: BattleshipConfig) -> tuple[int, ...]:
    """Shape of one observation."""
    rows, columns = config.board_size
    if config.observation == "compact":
        return (rows, columns)
    if config.observation == "flat":
        kinds = 4 if config.announce_sunk else 3
        return (kinds * config.cells + count_planes(config) - kinds,)
    density = 2 if config.observation == "planes_density" else 0
    return (count_planes(config) + density, rows, columns)


@kernel
def compact_kernel(seen: np.ndarray, out: np.ndarray) -> None:
    """Write 0 for unknown cells, -1 for misses and 1 for hits, shape (B, A), float32."""
    for b in range(seen.shape[0]):
        for cell in range(seen.shape[1]):
            kind = seen[b, cell]
            out[b, cell] = 0.0 if kind == UNKNOWN else -1.0 if kind == MISS else 1.0


@kernel
def planes_kernel(
    seen: np.ndarray, left: np.ndarray, length_of: np.ndarray, afloat_width: int, out: np.ndarray
) -> None:
    """Write one-hot planes of the kinds of cells, then the share of each length's ships afloat.

    Args:
        seen: What the player knows of each cell, shape (B, A), int8.
        left: Cells of each ship not yet hit, shape (B, S), int8.
        length_of: Index of each ship's length among the different lengths, shape (S,), int64; empty
            where sinking is not announced.
        afloat_width: How often each share is repeated: A times for a plane, or once.
        out: Output, filled from the front, shape (B, D), float32.
    """
    cells = seen.shape[1]
    kinds = SUNK + 1 if length_of.shape[0] > 0 else HIT + 1
    for b in range(seen.shape[0]):
        out[b, :] = 0.0
        for cell in range(cells):
            out[b, seen[b, cell] * cells + cell] = 1.0
        for ship in range(length_of.shape[0]):
            afloat, same = 0, 0
            for other in range(length_of.shape[0]):
                if length_of[other] == length_of[ship]:
                    same += 1
                    afloat += left[b, other] > 0
            begin = kinds * cells + length_of[ship] * afloat_width
            for i in range(afloat_width):
                out[b, begin + i] = afloat / same


@kernel
def relative_kernel(values: np.ndarray, out: np.ndarray) -> None:
    """Divide each row, shape (B, A), by its largest value; rows of zeros stay as they are."""
    for b in range(values.shape[0]):
        largest = 0.0
        for cell in range(values.shape[1]):
            largest = max(largest, values[b, cell])
        for cell in range(values.shape[1]):
            out[b, cell] = values[b, cell] / largest if largest > 0.0 else 0.0
