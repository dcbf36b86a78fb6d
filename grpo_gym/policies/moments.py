"""Running means and deviations as a kernel: one pass over the rows, and no memory on the way.

Shapes: M rows of D features.
"""

from pathlib import Path
from typing import Any

from grpo_gym.storage.compiled import compiled


def _add_rows(rows: Any, count: float, mean: Any, sum_of_squares: Any) -> float:
    """Add rows to the statistics of `count` others; returns how many there are then.

    Args:
        rows: Shape (M, D), float32 or float64.
        count: Rows so far.
        mean: Shape (D,), float64, changed.
        sum_of_squares: Of deviations from the mean, shape (D,), float64, changed.

    Source: Welford (1962).
    """
    for m in range(rows.shape[0]):
        count += 1.0
        share = 1.0 / count
        for d in range(rows.shape[1]):
            difference = rows[m, d] - mean[d]
            mean[d] += difference * share
            sum_of_squares[d] += difference * (rows[m, d] - mean[d])
    return count


add_rows = compiled(_add_rows, Path(__file__).resolve().parent, nogil=True)
