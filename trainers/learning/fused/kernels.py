"""Kernels of the fused gradient: what lies between its matrix products.

Products are left to torch, and exponentials and hyperbolic tangents of whole arrays to NumPy, which
has vector instructions for them. All numbers are float32; sums over steps are float64.

Shapes: M steps; W numbers of a layer; P logits, of C components side by side.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from grpo_gym.storage.compiled import compiled

Function = TypeVar("Function", bound=Callable[..., Any])

OBJECTIVES = ("clipped", "unclipped", "upper_clipped", "cispo", "reinforce")
KLS = ("none", "exact", "k1", "k2", "k3", "k3_plus")
"""The estimators of the KL penalty, after none at all."""
LOSS, KL, REFERENCE_KL, ENTROPY, CLIPPED_LOW, CLIPPED_HIGH, NUM_SUMS = range(7)
_CLIPPED, _UNCLIPPED, _UPPER_CLIPPED, _CISPO = 0, 1, 2, 3
_NONE, _EXACT, _K1, _K2, _K3 = 0, 1, 2, 3, 4
OLD, ANCHOR, ACTIONS, STEP = range(4)
"""Parts of a row after the features: log-probabilities of the policy that acted (P,), -inf where
not legal; those of the reference (P,); actions (C,); old log-probability, advantage and weight."""
_ILLEGAL = np.float32(-np.inf)
_MAX_LOG_RATIO = np.float32(20.0)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


def _kernel(function: Function) -> Function:
    return compiled(function, Path(__file__).resolve().parent, nogil=True)


def _inlined(function: Function) -> Function:
    return compiled(function, Path(__file__).resolve().parent, inline="always")


@_kernel
def normalise(rows: Any, shift: Any, scale: Any, clip: Any, features: Any) -> None:
    """Write features as `RunningNormaliser` makes them of rows, both (M, D), to the same bits.

    Args:
        rows: Observations.
        shift: What is subtracted, shape (D,).
        scale: What is multiplied, shape (D,).
        clip: Bound of features; what is not a number passes it.
        features: Written.
    """
    for m in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            value = (rows[m, d] - shift[d]) * scale[d]
            value = -clip if value < -clip else value
            features[m, d] = clip if value > clip else value


@_kernel
def add_bias(values: Any, bias: Any) -> None:
    """Add a bias (W,) to each row of values (M, W)."""
    for m in range(values.shape[0]):
        for w in range(values.shape[1]):
            values[m, w] += bias[w]


@_kernel
def add_bias_relu(values: Any, bias: Any) -> None:
    """The same, and then a rectifier, which keeps what is not a number."""
    for m in range(values.shape[0]):
        for w in range(values.shape[1]):
            value = values[m, w] + bias[w]
            values[m, w] = _ZERO if value < _ZERO else value


@_kernel
def transpose(values: Any, transposed: Any) -> None:
    """Write values (M, W) the other way, shape (W, M): 16 rows at a time, a line of the cache."""
    rows, width = values.shape
    whole = rows - rows % 16
    for first in range(0, whole, 16):
        for w in range(width):
            for i in range(16):
                transposed[w, first + i] = values[first + i, w]
    for m in range(whole, rows):
        for w in range(width):
            transposed[w, m] = values[m, w]


@_kernel
def sum_rows(slopes: Any, bias_gradient: Any) -> None:
    """Write the sum of rows (M, W), shape (W,)."""
    for w in range(len(bias_gradient)):
        bias_gradient[w] = _ZERO
    for m in range(slopes.shape[0]):
        for w in range(slopes.shape[1]):
            bias_gradient[w] += slopes[m, w]


@_kernel
def through_relu(slopes: Any, hidden: Any, bias_gradient: Any) -> None:
    """Slopes at a layer's activations become those before them; their sum is that of its bias.

    Args:
        slopes: Shape (M, W), changed.
        hidden: The activations, shape (M, W).
        bias_gradient: Written, shape (W,).
    """
    for w in range(len(bias_gradient)):
        bias_gradient[w] = _ZERO
    for m in range(slopes.shape[0]):
        for w in range(slopes.shape[1]):
            slope = slopes[m, w] if hidden[m, w] > _ZERO else _ZERO
            slopes[m, w] = slope
            bias_gradient[w] += slope


@_kernel
def through_tanh(slopes: Any, hidden: Any, bias_gradient: Any) -> None:
    """As `through_relu`, for a hyperbolic tangent."""
    for w in range(len(bias_gradient)):
        bias_gradient[w] = _ZERO
    for m in range(slopes.shape[0]):
        for w in range(slopes.shape[1]):
            slope = slopes[m, w] * (_ONE - hidden[m, w] * hidden[m, w])
            slopes[m, w] = slope
            bias_gradient[w] += slope


@_kernel
def through_silu(slopes: Any, hidden: Any, bias_gradient: Any, gates: Any) -> None:
    """As `through_relu`, for activations x sigmoid(x) with gates sigmoid(x), shape (M, W)."""
    for w in range(len(bias_gradient)):
        bias_gradient[w] = _ZERO
    for m in range(slopes.shape[0]):
        for w in range(slopes.shape[1]):
            gate = gates[m, w]
            slope = slopes[m, w] * (gate + hidden[m, w] * (_ONE - gate))
            slopes[m, w] = slope
            bias_gradient[w] += slope


@_kernel
def shift_logits(logits: Any, rows: Any, layout: Any, starts: Any,
                 shifted: Any) -> None:  # fmt: skip
    """Logits less the largest legal one of their component.

    Args:
        logits: Shape (M, P).
        rows: Of the steps, laid out as `layout` says.
        layout: Where parts of a row begin, in the order of `OLD` to `STEP`.
        starts: Where components begin, and P, shape (C + 1,), int64.
        shifted: Written, shape (M, P): -inf where not legal.
    """
    old = layout[OLD]
    for m in range(logits.shape[0]):
        for c in range(len(starts) - 1):
            best = _ILLEGAL
            for p in range(starts[c], starts[c + 1]):
                value = logits[m, p] if rows[m, old + p] > _ILLEGAL else _ILLEGAL
                shifted[m, p] = value
                best = max(best, value)
            for p in range(starts[c], starts[c + 1]):
                shifted[m, p] -= best


@_inlined
def _surrogate(kind: int, ratio: Any, log_prob: Any, advantage: Any, low: Any, high: Any,
               dual_clip: Any) -> Any:  # fmt: skip
    """The objective, its slope by the logarithm of the ratio, and which bounds took effect.

    The slope is the derivative by log-probability, with the ratio's derivative taken to be the
    ratio. See `learning.objectives.policy_objective`.
    """
    bounded = min(max(ratio, low), high)
    below, above = ratio < low, ratio > high
    if kind == _CLIPPED:
        objective = min(ratio * advantage, bounded * advantage)
        below, above = below and advantage < _ZERO, above and advantage > _ZERO
        slope = _ZERO if below or above else ratio * advantage
        if advantage < _ZERO and objective < dual_clip * advantage:
            objective, slope, above = dual_clip * advantage, _ZERO, True
        return objective, slope, below, above
    if kind == _UNCLIPPED:
        return ratio * advantage, ratio * advantage, False, False
    if kind == _UPPER_CLIPPED:
        slope = _ZERO if above else ratio * advantage
        return min(ratio, high) * advantage, slope, False, above
    if kind == _CISPO:
        return bounded * advantage * log_prob, bounded * advantage, below, above
    return advantage * log_prob, advantage, False, False


@_inlined
def _penalty(kind: int, difference: Any) -> Any:
    """An estimate of KL(policy, reference) and its slope; see `learning.objectives.estimate_kl`."""
    if kind == _K1:
        return difference, _ONE
    k2 = _HALF * difference * difference
    if kind == _K2:
        return k2, difference
    rest = math.exp(min(-difference, _MAX_LOG_RATIO))
    k3 = rest + difference - _ONE
    if kind == _K3:
        return k3, _ONE - rest if -difference <= _MAX_LOG_RATIO else _ONE
    return k3, difference


@_kernel
def differentiate_loss(rows: Any, layout: Any, starts: Any, scale: Any, objective_kind: int,
                       kl_kind: int, numbers: Any, shifted: Any, chances: Any, old_chances: Any,
                       slopes: Any, sums: Any) -> None:  # fmt: skip
    """The slopes of the loss by logits, and sums over steps.

    Args:
        rows: Of the steps, laid out as `layout` says.
        layout: Where parts of a row begin, in the order of `OLD` to `STEP`.
        starts: Where components begin, and P, shape (C + 1,), int64.
        scale: What weights are multiplied by.
        objective_kind: Its place in `OBJECTIVES`.
        kl_kind: Its place in `KLS`.
        numbers: Lower and upper bound of the ratio, dual clip (infinite: none), coefficients of
            entropy and KL, shape (5,).
        shifted: From `shift_logits`, shape (M, P); becomes log-probabilities, 0 where not legal.
        chances: exp(shifted), shape (M, P); becomes probabilities.
        old_chances: Of the policy that acted, shape (M, P).
        slopes: Written, shape (M, P).
        sums: Written, shape (NUM_SUMS,), float64.
    """
    low, high, dual_clip = numbers[0], numbers[1], numbers[2]
    entropy_coefficient, kl_coefficient = numbers[3], numbers[4]
    old, anchor, actions, step = layout[OLD], layout[ANCHOR], layout[ACTIONS], layout[STEP]
    components = len(starts) - 1
    for s in range(len(sums)):
        sums[s] = 0.0
    for m in range(shifted.shape[0]):
        log_prob = anchor_log_prob = entropy = divergence = exact = _ZERO
        for c in range(components):
            first, last = starts[c], starts[c + 1]
            total = _ZERO
            for p in range(first, last):
                total += chances[m, p]
            log_total = math.log(total)
            for p in range(first, last):
                if rows[m, old + p] == _ILLEGAL:
                    shifted[m, p] = _ZERO
                    continue
                value = shifted[m, p] - log_total
                chance = chances[m, p] / total
                shifted[m, p], chances[m, p] = value, chance
                entropy -= chance * value
                divergence += old_chances[m, p] * (rows[m, old + p] - value)
                if kl_kind == _EXACT:
                    exact += chance * (value - rows[m, anchor + p])
            action = first + int(rows[m, actions + c])
            log_prob += shifted[m, action]
            if kl_kind > _EXACT:
                anchor_log_prob += rows[m, anchor + action]
        difference = log_prob - rows[m, step]
        ratio = math.exp(min(max(difference, -_MAX_LOG_RATIO), _MAX_LOG_RATIO))
        objective, slope, below, above = _surrogate(
            objective_kind, ratio, log_prob, rows[m, step + 1], low, high, dual_clip
        )
        if abs(difference) > _MAX_LOG_RATIO and objective_kind < _CISPO:
            slope = _ZERO
        objective += entropy_coefficient * entropy
        penalty = exact
        if kl_kind > _EXACT:
            penalty, penalty_slope = _penalty(kl_kind, log_prob - anchor_log_prob)
            slope -= kl_coefficient * penalty_slope
        if kl_kind != _NONE:
            objective -= kl_coefficient * penalty
        weight = rows[m, step + 2] * scale
        sums[LOSS] -= weight * objective
        sums[KL] += divergence
        sums[REFERENCE_KL] += penalty
        sums[ENTROPY] += entropy
        sums[CLIPPED_LOW] += below
        sums[CLIPPED_HIGH] += above
        for c in range(components):
            first, last = starts[c], starts[c + 1]
            chosen = first + int(rows[m, actions + c])
            own_entropy = own_exact = _ZERO
            for p in range(first, last):
                own_entropy -= chances[m, p] * shifted[m, p]
                if kl_kind == _EXACT and rows[m, old + p] != _ILLEGAL:
                    own_exact += chances[m, p] * (shifted[m, p] - rows[m, anchor + p])
            for p in range(first, last):
                chance, value = chances[m, p], shifted[m, p]
                change = slope * ((_ONE if p == chosen else _ZERO) - chance)
                change -= entropy_coefficient * chance * (value + own_entropy)
                if kl_kind == _EXACT and rows[m, old + p] != _ILLEGAL:
                    change -= kl_coefficient * chance * (value - rows[m, anchor + p] - own_exact)
                slopes[m, p] = -weight * change
