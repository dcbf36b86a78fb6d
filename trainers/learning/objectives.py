"""Loss terms of policy optimisation: pure functions on tensors. loss.py adds them up.

Each kind is a published choice; `trainers.presets` says which paper combines which.

Shapes: T steps, G groups, K members; M steps, taken from any number of trajectories.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RatioKind = Literal["step", "sequence", "sequence_mean"]
ObjectiveKind = Literal["clipped", "unclipped", "upper_clipped", "cispo", "reinforce"]
KLKind = Literal["exact", "k1", "k2", "k3", "k3_plus"]
NormalisationKind = Literal["per_step", "per_sequence", "per_group", "constant"]

_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Surrogate:
    """The surrogate objective at M steps.

    Attributes:
        objective: To be maximised, shape (M,).
        clipped_low: Steps where the lower bound of the ratio took effect, shape (M,), bool.
        clipped_high: The same for the upper bound.
    """

    objective: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def log_ratios(
    log_probs: Tensor, old_log_probs: Tensor, sequences: Tensor | None, kind: RatioKind
) -> Tensor:
    """Logarithm of each step's importance ratio.

    Args:
        log_probs: Of the policy being updated, shape (M,).
        old_log_probs: Of the policy that acted, shape (M,).
        sequences: Index of each step's trajectory, shape (M,), int64 >= 0; all steps of a
            trajectory must be present. None for kind "step", which needs none.
        kind: "step": of the step's own action; "sequence": the product over the trajectory;
            "sequence_mean": the geometric mean over it.

    Returns:
        Shape (M,), clipped to +-20 against overflow.

    Source: sequence: TIC-GRPO (arXiv 2508.02833); sequence_mean: GSPO (arXiv 2507.18071).
    """
    difference = log_probs - old_log_probs
    if kind != "step":
        assert sequences is not None
        _, members = torch.unique(sequences, return_inverse=True)
        count = int(members.max()) + 1 if len(members) else 0
        total = difference.new_zeros(count).index_add(0, members, difference)
        if kind == "sequence_mean":
            total = total / torch.bincount(members, minlength=count)
        difference = total[members]
    return difference.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def policy_objective(
    kind: ObjectiveKind,
    log_ratio: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Surrogate:
    """The surrogate objective that the policy maximises at each step.

    Args:
        kind: "clipped": min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A);
            "unclipped": ratio A; "upper_clipped": min(ratio, 1 + clip_high) A for either sign of A;
            "cispo": the clipped ratio as a constant weight of A log pi; "reinforce": A log pi.
        log_ratio: From `log_ratios`, shape (M,).
        log_probs: Of the policy being updated, shape (M,).
        advantages: Shape (M,).
        clip_low: Distance of the lower bound from 1; 1 is no bound.
        clip_high: Distance of the upper bound from 1.
        dual_clip: For "clipped": with A < 0 the objective is at least dual_clip * A.

    Source: clipped: PPO (arXiv 1707.06347), eq. 7; separate bounds: DAPO (arXiv 2503.14476),
    eq. 8; dual clip: arXiv 1912.09729, eq. 5; upper_clipped: TIC-GRPO (arXiv 2508.02833);
    cispo: MiniMax-M1 (arXiv 2506.13585), eq. 4; reinforce: Williams (1992).
    """
    ratio = log_ratio.exp()
    low, high = ratio < 1.0 - clip_low, ratio > 1.0 + clip_high
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    if kind == "clipped":
        objective = torch.minimum(ratio * advantages, bounded * advantages)
        low, high = low & (advantages < 0.0), high & (advantages > 0.0)
        if dual_clip is not None:
            floor = dual_clip * advantages
            high = high | ((advantages < 0.0) & (objective < floor))
            objective = torch.where(advantages < 0.0, torch.maximum(objective, floor), objective)
    elif kind == "upper_clipped":
        low = torch.zeros_like(low)
        objective = ratio.clamp(max=1.0 + clip_high) * advantages
    elif kind == "cispo":
        objective = bounded.detach() * advantages * log_probs
    else:
        low, high = torch.zeros_like(low), torch.zeros_like(high)
        objective = advantages * (ratio if kind == "unclipped" else log_probs)
    return Surrogate(objective, low, high)


def estimate_kl(log_probs: Tensor, reference_log_probs: Tensor, kind: KLKind) -> Tensor:
    """KL(policy, reference) at each step from the action that was taken.

    With d = log_probs - reference_log_probs: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1. For
    actions drawn from the policy, k1 and k3 are unbiased but have a biased gradient, and k2 has an
    unbiased gradient; "k3_plus" has the value of k3 and the gradient of k2.

    Args:
        log_probs: Of the policy being updated, shape (M,).
        reference_log_probs: Of the reference, shape (M,).
        kind: All but "exact", which needs the distributions (`Distribution.kl`).

    Raises:
        ValueError: If `kind` is "exact".

    Source: J. Schulman, "Approximating KL Divergence" (2020).
    """
    if kind == "exact":
        raise ValueError('kind must be an estimator, got "exact": use Distribution.kl')
    difference = log_probs - reference_log_probs
    if kind == "k1":
        return difference
    k2 = 0.5 * difference.square()
    if kind == "k2":
        return k2
    # The bound keeps a single extremely unlikely action from overflowing.
    k3 = (-difference).clamp(max=_MAX_LOG_RATIO).exp() + difference - 1.0
    return k3 if kind == "k3" else k2 + (k3 - k2).detach()


def step_weights(used: Tensor, kind: NormalisationKind, constant: float) -> Tensor:
    """Weight of each step in the loss, which is a weighted sum over steps.

    Args:
        used: Steps that take part, shape (T, G, K), bool.
        kind: "per_step": equal weights for steps; "per_sequence": for trajectories, whatever their
            length; "per_group": for groups; "constant": for steps, with the sum over a trajectory
            divided by a constant instead of its length.
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
