"""Returns and group-relative advantages: pure functions on tensors.

Shapes: T steps, G groups, K members of a group; rollouts are time-major (T, G, K). `alive` says
which steps were taken; `present` (G, K) which members there are.
"""

from typing import Literal

import torch
from torch import Tensor

from grpo_gym.trainers.learning.state_bins import center_on_bins

ReturnKind = Literal["outcome", "reward_to_go"]
BaselineKind = Literal["none", "batch", "trajectory", "time_step", "time_bin", "state_bin"]
CenterKind = Literal["mean", "leave_one_out"]
ScaleKind = Literal["none", "group", "batch", "time_step"]

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
    bins: Tensor | None = None,
) -> Tensor:
    """Compare each member's return with those of its group.

    With baseline "time_step" the comparison is made step by step, and members that ended early
    count with the 0 that is left to them: averaging over the living alone ("time_bin") would
    call the last survivor's remaining reward average. With "trajectory" there is one baseline
    for all steps of a group: the mean over its members, each of which counts once however long
    it lived. With "state_bin" a step is compared with those of its group in the same bin of
    states, at whatever time; each member counts, and learns, at its first visit.

    Args:
        returns: Shape (T, G, K), from `compute_returns`.
        alive: Shape (T, G, K), bool.
        baseline: What is subtracted: "none", or one mean for the whole "batch", or one per group
            ("trajectory"), group and step ("time_step", "time_bin"), group and "state_bin".
        center: "mean" subtracts the mean of all members, "leave_one_out" that of the others,
            which makes comparisons at one time step and of outcomes K/(K-1) times as large; only
            for "trajectory" and "time_step".
        scale: "group" divides by the deviation within the group, "batch" by that over all
            groups' centred values, "time_step" by that of the group at the same step (where
            those that have ended count if they do in the baseline), "none" by nothing. With
            baseline "trajectory" each member counts once in a deviation, otherwise each step.
        present: Shape (G, K), bool; members that are missing count nowhere. None: all present.
        bins: With "state_bin", the bin of each step's state, shape (T, G, K), int64.

    Returns:
        Shape (T, G, K); exactly 0 where a member is not alive or missing, and throughout groups
        (with "batch": batches) whose compared returns are all equal.

    Raises:
        ValueError: If a group has fewer than two members present.

    Source: mean and group deviation: DeepSeekMath (arXiv 2402.03300); no deviation: Dr. GRPO
    (arXiv 2503.20783); leave one out: LOOP (arXiv 2502.01600); batch deviation: Magistral
    (arXiv 2506.10910); per time step: input-dependent baselines (arXiv 1807.02264); deviation
    per time step: GR2PO (arXiv 2609.19850); bins: GPG (arXiv 2510.03679).
    """
    members = torch.ones_like(alive[0]) if present is None else present
    if bool((members.sum(dim=1) < 2).any()):
        raise ValueError(
            "every group must have at least two members present, got "
            f"{int(members.sum(dim=1).min())}: a member alone has nothing to be compared with"
        )
    taken = alive & members
    if baseline in ("trajectory", "time_step"):
        centred = _center_on_group(returns, taken, members, baseline, center)
    elif baseline in ("none", "batch"):
        mean = returns[taken].mean() if baseline == "batch" else torch.zeros_like(returns[0, 0, 0])
        same = _all_equal(returns, taken, (0, 1, 2)) if baseline == "batch" else returns == 0.0
        centred = torch.where(taken & ~same, returns - mean, 0.0)
    else:
        visited = _step_numbers(alive) if baseline == "time_bin" else bins
        if visited is None:
            raise ValueError('baseline "state_bin" needs bins')
        centred = center_on_bins(returns, taken, visited)
    if scale == "time_step":
        values, counted = centred, taken
        if baseline == "time_step":  # those that have ended count here as in the baseline
            counted = members.expand_as(taken)
            values = _center_on_group(returns, counted, members, baseline, "mean")
        counts = counted.sum(dim=2, keepdim=True).clamp_min(1)
        deviation = (values.square().sum(dim=2, keepdim=True) / counts).sqrt()
        return centred / (deviation + _EPSILON)
    return _rescale(centred, taken, members, scale, once_a_member=baseline == "trajectory")


def informative_groups(advantages: Tensor) -> Tensor:
    """Groups with anything to learn from, shape (G,), bool, for advantages (T, G, K)."""
    return (advantages != 0.0).any(dim=2).any(dim=0)


def _center_on_group(
    returns: Tensor, taken: Tensor, members: Tensor, baseline: BaselineKind, center: CenterKind
) -> Tensor:
    zero = torch.zeros_like(returns)
    lengths = taken.sum(dim=0, keepdim=True).clamp_min(1)
    if baseline == "time_step":
        compared = torch.where(members, returns, zero)
        same = _all_equal(returns, members.expand_as(taken), (2,))
    else:
        compared = torch.where(taken, returns, zero).sum(dim=0, keepdim=True) / lengths
        same = _all_equal(returns, taken, (0, 2))
    total, others = compared.sum(dim=2, keepdim=True), members.sum(dim=1)[None, :, None]
    if center == "leave_one_out":
        total, others = total - compared, others - 1
    # Rounding leaves a trace of a difference where all returns are equal.
    return torch.where(taken & ~same, returns - total / others, zero)


def _rescale(
    centred: Tensor, taken: Tensor, members: Tensor, scale: ScaleKind, once_a_member: bool
) -> Tensor:
    """Divide by a standard deviation of the centred values."""
    if scale == "none":
        return centred
    weights = taken.to(centred.dtype)
    if once_a_member:
        weights = weights / taken.sum(dim=0, keepdim=True).clamp_min(1)
    axes = (0, 1, 2) if scale == "batch" else (0, 2)
    variance = (weights * centred.square()).sum(dim=axes, keepdim=True)
    deviation = (variance / weights.sum(dim=axes, keepdim=True).clamp_min(1.0)).sqrt()
    return centred / (deviation + _EPSILON)


def _step_numbers(alive: Tensor) -> Tensor:
    return torch.arange(len(alive))[:, None, None].expand_as(alive)


def _all_equal(returns: Tensor, counted: Tensor, axes: tuple[int, ...]) -> Tensor:
    highest = torch.where(counted, returns, -torch.inf).amax(dim=axes, keepdim=True)
    lowest = torch.where(counted, returns, torch.inf).amin(dim=axes, keepdim=True)
    return highest == lowest
