"""Returns and group-relative advantages: pure functions on tensors.

Shapes: T steps, G groups, K members of a group; rollouts are time-major (T, G, K). `alive` says
which steps were taken; `present` (G, K) which members there are.
"""

from typing import Literal

import torch
from torch import Tensor

ReturnKind = Literal["outcome", "reward_to_go"]
BaselineKind = Literal["trajectory", "time_step"]
CenterKind = Literal["mean", "leave_one_out"]
ScaleKind = Literal["none", "group", "batch"]

_EPSILON = 1e-8


def compute_returns(rewards: Tensor, alive: Tensor, kind: ReturnKind, discount: float) -> Tensor:
    """What each step is credited with.

    Args:
        rewards: Shape (T, G, K), float; ignored where a member is not alive.
        alive: Shape (T, G, K), bool.
        kind: "outcome" credits every step with the discounted return from the start,
            "reward_to_go" with the discounted sum of the rewards from that step on.
        discount: Factor per step, in (0, 1].

    Returns:
        Shape (T, G, K), like `rewards`; for "reward_to_go" 0 after a member's end.
    """
    rewards = torch.where(alive, rewards, torch.zeros_like(rewards))
    to_go = torch.empty_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + discount * following
        to_go[t] = following
    return to_go if kind == "reward_to_go" else to_go[:1].expand_as(to_go).clone()


def group_advantages(
    returns: Tensor,
    alive: Tensor,
    *,
    baseline: BaselineKind,
    center: CenterKind,
    scale: ScaleKind,
    present: Tensor | None = None,
) -> Tensor:
    """Compare each member's return with those of its group.

    With baseline "time_step" the comparison is made step by step, and members that ended early
    count with the 0 that is left to them: averaging over the living alone would call the last
    survivor's remaining reward average. With "trajectory" there is one baseline for all steps
    of a group: the mean over its members, each of which counts once however long it lived.

    Args:
        returns: Shape (T, G, K), from `compute_returns`.
        alive: Shape (T, G, K), bool.
        baseline: One mean per group and step, or one per group.
        center: "mean" subtracts the mean of all members, "leave_one_out" that of the others,
            which makes comparisons at one time step and of outcomes K/(K-1) times as large.
        scale: "group" divides by the deviation within the group, "batch" by that over all
            groups' centred values, "none" by nothing. With baseline "trajectory" each member
            counts once, with "time_step" each step.
        present: Shape (G, K), bool; members that are missing count nowhere. None: all present.

    Returns:
        Shape (T, G, K); exactly 0 where a member is not alive or missing, and throughout
        groups whose compared returns are all equal.

    Raises:
        ValueError: If a group has fewer than two members present.

    Source: mean and group deviation: DeepSeekMath (arXiv 2402.03300); no deviation: Dr. GRPO
    (arXiv 2503.20783); leave one out: LOOP (arXiv 2502.01600); batch deviation: Magistral
    (arXiv 2506.10910); per time step: input-dependent baselines (arXiv 1807.02264).
    """
    members = torch.ones_like(alive[0]) if present is None else present
    counts = members.sum(dim=1)
    if bool((counts < 2).any()):
        raise ValueError(
            f"every group must have at least two members present, got {int(counts.min())}: "
            "a member alone has nothing to be compared with"
        )
    taken = alive & members
    zero = torch.zeros_like(returns)
    lengths = taken.sum(dim=0, keepdim=True).clamp_min(1)
    if baseline == "time_step":
        compared = torch.where(members, returns, zero)
        same = _all_equal(returns, members.expand_as(alive), (2,))
        weights = taken.to(returns.dtype)
    else:
        compared = torch.where(taken, returns, zero).sum(dim=0, keepdim=True) / lengths
        same = _all_equal(returns, taken, (0, 2))
        weights = taken.to(returns.dtype) / lengths
    total, others = compared.sum(dim=2, keepdim=True), counts[None, :, None]
    if center == "leave_one_out":
        total, others = total - compared, others - 1
    # Rounding leaves a trace of a difference where all returns are equal.
    centred = torch.where(taken & ~same, returns - total / others, zero)
    if scale == "none":
        return centred
    axes = (0, 1, 2) if scale == "batch" else (0, 2)
    variance = (weights * centred.square()).sum(dim=axes, keepdim=True)
    deviation = (variance / weights.sum(dim=axes, keepdim=True).clamp_min(1.0)).sqrt()
    return centred / (deviation + _EPSILON)


def informative_groups(advantages: Tensor) -> Tensor:
    """Groups with anything to learn from, shape (G,), bool, for advantages (T, G, K)."""
    return (advantages != 0.0).any(dim=2).any(dim=0)


def _all_equal(returns: Tensor, counted: Tensor, axes: tuple[int, ...]) -> Tensor:
    highest = torch.where(counted, returns, -torch.inf).amax(dim=axes, keepdim=True)
    lowest = torch.where(counted, returns, torch.inf).amin(dim=axes, keepdim=True)
    return highest == lowest
