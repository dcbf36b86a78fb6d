"""Seeds as environments of ours take them."""

from collections.abc import Sequence

import numpy as np

from grpo_gym.settings import ConfigError


def fold_seed(seed: int) -> int:
    """Any non-negative seed as 64 bits, without losing the upper ones."""
    folded = 0
    while seed:
        folded ^= seed & (2**64 - 1)
        seed >>= 64
    return folded


def seed_list(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed or None for each environment.

    Raises:
        ConfigError: If they are not that many, or one of them is no integer >= 0.
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
