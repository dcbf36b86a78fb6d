"""What this machine can do at most, and the share of it that training reaches."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from grpo_gym.trainers.experiments import shipped_settings
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.settings import new_model

_ROWS, _WIDTH = 3200, 64
"""A minibatch of the README's training, and the width of its layers."""
_COPIED_BYTES = 256 * 2**20
"""More than fits into caches."""


def measure_ceilings(seconds: float, repetitions: int) -> dict[str, Any]:
    """The README's training beside matrix products and copies, one after the other, on one thread.

    Args:
        seconds: Least duration of each measurement.
        repetitions: Measurements of each.

    Returns:
        Lists with one number for each repetition: `training`, environment steps/s; `product`,
        floating-point operations/s of 3200 x 64 by 64 x 64; `copy`, bytes/s that were copied.
        `operations_per_step`, and the median `share` of the products' rate that training's
        arithmetic reaches.
    """
    torch.set_num_threads(1)
    model = new_model(shipped_settings("LoadBalancer-v0"))
    model.train_iteration()
    rates: dict[str, list[float]] = {"training": [], "product": [], "copy": []}
    measurements = {"product": _products(), "training": _training(model), "copy": _copies()}
    for _ in range(repetitions):
        for name, measurement in measurements.items():
            rates[name].append(rate(measurement, seconds))
    operations = operations_per_step(model)
    shares = [
        steps * operations / product
        for steps, product in zip(rates["training"], rates["product"], strict=True)
    ]
    return {**rates, "operations_per_step": operations, "share": median(shares)}


def operations_per_step(model: GRPO) -> int:
    """Floating-point operations of the matrix products that one step of a training needs.

    Each weight of a layer takes a multiplication and an addition to act once, and in each epoch to
    act once more and twice in the backward pass. That overestimates by the gradient of the first
    layer's inputs, which nobody needs.

    Raises:
        ValueError: If the policy's layers do not each act once in a step.
    """
    if model.policy_source not in ("mlp", "linear"):
        raise ValueError(f"policy must be mlp or linear, got {model.policy_source!r}")
    layers = [each for each in model.policy.modules() if isinstance(each, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    return 2 * weights * (1 + 3 * model.config.epochs)


def rate(work: Callable[[], float], seconds: float) -> float:
    """What a work returns, per second, repeated for at least so long."""
    done, started = 0.0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        done += work()
    return done / elapsed


def _training(model: GRPO) -> Callable[[], float]:
    return lambda: float(model.train_iteration().rollout_steps)


def _products() -> Callable[[], float]:
    left, right = torch.randn(_ROWS, _WIDTH), torch.randn(_WIDTH, _WIDTH)
    out = torch.empty(_ROWS, _WIDTH)

    def work() -> float:
        for _ in range(100):
            torch.mm(left, right, out=out)
        return 100 * 2.0 * _ROWS * _WIDTH * _WIDTH

    return work


def _copies() -> Callable[[], float]:
    source, target = torch.ones(_COPIED_BYTES // 4), torch.empty(_COPIED_BYTES // 4)

    def work() -> float:
        target.copy_(source)
        return float(_COPIED_BYTES)

    return work
