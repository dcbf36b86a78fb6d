"""Seeds of native environments, from what users pass to `reset`."""

from collections.abc import Sequence

import numpy as np

from grpo_gym.settings import ConfigError


def fold_seed(seed: int) -> int:
    """Fold a non-negative seed of any size into 64 bits, so that every bit counts."""
    folded = 0
    while seed:
        folded ^= seed & (2**64 - 1)
        seed >>= 64
    return folded


def seed_list(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed or None per environment: s gives environment i the seed s + i.

    Raises:
        ConfigError: If there are not `num_envs` seeds, or one is not an integer >= 0.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        seeds: list[int | None] = [int(seed) + b for b in range(num_envs)]
    else:
        seeds = list(seed) if isinstance(seed, (Sequence, np.ndarray)) else [-1]
        if len(seeds) != num_envs:
            raise ConfigError(f"seed must be one number or {num_envs}, got {seed!r}")
    for one in seeds:
        if one is not None and (not isinstance(one, (int, np.integer)) or one < 0):
            raise ConfigError(f"seed must be an integer >= 0, got {seed!r}")
    return [None if one is None else int(one) for one in seeds]
