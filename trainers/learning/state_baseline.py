"""Values of states from what came of the other members: in closed form, and nothing is kept.

The rewards-to-go of the other members are regressed on features of the states that they were in.
The fit is made in folds over members, so that a member's own returns are no part of its baseline.
Only two properties of the whole batch lead from a member's future to its own baseline: T, which is
its length if it lives longest, and the moments that standardise observations, by its share in them.
But for these the policy gradient is unbiased. Nothing is trained by gradients, and nothing outlives
the iteration.

Features of a state: 1; the observation x, standardised over the batch, and its squares; u =
discount^(T - t), the share of an endless stream of rewards that the end of the longest trajectory
cuts off, and its square; random Fourier features cos(w x + b).

Cost: matrix products of M F^2 for M steps and F features (237 for 17 numbers), and one solution of
F equations per fold: about 40 ms for 8,000 steps of 17 numbers, on one core.

Source: the linear baseline of Duan et al. (arXiv 1604.06778), which has no folds; cross-fitting
(arXiv 1608.00060); random Fourier features (Rahimi and Recht, 2007); the exponentially weighted
advantage: GAE (arXiv 1506.02438).

Shapes: T steps, G groups, K members; M steps that were taken; D numbers of an observation, F
features.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_FOLDS = 4
_FOURIER_FEATURES = 200
_PENALTY = 1e-3
"""Ridge penalty per step, in units of standardised features."""
_LEAST_PENALTY = 10.0
"""Added to it, so that few steps are not fitted exactly."""
_MOST_SQUARED = 64
"""Numbers of a state up to which their squares are features, too."""
_MOST_LINEAR = 1024
"""Numbers of a state up to which they are features."""
_FARTHEST = 5.0
"""Standard deviations at which observations are cut off."""
_ROWS_AT_ONCE = 8192


def state_values(
    observations: Tensor, alive: Tensor, credited: Tensor, returns: Tensor, discount: float
) -> Tensor:
    """Predict the return of each step from those of the other members.

    Args:
        observations: As the network sees them, shape (T, G, K, D), float32.
        alive: Steps that were taken, shape (T, G, K), bool.
        credited: Those of them whose returns are fitted, shape (T, G, K), bool.
        returns: Rewards-to-go, shape (T, G, K), float64.
        discount: Factor per step, in (0, 1].

    Returns:
        Shape (T, G, K), float64; 0 where a member is not alive. It does not depend on the member's
        own returns, nor on those of the members of its fold.
    """
    size = alive.shape[2]
    folds = min(_FOLDS, size)
    steps, _, members = alive.nonzero(as_tuple=True)
    features = _Features(observations[alive], discount ** (len(alive) - steps.to(torch.float64)))
    fold_of_row = members * folds // size
    rows_of_fold = [(fold_of_row == fold).nonzero().squeeze(1) for fold in range(folds)]
    targets, fitted = returns[alive], credited[alive]
    equations = [features.equations(rows[fitted[rows]], targets) for rows in rows_of_fold]
    predictions = torch.empty_like(targets)
    for fold, rows in enumerate(rows_of_fold):
        weights = _ridge(torch.stack(equations[:fold] + equations[fold + 1 :]).sum(dim=0))
        for part, chosen in features.parts(rows):
            predictions[chosen] = part @ weights
    values = torch.zeros_like(returns)
    values[alive] = predictions
    return values


def exponential_advantages(
    rewards: Tensor, values: Tensor, alive: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Exponentially weighted sums of temporal differences.

    With `gae_lambda` 1 they are returns minus values; less of it trusts the values of later states
    more, which lowers the variance and adds bias. Nothing is expected after a trajectory's end.

    Args:
        rewards: Shape (T, G, K), float64.
        values: Of each step's state, shape (T, G, K), float64; 0 where not alive.
        alive: Steps that were taken, shape (T, G, K), bool.
        discount: Factor per step, in (0, 1].
        gae_lambda: Weight of each further step, in (0, 1].

    Returns:
        Shape (T, G, K), float64; 0 where not alive.

    Source: GAE (arXiv 1506.02438), eq. 16.
    """
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[0])
    next_values = torch.zeros_like(values[0])
    for t in range(len(values) - 1, -1, -1):
        difference = rewards[t] + discount * next_values - values[t]
        following = torch.where(alive[t], difference + discount * gae_lambda * following, 0.0)
        next_values = values[t]
        advantages[t] = following
    return advantages


def explained_variance(residuals: Tensor, returns: Tensor, counted: Tensor) -> float:
    """1 - mean squared residual / variance of the returns, over the steps that count.

    Args:
        residuals: Returns minus a baseline, shape (T, G, K), float64.
        returns: Shape (T, G, K), float64.
        counted: Shape (T, G, K), bool.

    Returns:
        At most 1; NaN if all returns are equal.
    """
    variance = float(returns[counted].var(correction=0))
    if variance <= 0.0:
        return math.nan
    return 1.0 - float(residuals[counted].square().mean()) / variance


class _Features:
    """Features of M states, made a part at a time."""

    def __init__(self, observations: Tensor, cut_off: Tensor) -> None:
        """Take the states' observations (M, D), and the share of rewards that is cut off, (M,)."""
        self._observations = observations
        self._cut_off = cut_off
        self._mean = observations.mean(dim=0, dtype=torch.float64)
        variance = observations.var(dim=0, correction=0).to(torch.float64)
        self._scale = torch.where(variance > 0.0, variance.rsqrt(), 0.0)
        width = observations.shape[1]
        generator = torch.Generator().manual_seed(0)
        shape = width, _FOURIER_FEATURES
        normals = torch.randn(shape, generator=generator, dtype=torch.float64)
        self._frequencies = normals / math.sqrt(width)
        uniforms = torch.rand(_FOURIER_FEATURES, generator=generator, dtype=torch.float64)
        self._phases = 2.0 * math.pi * uniforms

    def parts(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (N, F), float64, of some of these rows after the other, and which ones, (N,)."""
        for chosen in rows.split(_ROWS_AT_ONCE):
            yield self._of(chosen), chosen

    def equations(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Normal equations of these rows, (F, F + 1): products with features and with targets."""
        total: Tensor | float = 0.0
        for part, chosen in self.parts(rows):
            total = total + part.T @ torch.cat([part, targets[chosen, None]], dim=1)
        if isinstance(total, float):  # there are no rows
            size = self._of(rows).shape[1]
            return torch.zeros(size, size + 1, dtype=torch.float64)
        return total

    def _of(self, rows: Tensor) -> Tensor:
        standard = (self._observations[rows].to(torch.float64) - self._mean) * self._scale
        standard = standard.clamp(-_FARTHEST, _FARTHEST)
        cut_off = self._cut_off[rows, None]
        columns = [torch.ones_like(cut_off), cut_off, cut_off.square()]
        if standard.shape[1] <= _MOST_LINEAR:
            columns.append(standard)
        if standard.shape[1] <= _MOST_SQUARED:
            columns.append(standard.square())
        columns.append(torch.cos(standard @ self._frequencies + self._phases))
        return torch.cat(columns, dim=1)


def _ridge(equations: Tensor) -> Tensor:
    """Weights (F,) of the penalised least squares, from (F, F + 1); the first feature is 1."""
    gram, moments = equations[:, :-1], equations[:, -1]
    count = float(gram[0, 0])
    penalties = torch.full((len(gram),), _PENALTY * count + _LEAST_PENALTY, dtype=gram.dtype)
    penalties[0] = 1e-9  # the constant is free
    return torch.linalg.solve(gram + torch.diag(penalties), moments)
