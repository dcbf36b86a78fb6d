"""Rules that look at no server: at random, or in turn.

Shapes: B environments, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.load_balancer.routers.router import Memory, Router

_DIGITS = 12
"""Decimal digits of the largest weight. Sums of 128 such weights times 400,000 fit in 64 bits."""


def whole_weights(weights: np.ndarray) -> np.ndarray:
    """Weights in proportion as whole numbers, shape (B, N), int64.

    Sums of whole numbers are exact, so equal weights stay equal: 0.1, 0.1 and 0.1 take turns.
    """
    places = _DIGITS - np.ceil(np.log10(weights.max(axis=1, keepdims=True)))
    return np.rint(weights * 10.0**places).astype(np.int64)


def smooth_turn(
    credit: np.ndarray, weights: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take a turn of smooth weighted round robin.

    Each server earns its weight, and the one with the most pays what all have earned.

    Args:
        credit: Balance of each server, shape (B, N), int64.
        weights: Whole numbers, shape (B, N), int64.
        among: Which servers take part, shape (B, N), bool.

    Returns:
        The servers, shape (B,); of several the first. And the new balances.

    Source: NGINX, `ngx_http_upstream_round_robin.c`.
    """
    earned = np.where(among, weights, 0)
    credit = credit + earned
    servers = np.where(among, credit, np.iinfo(np.int64).min).argmax(axis=1)
    credit[np.arange(len(servers)), servers] -= earned.sum(axis=1)
    return servers, credit


class Random(Router):
    """A server at random."""

    name = "random"

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        noise = self._noise(self.present.shape[1])
        return np.where(self.present, noise, 0.0).argmax(axis=1), memory


class WeightedRandom(Router):
    """A server at random, with probabilities proportional to the configured weights."""

    name = "weighted_random"

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        edges = np.cumsum(self.weights, axis=1) / self.weights.sum(axis=1, keepdims=True)
        edges[edges == edges[:, -1:]] = 1.0  # exactly, also with rounding errors
        return (edges < self._noise(1)).sum(axis=1), memory


class RoundRobin(Router):
    """Each server in turn."""

    name = "round_robin"

    @override
    def memory(self) -> Memory:
        return (np.zeros(self.simulator.num_envs, np.int64),)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        (turn,) = memory
        servers = self.present.shape[1]
        steps = (np.arange(servers) - turn[:, None]) % servers
        actions = np.where(self.present, steps, servers).argmin(axis=1)
        return actions, (actions + 1,)


class WeightedRoundRobin(Router):
    """Each server in proportion to its weight, evenly spread: NGINX's smooth round robin."""

    name = "weighted_round_robin"

    @override
    def memory(self) -> Memory:
        return (np.zeros(self.weights.shape, np.int64),)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        (credit,) = memory
        actions, credit = smooth_turn(credit, whole_weights(self.weights), self.present)
        return actions, (credit,)
