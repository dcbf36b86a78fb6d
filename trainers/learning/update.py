"""The update of an iteration: minibatches of AdamW steps, or one trust-region step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch, minibatches, transformed
from grpo_gym.trainers.learning.loss import policy_loss
from grpo_gym.trainers.learning.trust_region import trust_region_step

_OVER_ALL_EPOCHS = ("clip_low_share", "clip_high_share", "gradient_norm")
"""Metrics that are means over all epochs; the others are means over the last one."""


@dataclass(frozen=True)
class UpdateStats:
    """Metrics of an update; means over the minibatches of its last epoch unless said.

    A metric that `policy_loss` adds needs a field here, and its line in docs/metrics.md.

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
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
    generator: torch.Generator,
) -> UpdateStats | None:
    """Improve the policy in several epochs over a batch, or by one trust-region step.

    Args:
        policy: Updated in place.
        optimizer: Of the policy's parameters; a trust region does without.
        batch: The steps to learn from.
        reference: The policy that the KL penalty stays close to, or None.
        config: The settings.
        generator: Draws the minibatches.

    Returns:
        None if the batch is empty.

    Raises:
        FloatingPointError: If the gradient is not finite, and the policy as before that step; or if
            the weights are not after the last one.
    """
    if len(batch) == 0:
        return None
    if config.update == "trust_region":
        return _update_in_trust_region(policy, batch, reference, config)
    epochs: list[Tensor] = []  # each (metrics,), means over its minibatches
    for _ in range(config.epochs):
        rows = []
        for minibatch in minibatches(batch, config, generator):
            if config.augment_symmetries:
                number = int(torch.randint(len(policy.symmetries), (), generator=generator))
                minibatch = transformed(minibatch, policy.symmetries[number])
            metrics = _update_minibatch(policy, optimizer, minibatch, reference, config)
            rows.append(torch.stack(list(metrics.values())))
        names = list(metrics)
        epochs.append(torch.stack(rows).mean(dim=0))
        kl = float(epochs[-1][names.index("kl")])
        if config.target_kl is not None and kl > config.target_kl:
            break
    if not all(bool(torch.isfinite(weights).all()) for weights in policy.parameters()):
        raise FloatingPointError(
            "the weights are not finite after an update: lower learning_rate, and resume from an "
            "earlier checkpoint"
        )
    last = dict(zip(names, epochs[-1].tolist(), strict=True))
    overall = dict(zip(names, torch.stack(epochs).mean(dim=0).tolist(), strict=True))
    return UpdateStats(
        **{**last, **{name: overall[name] for name in _OVER_ALL_EPOCHS}},
        **_advantage_moments(batch),
        epochs=len(epochs),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
    )


def _update_minibatch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
) -> dict[str, Tensor]:
    """One gradient step; returns its metrics."""
    loss = policy_loss(policy, batch, reference, config)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    gradient_norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    if not bool(torch.isfinite(gradient_norm)):
        raise FloatingPointError(
            f"the gradient is not finite ({float(gradient_norm)}): look for unbounded rewards or "
            "observations, or lower learning_rate"
        )
    optimizer.step()
    return {**loss.metrics, "gradient_norm": gradient_norm}


def _update_in_trust_region(
    policy: Policy, batch: TrainingBatch, reference: Policy | None, config: GRPOConfig
) -> UpdateStats:
    """Improve the policy by one natural-gradient step of bounded KL(old, new)."""
    old = policy.distribution(batch.old_outputs, batch.action_masks)
    unclipped = replace(config, objective="unclipped", dual_clip=None)

    def surrogate() -> Tensor:
        return -policy_loss(policy, batch, reference, unclipped).total

    def divergence() -> Tensor:
        return old.kl(policy.distribution(policy(batch.observations), batch.action_masks)).mean()

    step = trust_region_step(
        list(policy.parameters()),
        surrogate,
        divergence,
        max_kl=config.max_kl,
        damping=config.damping,
        conjugate_gradient_iterations=config.conjugate_gradient_iterations,
        backtracks=config.backtracks,
    )
    with torch.no_grad():
        metrics = policy_loss(policy, batch, reference, unclipped).metrics
    after = {name: float(value) for name, value in metrics.items()}
    return UpdateStats(
        **{**after, "kl": step.kl, "clip_low_share": 0.0, "clip_high_share": 0.0},
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
