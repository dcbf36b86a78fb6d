"""The gradient of a shard's loss, and what metrics are made of.

Shapes: N trainable numbers of the policy, as one vector.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch, transformed
from grpo_gym.trainers.learning.loss import SUMMED, policy_loss
from grpo_gym.trainers.learning.vectors import assign

EXTRA = 1 + len(SUMMED)
"""Numbers after a gradient: the loss, and sums over the steps."""


class ShardGradient(Protocol):
    """Differentiates the loss of some steps of a batch at weights that change between calls."""

    def __call__(self, steps: Tensor, scale: float, symmetry: Symmetry | None) -> Tensor:
        """Gradient, loss and sums over the steps in one vector, shape (N + EXTRA,).

        Args:
            steps: Indices of steps in the batch, int64, at least one.
            scale: What their weights are multiplied by.
            symmetry: The rotated or mirrored board that they are seen on, or None.
        """


class Autograd(ShardGradient):
    """The gradient of any policy."""

    def __init__(
        self,
        policy: Policy,
        parameters: Sequence[nn.Parameter],
        batch: TrainingBatch,
        reference: Policy | None,
        config: GRPOConfig,
        weights: Tensor,
    ) -> None:
        """Hold what the loss depends on.

        Args:
            policy: Whose loss is differentiated; `__call__` gives it the weights.
            parameters: Those of it that are trained.
            batch: The steps.
            reference: The policy that the KL penalty stays close to; None: the policy that acted.
            config: The settings.
            weights: The parameters as one vector, shape (N,).
        """
        self._policy, self._parameters = policy, parameters
        self._batch, self._reference, self._config = batch, reference, config
        self._weights = weights

    def __call__(self, steps: Tensor, scale: float, symmetry: Symmetry | None) -> Tensor:
        """See `ShardGradient`."""
        assign(self._parameters, self._weights)
        shard = self._batch.take(steps, scale)
        if symmetry is not None:
            shard = transformed(shard, symmetry)
        loss = policy_loss(self._policy, shard, self._reference, self._config)
        gradients = torch.autograd.grad(loss.total, self._parameters, materialize_grads=True)
        numbers = torch.stack([loss.total.detach(), *(loss.sums[name] for name in SUMMED)])
        return torch.cat([*(gradient.reshape(-1) for gradient in gradients), numbers])
