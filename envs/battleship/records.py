"""The memory layout of the simulator, and what numbers stand for."""

import numpy as np

EPISODE = np.dtype(
    [
        ("base_seed", "u8"),
        ("episode", "i8"),
        ("step", "i8"),
        ("reward", "f8"),
        ("hits", "i4"),
        ("misses", "i4"),
        ("afloat", "i4"),
        ("sunk_length", "i8"),
        ("hit", "?"),
        ("repeated", "?"),
    ]
)
"""One game: its seed, how far it is, and what came of the last shot."""

UNKNOWN, MISS, HIT, SUNK = range(4)
"""What is known of a cell. HIT: of a ship that is not known to be sunk."""

WATER = -1
"""Where there is no ship."""

SCORE, SHOTS, HITS = range(3)
"""Rewards by number, in the order of `BattleshipConfig.reward`."""
