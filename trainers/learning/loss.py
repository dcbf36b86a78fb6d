"""The loss of a minibatch: surrogate, entropy bonus and KL penalty. The formulas: objectives.py.

Shapes: M steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_gym.policies.network import Policy
from grpo_gym.trainers.config import UpdateConfig
from grpo_gym.trainers.learning.batch import TrainingBatch
from grpo_gym.trainers.learning.objectives import estimate_kl, log_ratios, policy_objective

SUMMED = ("kl", "reference_kl", "entropy", "clip_low_share", "clip_high_share")
"""What is summed over steps beside the loss."""


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of M steps, and what metrics are made of.

    Attributes:
        total: To be minimised, scalar with a graph.
        sums: Detached sums over the steps, by the name of their mean in `UpdateStats`.
    """

    total: Tensor
    sums: dict[str, Tensor]


def policy_loss(
    policy: Policy, batch: TrainingBatch, reference: Policy | None, config: UpdateConfig
) -> PolicyLoss:
    """Minus the weighted sum over steps of surrogate + entropy bonus - KL penalty.

    Args:
        policy: The policy being updated.
        batch: The steps, with their weights.
        reference: The policy that the KL penalty stays close to; None: the policy that collected.
        config: The settings.
    """
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
    reference_kl = torch.zeros((), device=log_probs.device)
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
        reference_kl = divergence.detach().sum()
    total = -(batch.weights * objective).sum()
    with torch.no_grad():
        old = policy.distribution(batch.old_outputs, batch.action_masks)
        sums = {
            "kl": old.kl(distribution).sum(),
            "reference_kl": reference_kl,
            "entropy": entropy.detach().sum(),
            "clip_low_share": surrogate.clipped_low.sum(),
            "clip_high_share": surrogate.clipped_high.sum(),
        }
    return PolicyLoss(total, sums)
