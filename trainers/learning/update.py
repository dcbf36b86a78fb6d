"""The update of an iteration: minibatches of AdamW steps, or one trust-region step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.adamw import AdamW
from grpo_gym.trainers.learning.batch import Minibatch, TrainingBatch, minibatches
from grpo_gym.trainers.learning.fused import shard_gradient
from grpo_gym.trainers.learning.gradients import EXTRA, ShardGradient
from grpo_gym.trainers.learning.loss import SUMMED, policy_loss
from grpo_gym.trainers.learning.sharding import Shards
from grpo_gym.trainers.learning.trust_region import trust_region_step
from grpo_gym.trainers.learning.vectors import as_vector, assign, clip_norm
from grpo_gym.trainers.processes import ALONE, Processes

_METRICS = ("loss", *SUMMED, "gradient_norm")
_OVER_ALL_EPOCHS = ("clip_low_share", "clip_high_share", "gradient_norm")
"""Metrics that are means over all epochs; the others are means over the last one."""


@dataclass(frozen=True)
class UpdateStats:
    """Metrics of an update; means over the minibatches of its last epoch unless said.

    A sum that `policy_loss` adds needs a field here, and its line in docs/reference/metrics.md.

    Attributes:
        loss: The minimised loss.
        kl: Exact KL(old, new), nats per step; this and the next two before each minibatch's step.
        reference_kl: KL(new, reference) by `kl_estimator`, nats per step; 0 without a reference.
        entropy: Of the policy, nats per step.
        clip_low_share: Fraction of steps clipped at the lower bound, over all epochs.
        clip_high_share: Fraction of steps clipped at the upper bound, over all epochs.
        gradient_norm: Before clipping, over all epochs.
        advantage_mean: Over the steps of the batch.
        advantage_std: Over the steps of the batch.
        epochs: Epochs made; fewer than configured when `target_kl` stopped them, and 0 if a trust
            region found no improvement.
        learning_rate: In use; with a trust region the fraction of the full step.
    """

    loss: float
    kl: float
    reference_kl: float
    entropy: float
    clip_low_share: float
    clip_high_share: float
    gradient_norm: float
    advantage_mean: float
    advantage_std: float
    epochs: int
    learning_rate: float


def update_policy(
    policy: Policy,
    optimizer: AdamW,
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
    generator: torch.Generator,
    processes: Processes = ALONE,
) -> UpdateStats | None:
    """Improve the policy in several epochs over a batch, or by one trust-region step.

    Args:
        policy: Updated in place.
        optimizer: Of the policy's parameters; a trust region does without.
        batch: The steps to learn from.
        reference: The policy that the KL penalty stays close to, or None.
        config: The settings.
        generator: Draws the minibatches.
        processes: Who share the work; all of them bring the same batch and the same policy.

    Returns:
        None if the batch is empty.

    Raises:
        FloatingPointError: If the gradient is not finite, and the policy as before that step; or if
            the weights are not after the last one.
    """
    if len(batch) == 0:
        return None
    parameters = optimizer.trainable
    batch = batch.to(parameters[0].device)
    if config.update == "trust_region":
        return _update_in_trust_region(policy, parameters, batch, reference, config, processes)
    weights = as_vector(parameters)
    gradient_of = shard_gradient(policy, parameters, batch, reference, config, weights)
    epochs: list[Tensor] = []  # each (metrics,), means over its minibatches
    try:
        while len(epochs) < config.epochs and not _is_too_far(epochs, config):
            rows = []
            for minibatch in minibatches(batch, config, generator):
                symmetry = _draw_symmetry(policy, config, generator)
                gradient, metrics = _measure(gradient_of, minibatch, symmetry, weights, processes)
                norm = clip_norm(gradient, config.max_grad_norm)
                if not bool(torch.isfinite(norm)):
                    raise FloatingPointError(
                        f"the gradient is not finite ({float(norm)}): look for unbounded rewards "
                        "or observations, or lower learning_rate"
                    )
                optimizer.step(weights, gradient)
                rows.append(torch.cat([metrics, norm.reshape(1)]))
            epochs.append(torch.stack(rows).mean(dim=0))
    finally:
        assign(parameters, weights)
    if not bool(torch.isfinite(weights).all()):
        raise FloatingPointError(
            "the weights are not finite after an update: lower learning_rate, and resume from an "
            "earlier checkpoint"
        )
    last = dict(zip(_METRICS, epochs[-1].tolist(), strict=True))
    overall = dict(zip(_METRICS, torch.stack(epochs).mean(dim=0).tolist(), strict=True))
    return UpdateStats(
        **{**last, **{name: overall[name] for name in _OVER_ALL_EPOCHS}},
        **_advantage_moments(batch),
        epochs=len(epochs),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
    )


def _is_too_far(epochs: Sequence[Tensor], config: GRPOConfig) -> bool:
    """Whether the last epoch, if any, moved the policy farther than is allowed."""
    if config.target_kl is None or not epochs:
        return False
    return float(epochs[-1][_METRICS.index("kl")]) > config.target_kl


def _measure(
    gradient_of: ShardGradient,
    minibatch: Minibatch,
    symmetry: Symmetry | None,
    weights: Tensor,
    processes: Processes,
) -> tuple[Tensor, Tensor]:
    """A minibatch's gradient, shape (N,), and its loss with the means of `SUMMED`."""

    def part(number: int) -> Tensor:
        steps = minibatch.shards[number].to(weights.device)
        return gradient_of(steps, minibatch.scale, symmetry)

    shards = Shards(len(minibatch.shards), processes)
    total = shards.total(part, weights.new_empty(len(weights) + EXTRA))
    total[-len(SUMMED) :] /= len(minibatch)
    return total[:-EXTRA], total[-EXTRA:]


