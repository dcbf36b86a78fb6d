"""Advantages among steps of a group that were taken in (nearly) the same state.

Shapes: T steps, G groups, K members, D features; M chosen steps.
"""

from typing import Literal

import torch
from torch import Tensor

_EPSILON = 1e-8


def state_bins(features: Tensor, width: float) -> Tensor:
    """Number the states of a rollout so that equal numbers mean (nearly) equal states.

    Args:
        features: Shape (T, G, K, D), float.
        width: Features are rounded to multiples of it; 0: only equal states share a number.

    Returns:
        Shape (T, G, K), int64.

    Source: mixing: SplitMix64 (Steele, Lea and Flood, 2014).
    """
    flat = features.reshape(-1, features.shape[-1])
    cells = (flat / width).round().to(torch.int64) if width > 0.0 else _bits(flat)
    # Each feature is hashed on its own: different states collide with a probability of about 2^-64.
    generator = torch.Generator().manual_seed(0)
    mixed = cells + torch.randint(2**62, (cells.shape[1],), generator=generator)
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed ^ (mixed >> 31)).sum(dim=1).reshape(features.shape[:-1])


def center_on_bins(
    returns: Tensor, taken: Tensor, bins: Tensor, tolerance: Tensor | float = 0.0
) -> Tensor:
    """Subtract the mean over the members that visited the same bin, each at its first visit.

    Args:
        returns: Shape (T, G, K), float.
        taken: Steps that count, shape (T, G, K), bool.
        bins: Shape (T, G, K), int64, as `state_bins` numbers them.
        tolerance: Difference up to which returns are equal, or shape (T, G, K).

    Returns:
        Shape (T, G, K); 0 at later visits of a bin, and where all returns of a bin are equal.

    Source: GPG (arXiv 2510.03679).
    """
    first = taken & _first_visits(bins, taken)
    labels = _group_labels(bins, first)
    allowed = torch.as_tensor(tolerance, dtype=returns.dtype).expand_as(returns)
    centred = torch.zeros_like(returns)
    centred[first] = _center_on_labels(returns[first], labels, allowed[first])
    return centred


def anchor_advantages(
    returns: Tensor, alive: Tensor, bins: Tensor, scale: str, tolerance: Tensor | float = 0.0
) -> Tensor:
    """Subtract the mean over the group's steps that were taken in the same state, the anchor.

    Unlike with baseline "state_bin", every visit counts.

    Args:
        returns: Reward-to-go, shape (T, G, K).
        alive: Shape (T, G, K), bool.
        bins: The state at each step, shape (T, G, K), int64; see `state_bins`.
        scale: "group" divides by the deviation among the steps at an anchor, "batch" and
            "time_step" by that over all steps that share an anchor, "none" by nothing.
        tolerance: Difference up to which returns are equal, or shape (T, G, K).

    Returns:
        Shape (T, G, K); 0 where an anchor has a single visit.

    Source: GiGPO (arXiv 2505.10978), eqs. 6 and 7.
    """
    labels = _group_labels(bins, alive)
    allowed = torch.as_tensor(tolerance, dtype=returns.dtype).expand_as(returns)
    centred = _center_on_labels(returns[alive], labels, allowed[alive])
    if scale == "group":
        centred = centred / (_label_means(centred.square(), labels).sqrt() + _EPSILON)
    elif scale != "none":
        shared = torch.bincount(labels)[labels] > 1
        variance = centred.square().sum() / shared.sum().clamp_min(1)
        centred = centred / (variance.sqrt() + _EPSILON)
    result = torch.zeros_like(returns)
    result[alive] = centred
    return result


def _first_visits(bins: Tensor, taken: Tensor) -> Tensor:
    """Whether a step is its member's first in its bin, shape (T, G, K), bool."""
    steps, groups, members = bins.shape
    # A stable sort by bin keeps each member's visits to a bin in temporal order.
    keys = torch.where(taken, bins, torch.iinfo(torch.int64).max)
    ordered, order = keys.sort(dim=0, stable=True)
    fresh = torch.ones_like(taken)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return torch.zeros(steps, groups, members, dtype=torch.bool).scatter(0, order, fresh)


def _group_labels(bins: Tensor, chosen: Tensor) -> Tensor:
    """A label from 0 for each pair of group and bin among the chosen steps, shape (M,)."""
    groups = torch.arange(bins.shape[1])[None, :, None].expand_as(bins)
    _, bin_labels = torch.unique(bins[chosen], return_inverse=True)
    pairs = bin_labels * bins.shape[1] + groups[chosen]
    _, labels = torch.unique(pairs, return_inverse=True)
    return labels


def _center_on_labels(values: Tensor, labels: Tensor, tolerance: Tensor) -> Tensor:
    """Subtract the mean of all values with the same label; 0 where those are equal, shape (M,)."""
    spread = _label_extremes(values, labels, "amax") - _label_extremes(values, labels, "amin")
    equal = spread <= _label_extremes(tolerance, labels, "amax")
    return torch.where(equal, 0.0, values - _label_means(values, labels))


def _label_means(values: Tensor, labels: Tensor) -> Tensor:
    """For each value the mean of all values with its label, shape (M,)."""
    counts = torch.bincount(labels)
    totals = torch.zeros(len(counts), dtype=values.dtype).index_add(0, labels, values)
    return (totals / counts)[labels]


def _label_extremes(values: Tensor, labels: Tensor, kind: Literal["amax", "amin"]) -> Tensor:
    count = int(labels.max()) + 1 if len(labels) else 0
    extremes = torch.zeros(count, dtype=values.dtype)
    return extremes.scatter_reduce(0, labels, values, kind, include_self=False)[labels]


def _bits(features: Tensor) -> Tensor:
    """The bits of each feature as integers; -0 counts as 0."""
    return (features.to(torch.float32) + 0.0).view(torch.int32).to(torch.int64)
