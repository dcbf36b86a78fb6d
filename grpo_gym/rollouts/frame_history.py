"""The last few observations side by side, so that a policy can see changes.

Shapes: B environments, D features, H frames remembered.
"""

import numpy as np


def stack_frames(
    frames: np.ndarray | None, observations: np.ndarray, starts: np.ndarray | None, length: int
) -> np.ndarray:
    """Add the newest observations to each environment's history.

    Args:
        frames: Histories that the last call returned, shape (B, H, D), float32; None at first.
        observations: The newest, shape (B, D), float32.
        starts: Environments whose episode begins, shape (B,), bool: their history is the newest
            observation, repeated. None: none of them.
        length: H.

    Returns:
        Shape (B, H, D), float32, oldest first.
    """
    newest = observations[:, None, :]
    if frames is None or length == 1:
        return np.repeat(newest, length, axis=1)
    stacked = np.concatenate([frames[:, 1:], newest], axis=1)
    if starts is not None:
        stacked[starts] = newest[starts]
    return stacked


def as_features(frames: np.ndarray) -> np.ndarray:
    """Flatten histories (B, H, D) to rows of features, shape (B, H * D)."""
    return frames.reshape(len(frames), -1)
