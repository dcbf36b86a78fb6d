"""Actions of a Box: from a policy's scale to the environment's.

Shapes: leading axes "..." are any batch; C dimensions of an action.
"""

from typing import Any

import gymnasium as gym
import numpy as np

_LARGEST_BOUND = 1e15


class BoxScale:
    """How a policy's actions become those of a Box.

    Bounded dimensions are scaled to [-1, 1]. A bound of 1e15 or more, or of the largest number that
    there is, is none. With one bound the range is 2 wide; without any it is [-1, 1].

    Attributes:
        low: Lowest actions, shape (C,).
        high: Highest actions, shape (C,).
        center: What 0 stands for, shape (C,).
        half_width: What 1 adds to it, shape (C,).
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        """Find the ranges of a space."""
        self._shape = space.shape
        self._dtype = space.dtype
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        self.low, self.high = low, high
        kind: Any = low.dtype
        largest = min(_LARGEST_BOUND, float(np.finfo(kind).max))
        if kind == np.float16:  # whose ranges would overflow
            low, high = low.astype(np.float32), high.astype(np.float32)
        has_low, has_high = np.abs(low) < largest, np.abs(high) < largest
        lower = np.where(has_low, low, np.where(has_high, high - 2.0, -1.0))
        upper = np.where(has_high, high, np.where(has_low, low + 2.0, 1.0))
        self.center = 0.5 * (lower + upper)
        self.half_width = 0.5 * (upper - lower)

    def scaled(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., C) in the units of the environment, before they are clipped."""
        found: np.ndarray = actions * self.half_width + self.center
        return found

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., C) as the environment takes them, inside its bounds."""
        clipped = np.clip(self.scaled(actions), self.low, self.high).astype(self._dtype)
        return clipped.reshape(*clipped.shape[:-1], *self._shape)