def _draw_symmetry(
    policy: Policy, config: GRPOConfig, generator: torch.Generator
) -> Symmetry | None:
    if not config.augment_symmetries:
        return None
    number = int(torch.randint(len(policy.symmetries), (), generator=generator))
    return policy.symmetries[number]


def _update_in_trust_region(
    policy: Policy,
    parameters: Sequence[nn.Parameter],
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
    processes: Processes,
) -> UpdateStats:
    """Improve the policy by one natural-gradient step of bounded KL(old, new)."""
    unclipped = replace(config, objective="unclipped", dual_clip=None)
    shards = Shards(min(config.gradient_shards, len(batch)), processes)
    parts = batch.cut(shards.count)

    def surrogate(shard: int) -> Tensor:
        return -policy_loss(policy, parts[shard], reference, unclipped).total

    def divergence(shard: int) -> Tensor:
        part = parts[shard]
        old = policy.distribution(part.old_outputs, part.action_masks)
        new = policy.distribution(policy(part.observations), part.action_masks)
        return old.kl(new).sum() / len(batch)

    step = trust_region_step(
        parameters,
        surrogate,
        divergence,
        shards=shards,
        max_kl=config.max_kl,
        damping=config.damping,
        conjugate_gradient_iterations=config.conjugate_gradient_iterations,
        backtracks=config.backtracks,
    )

    @torch.no_grad()
    def measured(shard: int) -> Tensor:
        loss = policy_loss(policy, parts[shard], reference, unclipped)
        return torch.stack([loss.total, *(loss.sums[name] / len(batch) for name in SUMMED)])

    after = shards.total(measured, as_vector(parameters).new_empty(EXTRA)).tolist()
    metrics = dict(zip(("loss", *SUMMED), after, strict=True))
    return UpdateStats(
        **{**metrics, "kl": step.kl, "clip_low_share": 0.0, "clip_high_share": 0.0},
        **_advantage_moments(batch),
        gradient_norm=step.gradient_norm,
        epochs=int(step.accepted),
        learning_rate=step.step_scale,
    )


def _advantage_moments(batch: TrainingBatch) -> dict[str, float]:
    return {
        "advantage_mean": float(batch.advantages.mean()),
        "advantage_std": float(batch.advantages.std(correction=0)),
    }
