"""A learned state value as a baseline: what a critic adds, off unless asked for.

It only predicts returns; nothing is bootstrapped from it. Subtracted from returns that are compared
at one time step, or with those of the others, it can lower the variance of an advantage and not
bias it; a mean over whole trajectories that includes a member's own later values does, a little.

Shapes: M steps, D features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grpo_gym.policies.network import orthogonal

_MINIBATCHES = 8
_LEAST_DEVIATION = 1e-6


class ValueBaseline(nn.Module):
    """A network that predicts returns, with the running mean and deviation of its targets.

    Attributes:
        optimizer: AdamW on the network.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, hidden_sizes: tuple[int, ...], learning_rate: float) -> None:
        """Build it; before the first `fit` it predicts 0.

        Args:
            features: D.
            hidden_sizes: Width of each hidden layer.
            learning_rate: Step size.
        """
        super().__init__()
        layers: list[nn.Module] = []
        width = features
        for hidden in hidden_sizes:
            layers += [orthogonal(nn.Linear(width, hidden), 2**0.5), nn.Tanh()]
            width = hidden
        layers.append(orthogonal(nn.Linear(width, 1), 1.0))
        self.network = nn.Sequential(*layers)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("deviation", torch.zeros((), dtype=torch.float64))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    def predict(self, features: Tensor) -> Tensor:
        """Expected returns, shape (...), float64, for features (..., D), float32."""
        with torch.no_grad():
            scaled = self.network(features).squeeze(-1).to(torch.float64)
        if float(self.deviation) <= _LEAST_DEVIATION:  # all returns were equal: nothing to scale
            scaled = torch.zeros_like(scaled)
        return scaled * self.deviation + self.mean

    def fit(
        self, features: Tensor, returns: Tensor, epochs: int, generator: torch.Generator
    ) -> float:
        """Learn from what came of some states.

        Args:
            features: Shape (M, D), float32.
            returns: Shape (M,), float64.
            epochs: Passes over them.
            generator: Decides the minibatches.

        Returns:
            The share of the returns' variance that was predicted before learning; at most 1, and
            NaN where all returns are equal.
        """
        unexplained, variance = (returns - self.predict(features)).var(), returns.var()
        explained = 1.0 - unexplained / variance if float(variance) > 0.0 else torch.nan
        self._rescale(returns)
        targets = ((returns - self.mean) / self.deviation).to(torch.float32)
        for _ in range(epochs):
            order = torch.randperm(len(targets), generator=generator)
            for index in order.chunk(_MINIBATCHES):
                loss = (self.network(features[index]).squeeze(-1) - targets[index]).square().mean()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), 0.5, error_if_nonfinite=True)
                self.optimizer.step()
        return float(explained)

    def state(self) -> dict[str, Any]:
        """Everything that fitting goes on from."""
        return {"weights": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _rescale(self, returns: Tensor) -> None:
        """Move mean and deviation to the latest returns; the last layer keeps its predictions."""
        mean, deviation = returns.mean(), returns.std().clamp_min(_LEAST_DEVIATION)
        last = self.network[-1]
        with torch.no_grad():
            if float(self.deviation) > 0.0:
                ratio = (self.deviation / deviation).to(torch.float32)
                shift = ((self.mean - mean) / deviation).to(torch.float32)
                last.weight.mul_(ratio)  # type: ignore[operator]
                last.bias.mul_(ratio).add_(shift)  # type: ignore[operator]
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)
