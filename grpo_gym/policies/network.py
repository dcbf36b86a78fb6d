"""The feed-forward policies `linear` and `mlp`.

Shapes: leading axes "..." are any batch; D observation features, of all H frames of a history
together; P distribution parameters.
"""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.policies.distributions import Distribution
from grpo_gym.policies.heads import make_head
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.rollouts.spaces import flat_size

Activation = Literal["tanh", "relu", "silu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class Policy(nn.Module):
    """A stochastic policy over flattened observations.

    Attributes:
        frame_history: Observations seen at once, H.
        observation_size: D, of all H observations together.
        symmetries: Of observations and actions, the identity first; empty if none are known.
        head: Turns outputs into distributions and actions.
        normaliser: Running normalisation of observations, or None.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        hidden_sizes: tuple[int, ...],
        activation: Activation = "tanh",
        normalise_observations: bool = True,
        initial_log_std: float = 0.0,
        log_std_bounds: tuple[float, float] = (-3.0, 0.5),
        frame_history: int = 1,
    ) -> None:
        """Build the network with orthogonal weights; the last layer starts near zero.

        Args:
            observation_space: Of one environment.
            action_space: Of one environment.
            hidden_sizes: Width of each hidden layer; none makes the policy linear.
            activation: Between layers.
            normalise_observations: Whether features are shifted and scaled by their running
                mean and deviation.
            initial_log_std: Of Box actions, in units of half the action range.
            log_std_bounds: Limits of the log standard deviation.
            frame_history: Observations that are seen at once, H.

        Raises:
            ConfigError: If a space cannot be used.
        """
        super().__init__()
        self.symmetries: list[Symmetry] = []
        self.frame_history = frame_history
        self.observation_size = frame_history * flat_size(observation_space)
        self.head = make_head(action_space, initial_log_std, log_std_bounds)
        self.normaliser = (
            RunningNormaliser(self.observation_size) if normalise_observations else None
        )
        layers: list[nn.Module] = []
        width = self.observation_size
        for hidden in hidden_sizes:
            layers += [orthogonal(nn.Linear(width, hidden), 2**0.5), _ACTIVATIONS[activation]()]
            width = hidden
        # Nearly uniform at first: early exploration must not depend on the draw of the weights.
        layers.append(orthogonal(nn.Linear(width, self.head.num_network_outputs), 0.01))
        self.network = nn.Sequential(*layers)

    def features(self, observations: Tensor) -> Tensor:
        """Observations as the network sees them: normalised, shape (..., D), float32."""
        if self.normaliser is None:
            return observations
        normalised: Tensor = self.normaliser(observations)
        return normalised

    def forward(self, observations: Tensor) -> Tensor:
        """Distribution parameters, shape (..., P), for observations (..., D), float32."""
        return self.head.complete(self.network(self.features(observations)))

    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Distribution:
        """The action distribution for `forward`'s outputs and legal actions."""
        return self.head.distribution(outputs, masks)

    def act(
        self, observations: np.ndarray, masks: np.ndarray | None, noise: np.ndarray | None
    ) -> np.ndarray:
        """Actions in the environment's form, first axis B.

        Args:
            observations: Flattened, shape (B, D), float32.
            masks: Legal actions, shape (B, A), bool, or None.
            noise: Shape (B, C), float32, as the head's `noise_kind` says; None: most probable.
        """
        with torch.inference_mode():
            legal = None if masks is None else torch.from_numpy(masks)
            distribution = self.distribution(self(torch.from_numpy(observations)), legal)
            if noise is None:
                return self.head.to_environment(distribution.mode())
            return self.head.to_environment(distribution.sample(torch.from_numpy(noise)))


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """The layer with orthogonal weights of this gain, and no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
