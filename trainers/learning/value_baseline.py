"""A learned state value as a baseline: measures what a critic would add; off by default.

It only predicts returns; nothing is bootstrapped from it. Subtracted from returns that are centred
per time step, or on the other members, it lowers the variance of an advantage without bias; a mean
over whole trajectories that includes a member's own later values biases it slightly.

Shapes: M steps, D features.
"""

from typing import Any

import torch
from torch import Tensor

from grpo_gym.policies.network import Policy, feedforward
from grpo_gym.policies.normaliser import Statistics
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.adamw import AdamW
from grpo_gym.trainers.learning.vectors import as_vector, assign, clip_norm

_MINIBATCHES = 8
_LARGEST_NORM = 0.5
_LEAST_DEVIATION = 1e-6


class ValueBaseline(Statistics):
    """A network that predicts returns, with the running mean and deviation of its targets.

    Attributes:
        optimizer: AdamW on the network.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, hidden_sizes: tuple[int, ...], learning_rate: float) -> None:
        """Build the network for D features; before the first `fit` it predicts 0."""
        super().__init__()
        self.network = feedforward(features, hidden_sizes, 1, gain=1.0)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("deviation", torch.zeros((), dtype=torch.float64))
        self.optimizer = AdamW(self.parameters(), lr=learning_rate)

    def predict(self, features: Tensor) -> Tensor:
        """Expected returns, shape (...), float64, on the CPU, for features (..., D), float32."""
        with torch.no_grad():
            scaled = self.network(features.to(self._device)).squeeze(-1).cpu().to(torch.float64)
        if float(self.deviation) <= _LEAST_DEVIATION:  # all returns so far were equal
            scaled = torch.zeros_like(scaled)
        return scaled * self.deviation + self.mean

    def fit(
        self, features: Tensor, returns: Tensor, epochs: int, generator: torch.Generator
    ) -> float:
        """Learn to predict the returns of some states.

        Args:
            features: Shape (M, D), float32.
            returns: Shape (M,), float64.
            epochs: Passes over the steps.
            generator: Draws the minibatches.

        Returns:
            The fraction of the returns' variance that was explained before learning; at most 1, and
            NaN if all returns are equal.
        """
        unexplained, variance = (returns - self.predict(features)).var(), returns.var()
        explained = 1.0 - unexplained / variance if float(variance) > 0.0 else torch.nan
        self._rescale(returns)
        features = features.to(self._device)
        targets = ((returns - self.mean) / self.deviation).to(torch.float32).to(self._device)
        parameters = self.optimizer.trainable
        weights = as_vector(parameters)
        for _ in range(epochs):
            order = torch.randperm(len(targets), generator=generator)
            for index in order.chunk(_MINIBATCHES):
                loss = (self.network(features[index]).squeeze(-1) - targets[index]).square().mean()
                gradient = as_vector(torch.autograd.grad(loss, parameters))
                if not bool(torch.isfinite(clip_norm(gradient, _LARGEST_NORM))):
                    raise FloatingPointError("the gradient of the learned baseline is not finite")
                self.optimizer.step(weights, gradient)
                assign(parameters, weights)
        return float(explained)

    def state(self) -> dict[str, Any]:
        """Everything that fitting continues from."""
        return {"weights": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _rescale(self, returns: Tensor) -> None:
        """Update mean and deviation, and rescale the last layer so that predictions stay."""
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


def make_value_baseline(policy: Policy, config: GRPOConfig) -> ValueBaseline | None:
    """The learned baseline at the start of training; None if there is to be none."""
    if not config.learned_baseline:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, Stream.VALUES))
        return ValueBaseline(
            policy.observation_size, config.hidden_sizes, config.value_learning_rate
        ).to(policy.device)
