"""Returns and group-relative advantages: pure functions on tensors.

Shapes: T steps, G groups, K members of a group; time-major (T, G, K).
"""

from typing import Literal

import torch
from torch import Tensor

from grpo_gym.trainers.learning.state_bins import center_on_bins

ReturnKind = Literal["outcome", "reward_to_go"]
BaselineKind = Literal["none", "batch", "trajectory", "time_step", "time_bin", "state_bin"]
"""Baselines that are means; "state" and "auto" are not: see `learning.estimate`."""
CenterKind = Literal["mean", "leave_one_out"]
ScaleKind = Literal["none", "group", "batch", "time_step"]

_EPSILON = 1e-8


def compute_returns(rewards: Tensor, alive: Tensor, kind: ReturnKind, discount: float) -> Tensor:
    """The return of each step.

    Args:
        rewards: Shape (T, G, K), float; ignored where a member is not alive.
        alive: Steps that were taken, shape (T, G, K), bool.
        kind: "outcome": the discounted return of the trajectory, for each of its steps;
            "reward_to_go": the discounted sum of the rewards from the step on.
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


def rounding_errors(rewards: Tensor, alive: Tensor, kind: ReturnKind) -> Tensor:
    """How far rounding may take the return of each step from its exact value.

    A bound for sums in any order, discounted or not: the number of steps times the machine epsilon
    times the sum of the absolute rewards. Returns that differ by less are equal.

    Args:
        rewards: As for `compute_returns`, like the others.
        alive: Steps that were taken.
        kind: The kind of return.

    Returns:
        Shape (T, G, K), like `rewards`.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 4.2.
    """
    sizes = torch.where(alive, rewards.abs(), torch.zeros_like(rewards))
    to_go = sizes.flip(0).cumsum(dim=0).flip(0)
    errors = len(rewards) * torch.finfo(rewards.dtype).eps * to_go
    return errors if kind == "reward_to_go" else errors[:1].expand_as(errors)


def group_advantages(
    returns: Tensor,
    alive: Tensor,
    *,
    baseline: BaselineKind,
    center: CenterKind,
    scale: ScaleKind,
    bins: Tensor | None = None,
    tolerance: Tensor | float = 0.0,
) -> Tensor:
    """Subtract a baseline from each return, then divide by a standard deviation.

    The baseline is 0 ("none"), the mean over the "batch", or a mean over the group:

    - "time_step": over its members at the same step. In place of those that have ended stands the
      mean of all members of the batch that are under way at this step: the last one of a group is
      compared with those of other groups. Were the 0 that remains for the ended counted instead,
      then whatever a survivor did would be praised while good returns lie ahead, until the policy
      is certain of it. With "time_bin" nothing stands in their place.
    - "trajectory": one for all steps of a group. Each member counts once, however long it lives.
    - "state_bin": over the steps in the same bin of states, at any time. Each member counts, and
      learns, at its first visit of a bin only.

    Args:
        returns: From `compute_returns`, shape (T, G, K).
        alive: Steps that were taken, shape (T, G, K), bool.
        baseline: The baseline.
        center: With "trajectory" and "time_step": "mean" over all members, or "leave_one_out",
            over the others, which makes the result K/(K-1) times as large.
        scale: Standard deviation to divide by: over the "group", over the centred returns of the
            "batch", over the group's living members at the same "time_step", or "none". With
            baseline "trajectory" each member counts once, else each step.
        bins: With "state_bin", the bin of each step's state, shape (T, G, K), int64.
        tolerance: Difference up to which returns are equal, or shape (T, G, K): see
            `rounding_errors`. Among those compared the largest counts.

    Returns:
        Shape (T, G, K); exactly 0 where a member is not alive, and throughout groups (with
        "batch": batches) whose returns are all equal.

    Raises:
        ValueError: If K < 2, or bins are missing.

    Source: mean and group deviation: DeepSeekMath (arXiv 2402.03300); no deviation: Dr. GRPO
    (arXiv 2503.20783); leave one out: LOOP (arXiv 2502.01600); batch deviation: Magistral
    (arXiv 2506.10910); per time step: input-dependent baselines (arXiv 1807.02264); deviation
    per time step: GR2PO (arXiv 2609.19850); bins: GPG (arXiv 2510.03679).
    """
    if returns.shape[2] < 2:
        raise ValueError(
            f"group_size must be >= 2, got {returns.shape[2]}: a single member has no baseline"
        )
    tolerance = torch.as_tensor(tolerance, dtype=returns.dtype).expand_as(returns)
    if baseline in ("trajectory", "time_step"):
        centred = _center_on_group(returns, alive, baseline, center, tolerance)
    elif baseline == "batch":
        equal = all_equal(returns, alive, (0, 1, 2), tolerance)
        centred = torch.where(alive & ~equal, returns - returns[alive].mean(), 0.0)
    elif baseline == "none":
        centred = torch.where(alive & (returns.abs() > tolerance), returns, 0.0)
    else:
        if baseline == "time_bin":
            bins = torch.arange(len(alive))[:, None, None].expand_as(alive)
        if bins is None:
            raise ValueError('baseline "state_bin" needs bins')
        centred = center_on_bins(returns, alive, bins, tolerance)
    member_weights = baseline == "trajectory" and scale != "time_step"
    return scaled(centred, alive, scale, member_weights)


def scaled(
    centred: Tensor, alive: Tensor, scale: ScaleKind, member_weights: bool = False
) -> Tensor:
    """Divide returns minus a baseline, shape (T, G, K), by their deviation; see `group_advantages`.

    With `member_weights` each member counts once, else each step.
    """
    if scale == "none":
        return centred
    return centred / (_deviation(centred, alive, scale, member_weights) + _EPSILON)


def informative_groups(advantages: Tensor) -> Tensor:
    """Groups with anything to learn from, shape (G,), bool, for advantages (T, G, K)."""
    return (advantages != 0.0).any(dim=2).any(dim=0)


def _center_on_group(
    returns: Tensor,
    alive: Tensor,
    baseline: BaselineKind,
    center: CenterKind,
    tolerance: Tensor,
) -> Tensor:
    """Subtract the mean over members at each time step, or over their mean returns."""
    if baseline == "time_step":
        living = torch.where(alive, returns, 0.0).sum(dim=(1, 2), keepdim=True)
        typical = living / alive.sum(dim=(1, 2), keepdim=True).clamp_min(1)
        member_returns = torch.where(alive, returns, typical)
        everyone = torch.ones_like(alive)
        equal = all_equal(member_returns, everyone, (2,), tolerance)
        # Nor is there a difference where the living get no more than those that have ended.
        equal |= all_equal(returns, everyone, (2,), tolerance)
    else:
        lengths = alive.sum(dim=0, keepdim=True).clamp_min(1)
        member_returns = torch.where(alive, returns, 0.0).sum(dim=0, keepdim=True) / lengths
        equal = all_equal(returns, alive, (0, 2), tolerance)
    total, count = member_returns.sum(dim=2, keepdim=True), returns.shape[2]
    if center == "leave_one_out":
        total, count = total - member_returns, count - 1
    # Rounding would leave tiny advantages where all returns are equal.
    return torch.where(alive & ~equal, returns - total / count, 0.0)


def _deviation(centred: Tensor, alive: Tensor, scale: ScaleKind, member_weights: bool) -> Tensor:
    """Root mean square over the batch, the group or the time step; broadcastable to (T, G, K)."""
    weights = alive.to(centred.dtype)
    if member_weights:
        weights = weights / alive.sum(dim=0, keepdim=True).clamp_min(1)
    axes = {"batch": (0, 1, 2), "group": (0, 2), "time_step": (2,)}[scale]
    total = (weights * centred.square()).sum(dim=axes, keepdim=True)
    return (total / weights.sum(dim=axes, keepdim=True).clamp_min(1.0)).sqrt()


def all_equal(returns: Tensor, counted: Tensor, axes: tuple[int, ...], tolerance: Tensor) -> Tensor:
    """Whether what counts differs by no more than the tolerance along these axes, kept as 1."""
    highest = torch.where(counted, returns, -torch.inf).amax(dim=axes, keepdim=True)
    lowest = torch.where(counted, returns, torch.inf).amin(dim=axes, keepdim=True)
    allowed = torch.where(counted, tolerance, 0.0).amax(dim=axes, keepdim=True)
    return highest - lowest <= allowed
