"""Gradients by hand of small feed-forward policies, in a fraction of the time of autograd."""

from collections.abc import Sequence

from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch
from grpo_gym.trainers.learning.fused.gradient import Fused, is_covered
from grpo_gym.trainers.learning.gradients import Autograd, ShardGradient


def shard_gradient(
    policy: Policy,
    parameters: Sequence[nn.Parameter],
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
    weights: Tensor,
) -> ShardGradient:
    """The gradient by hand where it `is_covered`, else autograd's.

    Args:
        policy: That is updated.
        parameters: Those of it that are trained.
        batch: The steps.
        reference: The policy that the KL penalty stays close to; None: the policy that acted.
        config: The settings.
        weights: The parameters as one vector, shape (N,): where the gradient is asked for.
    """
    if is_covered(policy, parameters, config):
        return Fused(policy, batch, reference, config, weights)
    return Autograd(policy, parameters, batch, reference, config, weights)
