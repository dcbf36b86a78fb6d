"""Rewards of a step, and a potential for reward shaping.

`chapter` is a weighted sum of four clipped components; `dollars` is the negative of costs and
penalties.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.records import CHAPTER
from grpo_gym.envs.kernels import inlined, kernel

_LATENCY_TARGET_MS = 200.0
_IDEAL_LOAD_PERCENT = 70.0


@inlined
def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@kernel
def cost_component(before: float, now: float, scale: float) -> float:
    """Reward savings, with a bonus for a low cost; in [-1, 1].

    Args:
        before: Cost in the step before, $/h.
        now: Cost in this step, $/h.
        scale: Unit of both, $/h.
    """
    bonus = 0.1 if now < 0.8 * scale else 0.0
    return _clip((before - now) / scale + bonus, -1.0, 1.0)


@kernel
def performance_component(p99_latency_ms: float, served_share: float) -> float:
    """Compare latency with 200 ms, and throughput with 90 % of the demand; in [-1, 0.5]."""
    latency = _clip(_LATENCY_TARGET_MS / p99_latency_ms - 1.0, -1.0, 0.5)
    throughput = _clip(served_share - 0.9, -1.0, 0.5)
    return 0.5 * (latency + throughput)


@kernel
def reliability_component(error_percent: float) -> float:
    """Penalise errors beyond 0.1 %, exponentially and linearly; in [-2, 0.5]."""
    excess = error_percent - 0.1
    if excess <= 0.0:
        return 0.5
    # The sum is clipped long before the exponent is.
    errors = 1.0 - math.exp(min(excess, 10.0))
    return _clip(0.5 * (errors - 10.0 * excess / 100.0), -2.0, 1.0)


@kernel
def efficiency_component(cpu_percent: float, memory_percent: float) -> float:
    """Reward a mean load near 70 % (a bell of width 20), less when idle or full; in [-0.5, 1]."""
    load = 0.5 * (cpu_percent + memory_percent)
    bell = math.exp(-0.5 * ((load - _IDEAL_LOAD_PERCENT) / 20.0) ** 2)
    if load < 30.0:
        bell -= 0.3
    elif load > 90.0:
        bell -= 0.5
    return _clip(bell, -1.0, 1.0)


@inlined
def reward_step(before: float, cluster: Any, metrics: Any, outcome: Any, p: Any) -> None:
    """Write the reward of a step and its components; `before` is the last step's cost, $/h."""
    answered = outcome.served + outcome.overflow
    served_share = answered / outcome.arrivals if outcome.arrivals > 0.0 else 1.0
    outcome.reward_cost = cost_component(
        before, cluster.dollars_per_hour, p.cost_scale_dollars_per_hour
    )
    outcome.reward_performance = performance_component(metrics.p99_latency_ms, served_share)
    outcome.reward_reliability = reliability_component(metrics.error_percent)
    outcome.reward_efficiency = efficiency_component(metrics.cpu_percent, metrics.memory_percent)
    if p.reward != CHAPTER:
        outcome.reward = -outcome.cost_dollars - outcome.penalty_dollars
        return
    weights = p.reward_weights
    outcome.reward = (
        weights[0] * outcome.reward_cost
        + weights[1] * outcome.reward_performance
        + weights[2] * outcome.reward_reliability
        + weights[3] * outcome.reward_efficiency
    )


def potential(observation: Any, infos: Mapping[str, Any]) -> np.ndarray:
    """Compute the potential of a state, for `grpo_gym.envs.wrappers`.

    Args:
        observation: Ignored.
        infos: Infos of a step or reset, with `p99_latency_ms`, `error_percent`, `cpu_percent` and
            `memory_percent`, each a number or of shape (B,).

    Returns:
        -p99 / 1000 ms - 10 times the errors in per cent - |mean load - 70 %| / 100, float64, of
        the same shape.
    """
    load = 0.5 * (np.asarray(infos["cpu_percent"]) + np.asarray(infos["memory_percent"]))
    latency, errors = np.asarray(infos["p99_latency_ms"]), np.asarray(infos["error_percent"])
    value: np.ndarray = -latency / 1000.0 - 10.0 * errors
    return value - np.abs(load - _IDEAL_LOAD_PERCENT) / 100.0
