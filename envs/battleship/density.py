"""The number of placements of ships afloat that fit what has been seen, cell by cell.

Shapes: B games, A cells, S ships, L cells of the longest ship, W words of 64 cells.
"""

import numpy as np

from grpo_gym.envs.battleship.placements import Placements
from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN
from grpo_gym.envs.kernels import inlined, kernel

HIT_WEIGHT = 100.0
"""A placement that covers n open hits weighs this to the power of n."""


@kernel
def count_kernel(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    placements: Placements,
    known: np.ndarray,
    counts: np.ndarray,
    hit_counts: np.ndarray,
    hit_weights: np.ndarray,
) -> None:
    """Count the placements that cover each unknown cell; 0 for cells that are known.

    Ships that are known to be sunk do not count; where sinking is not announced, all ships do.

    The outputs have shape (B, A), float64: in `counts` the placements that fit and cover a cell,
    in `hit_counts` those that also cover an open hit, and in `hit_weights` the sum of their
    weights, 100 to the power of the open hits that each covers. `known` is working memory, shape
    (4, W), uint64; the other arrays are those of `BattleshipSimulator`.
    """
    rule = rules[0]
    cells, covered, closed = placements.cells, placements.covered, placements.closed
    for b in range(seen.shape[0]):
        sort_cells(seen[b], known)
        counts[b, :] = 0.0
        hit_counts[b, :] = 0.0
        hit_weights[b, :] = 0.0
        for ship in range(left.shape[1]):
            if rule.announce_sunk and left[b, ship] == 0:
                continue
            for placement in range(placements.first[ship], placements.first[ship + 1]):
                if not fits(placement, covered, closed, known, rule.allow_touch):
                    continue
                weight = 1.0
                for i in range(cells.shape[1]):
                    cell = cells[placement, i]
                    if cell >= 0 and seen[b, cell] == HIT:
                        weight *= HIT_WEIGHT
                for i in range(cells.shape[1]):
                    cell = cells[placement, i]
                    if cell >= 0 and seen[b, cell] == UNKNOWN:
                        counts[b, cell] += 1.0
                        if weight > 1.0:
                            hit_counts[b, cell] += 1.0
                            hit_weights[b, cell] += weight


@kernel
def sort_cells(seen: np.ndarray, known: np.ndarray) -> None:
    """Write the bits of one game's unknown, missed, hit and sunk cells, shape (4, W), uint64.

    The rows of `known` are UNKNOWN, MISS, HIT and SUNK.
    """
    known[:] = np.uint64(0)
    for cell in range(seen.shape[0]):
        known[seen[cell], cell // 64] |= np.uint64(1) << np.uint64(cell % 64)


@kernel
def fits(
    placement: int, covered: np.ndarray, closed: np.ndarray, known: np.ndarray, allow_touch: bool
) -> bool:
    """Whether a placement agrees with what the player knows, given by `sort_cells`.

    It covers no miss and no sunk ship. Where ships may not touch, there is also no sunk ship
    beside it, and no hit that it does not cover.
    """
    for word in range(known.shape[1]):
        own = covered[placement, word]
        if own & (known[MISS, word] | known[SUNK, word]):
            return False
        beside = closed[placement, word] & ~own
        if not allow_touch and beside & (known[SUNK, word] | known[HIT, word]):
            return False
    return True


@inlined
def all_hit(placement: int, covered: np.ndarray, known: np.ndarray) -> bool:
    """Whether a placement covers open hits only."""
    rest = np.uint64(0)
    for word in range(covered.shape[1]):
        rest |= covered[placement, word] & ~known[HIT, word]
    return rest == np.uint64(0)
