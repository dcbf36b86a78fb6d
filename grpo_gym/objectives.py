"""Loss terms of policy optimisation: pure functions on tensors.

Shapes: M steps, taken from any number of trajectories.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NormalisationKind = Literal["per_step", "per_sequence", "per_group", "constant"]


@dataclass(frozen=True)
class Surrogate:
    """The clipped surrogate of M steps.

    Attributes:
        objective: To be maximised, shape (M,).
        ratio: New over old probability, shape (M,), detached.
        clipped_low: Steps whose gradient the lower bound cut off, shape (M,), bool.
        clipped_high: The same for the upper bound.
    """

    objective: Tensor
    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) for each step.

    Args:
        log_probs: Of the policy being updated, shape (M,).
        old_log_probs: Of the policy that acted, shape (M,).
        advantages: Shape (M,).
        clip_low: Distance of the lower bound from 1.
        clip_high: Distance of the upper bound from 1.

    Source: PPO (arXiv 1707.06347), eq. 7; separate bounds: DAPO (arXiv 2503.14476), eq. 8.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    ratio = ratio.detach()
    return Surrogate(
        objective,
        ratio,
        (ratio < 1.0 - clip_low) & (advantages < 0.0),
        (ratio > 1.0 + clip_high) & (advantages > 0.0),
    )


def step_weights(used: Tensor, kind: NormalisationKind, constant: float) -> Tensor:
    """How much each step counts in the loss, which is the weighted sum over steps.

    Args:
        used: Steps that take part, shape (T, G, K), bool.
        kind: "per_step": every step the same; "per_sequence": every trajectory the same, whatever
            its length; "per_group": every group the same; "constant": every step the same, with
            the sum over a trajectory divided by a constant instead of its length.
        constant: The constant, in steps.

    Returns:
        Shape (T, G, K), float32, 0 where not used. All but "constant" sum to 1.

    Source: per sequence: DeepSeekMath (arXiv 2402.03300); per step: DAPO (arXiv 2503.14476);
    constant: Dr. GRPO (arXiv 2503.20783).
    """
    weights = used.to(torch.float32)
    if kind == "per_step":
        return weights / weights.sum().clamp_min(1.0)
    if kind == "per_group":
        groups = used.any(dim=2).any(dim=0).sum().clamp_min(1)
        return weights / weights.sum(dim=(0, 2), keepdim=True).clamp_min(1.0) / groups
    sequences = used.any(dim=0).sum().clamp_min(1)
    if kind == "per_sequence":
        return weights / weights.sum(dim=0, keepdim=True).clamp_min(1.0) / sequences
    return weights / constant / sequences
