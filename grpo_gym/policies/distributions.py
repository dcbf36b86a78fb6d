"""Action distributions: sampling from given noise, exact log-probability, entropy and KL.

Sampling takes its noise as an argument, so that the caller decides what the randomness
depends on. Divergences are exact: both families have cheap closed forms.

Shapes: leading axes "..." are any batch; C components (factors) of A choices each, or C
dimensions of a Box.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from grpo_gym.policies.sampling import choose


class Distribution(Protocol):
    """A distribution over actions of shape (..., C)."""

    def sample(self, noise: Tensor) -> Tensor:
        """The action that this noise, shape (..., C), leads to."""

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`sample(noise)` and its `log_prob`, without a graph."""

    def mode(self) -> Tensor:
        """The most probable action, shape (..., C)."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability (density) of actions (..., C), shape (...)."""

    def entropy(self) -> Tensor:
        """Entropy in nats, shape (...)."""

    def kl(self, other: "Distribution") -> Tensor:
        """KL(self, other) in nats, shape (...)."""


class Categorical(Distribution):
    """C independent choices among up to A, of which a mask may forbid some.

    A forbidden choice has probability 0 and contributes nothing to entropy and KL.
    """

    def __init__(self, logits: Tensor, allowed: Tensor | None = None) -> None:
        """Normalise the logits.

        Args:
            logits: Shape (..., C, A).
            allowed: Legal choices, broadcastable to (..., C, A), bool; None allows all.

        Raises:
            ValueError: If a component has no legal choice.
        """
        if allowed is not None:
            if not bool(allowed.any(dim=-1).all()):
                raise ValueError("an action mask must allow at least one action, got none")
            logits = logits.masked_fill(~allowed, -torch.inf)
        self.allowed = allowed
        self.log_probs = torch.log_softmax(logits, dim=-1)

    @override
    def sample(self, noise: Tensor) -> Tensor:
        """Invert the distribution function at uniforms in [0, 1); int64."""
        cumulative = self.log_probs.exp().cumsum(dim=-1)
        total = cumulative[..., -1:]
        choice = (cumulative <= noise.unsqueeze(-1) * total).sum(dim=-1)
        # Rounding may lead past the end: stay at the last choice of positive probability.
        return torch.minimum(choice, (cumulative < total).sum(dim=-1))

    @override
    @torch.no_grad()
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        known = self.log_probs.detach() if self.log_probs.requires_grad else self.log_probs
        if known.ndim != 3 or known.device.type != "cpu" or known.dtype != torch.float32:
            actions = self.sample(noise)
            return actions, self.log_prob(actions)
        choices, of_choices = np.empty(noise.shape, np.int64), np.empty(noise.shape, np.float32)
        choose(known.numpy(), known.exp().numpy(), noise.numpy(), choices, of_choices)
        log_probs = torch.from_numpy(of_choices)
        total = log_probs[:, 0] if log_probs.shape[1] == 1 else log_probs.sum(dim=-1)
        return torch.from_numpy(choices), total

    @override
    def mode(self) -> Tensor:
        return self.log_probs.argmax(dim=-1)

    @override
    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).sum(dim=-1)

    @override
    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self._finite(self.log_probs)).sum(dim=(-2, -1))

    @override
    def kl(self, other: "Distribution") -> Tensor:
        if not isinstance(other, Categorical):
            raise TypeError(f"KL of a Categorical needs another, got {type(other).__name__}")
        difference = self._finite(self.log_probs) - self._finite(other.log_probs)
        return (self.log_probs.exp() * difference).sum(dim=(-2, -1))

    def _finite(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities with 0 for forbidden choices: 0 * -inf would be NaN."""
        return log_probs if self.allowed is None else log_probs.masked_fill(~self.allowed, 0.0)


class Gaussian(Distribution):
    """Independent normals."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        """Hold mean and log standard deviation, both shape (..., C)."""
        self.mean = mean
        self.log_std = log_std

    @override
    def sample(self, noise: Tensor) -> Tensor:
        """Shift and scale standard normals."""
        return self.mean + self.log_std.exp() * noise

    @override
    @torch.no_grad()
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        actions = self.sample(noise)
        return actions, self.log_prob(actions)

    @override
    def mode(self) -> Tensor:
        return self.mean

    @override
    def log_prob(self, actions: Tensor) -> Tensor:
        scaled = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)

    @override
    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)

    @override
    def kl(self, other: "Distribution") -> Tensor:
        if not isinstance(other, Gaussian):
            raise TypeError(f"KL of a Gaussian needs another, got {type(other).__name__}")
        variance_ratio = (2.0 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        divergence = 0.5 * (variance_ratio + shift - 1.0) + other.log_std - self.log_std
        return divergence.sum(dim=-1)
