"""What users ask a policy about, checked: observations and action masks from outside.

Shapes: B observations, W numbers of an observation's row (`rollouts.rows`), A choices.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.rollouts.returned import have_choice, is_one_mask, read_masks
from grpo_gym.rollouts.rows import row_format
from grpo_gym.rollouts.spaces import flatten_batch, flatten_one, is_batch, is_finite
from grpo_gym.settings import ConfigError


def features_of(space: gym.Space[Any], observation: Any) -> tuple[np.ndarray, bool]:
    """An observation, or a batch of them, as rows (B, W); and whether it is a batch.

    Raises:
        ConfigError: If one is not in the space, or not finite.
    """
    many = is_batch(space, observation)
    flatten = flatten_batch if many else flatten_one
    rows = np.ascontiguousarray(flatten(space, observation))
    features = row_format(space).floats(rows)
    if not is_finite(features):
        row, column = np.argwhere(~np.isfinite(features))[0]
        place = f"{f'observation {row}, ' if many else ''}feature {column}"
        raise ConfigError(
            f"observation must be finite, got {features[row, column]} ({place}): look at what "
            "measures it"
        )
    return rows, many


def masks_of(space: gym.Space[Any], masks: Any, count: int) -> np.ndarray:
    """Action masks as rows, shape (B, A), bool.

    Args:
        space: Of the actions.
        masks: One for all observations, or one for each, in the forms that `read_masks` knows.
        count: Number of observations, B.

    Raises:
        ConfigError: If one does not fit the space, or allows no action.
    """
    rows = read_masks(space, [masks] if is_one_mask(space, masks) else masks)
    if len(rows) not in (1, count):
        raise ConfigError(f"action_mask must be one, or one for each of {count}, got {len(rows)}")
    if not have_choice(space, rows).all():
        raise ConfigError("action_mask must allow an action, got none")
    return np.broadcast_to(rows, (count, rows.shape[1])).copy()
