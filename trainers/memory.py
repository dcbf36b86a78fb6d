"""What a training will need of memory, estimated before it is asked for.

Shapes: T steps, B environments, D features, P distribution parameters, C action components, A
choices.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from grpo_gym.policies.network import Policy
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.settings.memory import check_memory
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import longest_episode

_COPIES_OF_WEIGHTS = 6
"""Weights, gradients, AdamW's two averages, and what orthogonal initial weights take on the way."""
_COPIES_OF_STEPS = 3
"""The steps as they are collected, stacked, and sorted into a batch to learn from."""
_BYTES_OF_FEATURES = 20
"""Features as float32, with the integers that tell states apart."""
_BYTES_OF_KEPT = 8
"""What layers keep for a backward pass, with its gradients."""
_SEPARATE_ENV_BYTES = 20_000
"""A small Gymnasium environment with its wrappers, such as CartPole-v1."""
_WORKER_BYTES = 50_000_000
"""A worker with Gymnasium, and without what its environments import."""
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}


class NetworkMemory(TorchFunctionMode):
    """While it is active, a network that would not fit into memory is refused as it is made."""

    def __init__(self, name: str) -> None:
        """Start to count; `name` says in the error what is made."""
        super().__init__()
        self._name = name
        self._numbers = 0

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _FACTORIES:
            self._numbers += math.prod(_sizes(args, kwargs or {}))
            _check_weights(self._numbers, self._name)
        return func(*args, **(kwargs or {}))


def check_widths(config: GRPOConfig) -> None:
    """Refuse layers that would not fit into memory before their weights are drawn, which is slow.

    Raises:
        ConfigError: If they would not.
    """
    weights = sum(before * after for before, after in pairwise((1, *config.hidden_sizes)))
    _check_weights(weights, f"hidden_sizes {list(config.hidden_sizes)}")


def _check_weights(count: int, name: str) -> None:
    check_memory(
        4.0 * _COPIES_OF_WEIGHTS * count,
        f"{name} with at least {float(count):.1e} weights",
        "make its layers narrower",
    )


def _sizes(args: Any, kwargs: Any) -> list[int]:
    sizes = kwargs.get("size", args)
    return list(sizes[0]) if sizes and isinstance(sizes[0], Iterable) else list(sizes)


def check_rollout(batch: EnvBatch, policy: Policy, config: GRPOConfig) -> None:
    """Refuse an iteration whose steps would not fit into memory.

    Args:
        batch: Any number of the environments.
        policy: Chooses actions.
        config: The settings.

    Raises:
        ConfigError: If they would not.
    """
    head = policy.head
    # Outputs are float32, actions int64, rewards float64; flags and masks bytes.
    observation = policy.frame_history * policy.rows.num_bytes
    of_step = observation + 4 * (head.num_outputs + 1) + 8 * (head.num_components + 1)
    of_step += 2 + head.num_outputs
    limits = [longest_episode(batch), config.max_episode_steps]
    steps = min((limit for limit in limits if limit is not None), default=1)
    num_steps = steps * config.num_envs
    needed = float(_COPIES_OF_STEPS * of_step * num_steps)
    if policy.rows.has_bytes:
        read = policy.observation_size * (config.learned_baseline or config.bins_states)
        read += policy.state_size * config.fits_states
        needed += float(_BYTES_OF_FEATURES * read * num_steps)
    needed += float(_BYTES_OF_KEPT * policy.numbers_kept(_rows_at_once(num_steps, config)))
    if isinstance(batch, SeparateBatch):
        needed += _SEPARATE_ENV_BYTES * config.num_envs + _WORKER_BYTES * config.workers
    check_memory(
        needed,
        f"num_groups {config.num_groups:,} x group_size {config.group_size:,} x {steps:,} steps",
        "lower num_groups or group_size, or limit max_episode_steps",
    )


def _rows_at_once(num_steps: int, config: GRPOConfig) -> int:
    """Steps that one gradient is computed from."""
    if config.update == "trust_region":
        return num_steps
    return min(num_steps // config.num_minibatches + 1, config.minibatch_size or num_steps)
