"""How many placements of the ships afloat fit what has been seen, cell by cell.

Shapes: B games, A cells, S ships, P placements, L cells of the longest ship, W words of 64 cells.
"""

import numpy as np

from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN
from grpo_gym.envs.kernels import kernel

HIT_WEIGHT = 100.0
"""A placement that covers n open hits weighs this to the power of n."""
_ONE = np.uint64(1)


@kernel
def count_kernel(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    first: np.ndarray,
    cells: np.ndarray,
    covered: np.ndarray,
    closed: np.ndarray,
    known: np.ndarray,
    counts: np.ndarray,
    hit_counts: np.ndarray,
    hit_weights: np.ndarray,
) -> None:
    """Count the placements that cover each unknown cell.

    A placement fits if it covers no miss and no sunk ship, and where ships may not touch, if it
    lies beside no sunk ship and no hit that it does not cover.

    Args:
        rules: One `RULES` record, shape (1,).
        seen: What is known of each cell, shape (B, A), int8.
        left: Cells of each ship not hit yet, shape (B, S), int8.
        first: Of `Placements`, as the next three.
        cells: Of each placement.
        covered: Bits of those cells.
        closed: Bits of cells that no other ship may cover.
        known: Scratch, shape (3, W), uint64.
        counts: Written: placements that cover a cell, over the ships afloat (all, where sunk ships
            are not announced), shape (B, A), float64; 0 for cells that are known.
        hit_counts: Written: those of them that cover an open hit, shape (B, A), float64.
        hit_weights: Written: the same, each weighing 100 to the power of the hits it covers.
    """
    rule = rules[0]
    for b in range(seen.shape[0]):
        bits_kernel(seen[b], known)
        counts[b, :] = 0.0
        hit_counts[b, :] = 0.0
        hit_weights[b, :] = 0.0
        for ship in range(left.shape[1]):
            if rule.announce_sunk and left[b, ship] == 0:
                continue
            for placement in range(first[ship], first[ship + 1]):
                if not fits_kernel(placement, covered, closed, known, rule.allow_touch):
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
def bits_kernel(seen: np.ndarray, known: np.ndarray) -> None:
    """Misses, sunk cells and open hits of one game as bits: rows 0, 1 and 2."""
    known[:] = np.uint64(0)
    for cell in range(seen.shape[0]):
        bit = _ONE << np.uint64(cell % 64)
        if seen[cell] == MISS:
            known[0, cell // 64] |= bit
        elif seen[cell] == SUNK:
            known[1, cell // 64] |= bit
        elif seen[cell] == HIT:
            known[2, cell // 64] |= bit


@kernel
def fits_kernel(
    placement: int, covered: np.ndarray, closed: np.ndarray, known: np.ndarray, allow_touch: bool
) -> bool:
    """Whether a placement covers no miss and no sunk ship, nor lies beside what it may not."""
    for word in range(covered.shape[1]):
        own = covered[placement, word]
        if own & (known[0, word] | known[1, word]):
            return False
        beside = closed[placement, word] & ~own
        if not allow_touch and beside & (known[1, word] | known[2, word]):
            return False
    return True
