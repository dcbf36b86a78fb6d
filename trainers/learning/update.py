"""One iteration's learning: from a grouped rollout to better weights, and what it was like.

Shapes: M steps that take part.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.objectives import (
    Surrogate,
    estimate_kl,
    log_ratios,
    policy_objective,
)
from grpo_gym.trainers.learning.training_batch import TrainingBatch, minibatches, turned
from grpo_gym.trainers.learning.trust_region import trust_region_step


@dataclass(frozen=True)
class UpdateStats:
    """What an update was like; means over the minibatches of its last pass unless said.

    Attributes:
        loss: What was minimised.
        kl: Exact KL(old, new), nats a step; this and the next two before each minibatch's step.
        reference_kl: Exact KL(new, reference), nats a step; 0 without a reference.
        entropy: Of the policy, nats a step.
        clip_low_share: Share of steps cut off by the lower bound, over all passes.
        clip_high_share: Share of steps cut off by the upper bound, over all passes.
        gradient_norm: Before clipping, over all passes.
        advantage_mean: Over steps that take part.
        advantage_std: Over steps that take part.
        epochs: Passes made; fewer than asked for when `target_kl` stopped them.
        learning_rate: In use.
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
    """Improve the policy in several passes over a batch.

    Args:
        policy: Updated in place.
        optimizer: Of the policy's parameters.
        batch: The steps to learn from.
        reference: The policy to stay close to, or None.
        config: The settings.
        generator: Decides the minibatches.

    Returns:
        None if the batch is empty.

    Raises:
        FloatingPointError: If the gradient is not finite; the policy is as before that step.
    """
    if len(batch) == 0:
        return None
    parts = []
    for _ in range(config.epochs):
        latest = []
        for minibatch in minibatches(batch, config, generator):
            if config.augment_symmetries:
                number = int(torch.randint(len(policy.symmetries), (), generator=generator))
                minibatch = turned(minibatch, policy.symmetries[number])
            latest.append(_update_minibatch(policy, optimizer, minibatch, reference, config))
        parts.append(torch.stack(latest).mean(dim=0))
        if config.target_kl is not None and float(parts[-1][1]) > config.target_kl:
            break
    last, overall = parts[-1].tolist(), torch.stack(parts).mean(dim=0).tolist()
    return UpdateStats(
        loss=last[0],
        kl=last[1],
        reference_kl=last[2],
        entropy=last[3],
        clip_low_share=overall[4],
        clip_high_share=overall[5],
        gradient_norm=overall[6],
        advantage_mean=float(batch.advantages.mean()),
        advantage_std=float(batch.advantages.std(correction=0)),
        epochs=len(parts),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
    )


def update_in_trust_region(
    policy: Policy, batch: TrainingBatch, reference: Policy | None, config: GRPOConfig
) -> UpdateStats | None:
    """Improve the policy by one natural-gradient step of bounded KL(old, new).

    Args:
        policy: Updated in place.
        batch: The steps to learn from.
        reference: The policy to stay close to, or None.
        config: The settings.

    Returns:
        None if the batch is empty; `epochs` is 0 if no step was an improvement.

    Raises:
        FloatingPointError: If the gradient is not finite; the policy is as before.
    """
    if len(batch) == 0:
        return None
    old = policy.distribution(batch.old_outputs, batch.action_masks)
    unclipped = replace(config, objective="unclipped", dual_clip=None)

    def surrogate() -> Tensor:
        return -_loss(policy, batch, reference, unclipped).loss

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
        after = _loss(policy, batch, reference, unclipped)
    return UpdateStats(
        loss=float(after.loss),
        kl=step.kl,
        reference_kl=float(after.reference_kl),
        entropy=float(after.entropy),
        clip_low_share=0.0,
        clip_high_share=0.0,
        gradient_norm=step.gradient_norm,
        advantage_mean=float(batch.advantages.mean()),
        advantage_std=float(batch.advantages.std(correction=0)),
        epochs=int(step.accepted),
        learning_rate=step.step_scale,
    )


@dataclass(frozen=True)
class _Loss:
    """The loss of some steps, and what it is made of."""

    loss: Tensor
    kl: Tensor
    reference_kl: Tensor
    entropy: Tensor
    surrogate: Surrogate


def _loss(
    policy: Policy, batch: TrainingBatch, reference: Policy | None, config: GRPOConfig
) -> _Loss:
    """What is to be minimised; the statistics are means over the steps, detached."""
    distribution = policy.distribution(policy(batch.observations), batch.action_masks)
    log_probs = distribution.log_prob(batch.actions)
    surrogate = policy_objective(
        config.objective,
        log_ratios(log_probs, batch.old_log_probs, batch.sequences, config.ratio),
        log_probs,
        batch.advantages,
        config.clip_low,
        config.clip_high,
        config.dual_clip,
    )
    entropy = distribution.entropy()
    objective = surrogate.objective + config.entropy_coefficient * entropy
    reference_kl = torch.zeros(())
    if config.kl_coefficient > 0.0:
        with torch.no_grad():
            outputs = batch.old_outputs if reference is None else reference(batch.observations)
            anchor = policy.distribution(outputs, batch.action_masks)
        if config.kl_estimator == "exact":
            divergence = distribution.kl(anchor)
        else:
            anchor_log_probs = anchor.log_prob(batch.actions)
            divergence = estimate_kl(log_probs, anchor_log_probs, config.kl_estimator)
        objective = objective - config.kl_coefficient * divergence
        reference_kl = divergence.detach().mean()
    with torch.no_grad():
        old = policy.distribution(batch.old_outputs, batch.action_masks)
        kl = old.kl(distribution).mean()
    return _Loss(
        -(batch.weights * objective).sum(), kl, reference_kl, entropy.detach().mean(), surrogate
    )


def _update_minibatch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
) -> Tensor:
    """One gradient step; returns loss, KLs, entropy, clipped shares and gradient norm, (7,)."""
    parts = _loss(policy, batch, reference, config)
    optimizer.zero_grad(set_to_none=True)
    parts.loss.backward()
    gradient_norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    if not bool(torch.isfinite(gradient_norm)):
        raise FloatingPointError(
            f"the gradient is not finite ({float(gradient_norm)}): look for unbounded rewards or "
            "observations, or lower learning_rate"
        )
    optimizer.step()
    return torch.stack(
        [
            parts.loss.detach(),
            parts.kl,
            parts.reference_kl,
            parts.entropy,
            parts.surrogate.clipped_low.to(torch.float32).mean(),
            parts.surrogate.clipped_high.to(torch.float32).mean(),
            gradient_norm,
        ]
    )
