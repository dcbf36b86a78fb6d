"""The gradient of `linear`, `mlp` and `servers` with discrete actions, without autograd.

Shapes: B steps of a batch, M of a shard; D features; P logits, of C components; N numbers of the
policy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.policies.distributions import Categorical
from grpo_gym.policies.heads import CategoricalHead
from grpo_gym.policies.network import Policy
from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch
from grpo_gym.trainers.learning.fused import kernels
from grpo_gym.trainers.learning.fused.networks import (
    Network,
    as_views,
    has_network,
    make_network,
)
from grpo_gym.trainers.learning.gradients import EXTRA, ShardGradient

_ROWS_AT_ONCE = 4096
"""Few enough that what is computed of them on the way stays in a core's cache."""
_ALIGNMENT = 16


def is_covered(policy: Policy, parameters: Sequence[nn.Parameter], config: GRPOConfig) -> bool:
    """Whether `Fused` computes the gradient of a policy."""
    return (
        has_network(policy)
        and isinstance(policy.head, CategoricalHead)
        and not policy.rows.has_bytes  # their features take more memory than they do
        and len(parameters) == len(list(policy.parameters()))
        and config.ratio == "step"
        and not config.augment_symmetries
    )


class Fused(ShardGradient):
    """The gradient of a policy that `is_covered`."""

    def __init__(
        self,
        policy: Policy,
        batch: TrainingBatch,
        reference: Policy | None,
        config: GRPOConfig,
        weights: Tensor,
    ) -> None:
        """Pack the batch into one array, of which shards are gathered in one pass.

        Args:
            policy: That acted.
            batch: The steps.
            reference: The policy that the KL penalty stays close to; None: the policy that acted.
            config: The settings.
            weights: The policy's weights, shape (N,), as they will be when a gradient is asked for.
        """
        head = policy.head
        assert isinstance(head, CategoricalHead)
        parameters = list(policy.parameters())
        self._result = torch.empty(len(weights) + EXTRA)
        views = as_views(parameters, weights), as_views(parameters, self._result)
        self._network = make_network(policy, *views)
        penalised = config.kl_coefficient > 0.0
        anchor = reference if penalised else None
        self._packed, self._layout = _pack(policy, self._network, batch, anchor)
        self._starts = np.cumsum([0, *head.sizes])
        self._kinds = (
            kernels.OBJECTIVES.index(config.objective),
            kernels.KLS.index(config.kl_estimator if penalised else "none"),
        )
        dual_clip = math.inf if config.dual_clip is None else config.dual_clip
        low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
        coefficients = config.entropy_coefficient, config.kl_coefficient
        self._numbers = np.array([low, high, dual_clip, *coefficients], np.float32)
        self._extra = self._result[-EXTRA:].numpy()
        self._sums = np.empty(kernels.NUM_SUMS)
        self._shards: dict[int, _Shard] = {}

    def __call__(self, steps: Tensor, scale: float, symmetry: Symmetry | None) -> Tensor:
        """See `ShardGradient`; the next call overwrites the result."""
        del symmetry
        count = steps.shape[0]
        shard = self._shards.get(count)
        if shard is None:
            shard = self._shards[count] = self._prepare(count)
        torch.index_select(self._packed, 0, steps, out=shard.rows)
        logits = self._network.forward(shard.features).numpy()
        rows = shard.numbers, self._layout, self._starts
        choices = shard.shifted, shard.chances, shard.old_chances
        kernels.shift_logits(logits, *rows, shard.shifted)
        np.exp(shard.shifted, out=shard.chances)
        np.exp(shard.old_log_probs, out=shard.old_chances)
        kernels.differentiate_loss(
            *rows,
            np.float32(scale),
            *self._kinds,
            self._numbers,
            *choices,
            logits,
            self._sums,
        )
        self._network.backward(torch.from_numpy(logits))
        self._extra[:] = self._sums
        return self._result

    def _prepare(self, count: int) -> "_Shard":
        rows = torch.empty(count, self._packed.shape[1])
        old, choices = int(self._layout[kernels.OLD]), int(self._starts[-1])
        numbers = rows.numpy()
        return _Shard(
            rows,
            rows[:, : self._network.width],
            numbers,
            numbers[:, old : old + choices],
            *(np.empty((count, choices), np.float32) for _ in range(3)),
        )


@dataclass(frozen=True)
class _Shard:
    """Memory of shards of M steps.

    Attributes:
        rows: Of the packed batch.
        features: A view of it: what the network packed.
        numbers: The same as `rows`, for kernels.
        old_log_probs: Of all choices, a view of it, shape (M, P).
        shifted: Shape (M, P).
        chances: Shape (M, P).
        old_chances: Shape (M, P).
    """

    rows: Tensor
    features: Tensor
    numbers: np.ndarray
    old_log_probs: np.ndarray
    shifted: np.ndarray
    chances: np.ndarray
    old_chances: np.ndarray


@torch.no_grad()
def _pack(
    policy: Policy, network: Network, batch: TrainingBatch, reference: Policy | None
) -> tuple[Tensor, np.ndarray]:
    """All that a gradient needs of each step in a row, and where its parts begin: see `kernels`."""
    choices = policy.head.num_outputs
    widths = [network.width, choices, choices * (reference is not None)]
    widths += [policy.head.num_components, 3]
    layout = np.cumsum(widths)[:-1]
    if reference is None:  # the reference is the policy that acted
        layout[kernels.ANCHOR] = layout[kernels.OLD]
    packed = torch.empty(len(batch), -(-sum(widths) // _ALIGNMENT) * _ALIGNMENT)
    features, old, anchor, actions, step, _ = packed.split(
        [*widths, packed.shape[1] - sum(widths)], dim=1
    )
    for start in range(0, len(batch), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        observations = batch.observations[rows]
        masks = None if batch.action_masks is None else batch.action_masks[rows]
        features[rows] = network.pack(observations)
        old[rows] = _log_probs(policy, batch.old_outputs[rows], masks)
        if reference is not None:
            anchor[rows] = _log_probs(policy, reference(observations), masks)
    actions.copy_(batch.actions)
    for column, values in enumerate((batch.old_log_probs, batch.advantages, batch.weights)):
        step[:, column] = values
    return packed, layout


def _log_probs(policy: Policy, outputs: Tensor, masks: Tensor | None) -> Tensor:
    """Log-probabilities of all choices, shape (B, P)."""
    head, distribution = policy.head, policy.distribution(outputs, masks)
    assert isinstance(head, CategoricalHead)
    assert isinstance(distribution, Categorical)
    log_probs = distribution.log_probs
    return log_probs[:, head.legal] if head.padded else log_probs.flatten(1)
