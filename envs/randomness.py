"""Random numbers of simulators: number i of stream s is a pure function of (seed, s, i).

Seeds come from what users pass to `reset`.

Shapes: B environments.
"""

from collections.abc import Sequence

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.settings import ConfigError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inlined
def mix(value: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64; Steele, Lea and Flood, OOPSLA 2014)."""
    value = np.uint64(value)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inlined
def stream_key(seed: np.uint64, stream: int) -> np.uint64:
    """The key of a stream of random numbers of the trace with this seed."""
    return mix(np.uint64(seed) + _GOLDEN * np.uint64(2 * stream + 1))


@inlined
def uniform(key: np.uint64, index: int) -> float:
    """Number `index` of a stream, uniform in (0, 1]: its logarithm is finite."""
    bits = mix(key + _GOLDEN * np.uint64(index + 1)) >> np.uint64(11)
    return (np.float64(bits) + 1.0) * 1.1102230246251565e-16


@kernel
def episode_seeds(base_seeds: np.ndarray, episodes: np.ndarray, out: np.ndarray) -> None:
    """The seed of each environment's episode, from the environment's seed and its episode count.

    Args:
        base_seeds: Seeds from `reset(seed=...)`, shape (B,), uint64.
        episodes: Episodes since then, shape (B,), int64.
        out: Written, shape (B,), uint64.
    """
    for b in range(base_seeds.shape[0]):
        out[b] = mix(mix(base_seeds[b] + _GOLDEN) + np.uint64(episodes[b]))


@kernel
def episode_noise(episodes: np.ndarray, salt: np.uint64, out: np.ndarray) -> None:
    """Uniforms in (0, 1] that depend only on each environment's seed, episode and step.

    Args:
        episodes: `EPISODE` records, shape (B,).
        salt: Separates the numbers of different users.
        out: Written, shape (B, M), float64.
    """
    for b in range(out.shape[0]):
        episode = episodes[b]
        key = mix(mix(episode.base_seed ^ mix(salt)) + np.uint64(episode.episode))
        key = mix(key + np.uint64(episode.step))
        for i in range(out.shape[1]):
            out[b, i] = uniform(key, i)


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
