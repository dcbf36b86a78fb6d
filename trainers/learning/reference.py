"""The policy that a KL penalty stays close to, and when it moves."""

import copy

import torch

from grpo_gym.policies.network import Policy
from grpo_gym.trainers.config import GRPOConfig


def make_reference(policy: Policy, config: GRPOConfig) -> Policy | None:
    """The reference at the start of training.

    None without a KL penalty, and if the reference is the policy that collected, whose
    distributions are part of the rollout.
    """
    if config.kl_coefficient == 0.0 or config.kl_reference == "collection":
        return None
    return copy.deepcopy(policy).requires_grad_(False)


@torch.no_grad()
def move_reference(
    reference: Policy | None, policy: Policy, iteration: int, config: GRPOConfig
) -> None:
    """Update the reference in place after an iteration, which counts from 1."""
    if reference is None or config.kl_reference == "initial":
        return
    if config.kl_reference == "refreshed":
        if iteration % config.reference_every == 0:
            reference.load_state_dict(policy.state_dict())
        return
    for average, current in zip(reference.parameters(), policy.parameters(), strict=True):
        average.lerp_(current, 1.0 - config.reference_decay)
    # Observation statistics are not learned: the average normalises as the policy does.
    for kept, moved in zip(reference.buffers(), policy.buffers(), strict=True):
        kept.copy_(moved)
