"""The base of all policies, which is the policy `linear`, and the feed-forward policy `mlp`.

Shapes: leading axes "..." are any batch dimensions; D features of a flattened observation, of all
H frames of a history together, and W numbers of its row (D, unless images lie among other parts:
see `rollouts.rows`); P distribution parameters; C action components; A choices.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.policies.distributions import Distribution
from grpo_gym.policies.heads import make_head
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.options import Activation, MLPOptions, PolicyOptions
from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.rollouts.rows import RowFormat, row_format
from grpo_gym.rollouts.spaces import flat_size

_NUMBERS_AT_ONCE = 4_000_000
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class Policy(nn.Module):
    """A stochastic policy over flattened observations; on its own, a linear one.

    Subclasses replace `network`, which maps features (N, D) to the head's network outputs.

    Attributes:
        rows: How each of the H observations is stored.
        frame_history: H.
        observation_size: D, of all H observations together.
        symmetries: Of observations and actions, the identity first; empty if none are known.
        head: Turns outputs into distributions and actions.
        normaliser: Running normalisation of observations, or None.
        network: From features to network outputs.
    """

    normalises_by_default = True
    """Whether observations are normalised where the option is None."""
    any_size = False
    """Whether the same weights act in spaces of any size, such as those of larger boards."""
    network: nn.Sequential

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: PolicyOptions,
        *,
        hidden_sizes: tuple[int, ...] = (),
        activation: Activation = "tanh",
    ) -> None:
        """Build the network with orthogonal weights; the last layer starts near zero.

        Args:
            observation_space: Of one environment.
            action_space: Of one environment.
            options: Options of the policy.
            hidden_sizes: Width of each hidden layer.
            activation: Activation function between layers.

        Raises:
            ConfigError: If a space is not supported.
        """
        super().__init__()
        self.symmetries: list[Symmetry] = []
        flat_size(observation_space)  # refuses what has none
        self.rows = row_format(observation_space)
        self.frame_history = options.frame_history
        self.observation_size = options.frame_history * self.rows.num_features
        self.head = make_head(action_space, options.initial_log_std, options.log_std_bounds)
        normalise = options.normalise_observations
        if normalise is None:
            normalise = self.normalises_by_default
        self.normaliser = RunningNormaliser(self.observation_size) if normalise else None
        self.network = feedforward(
            self.observation_size, hidden_sizes, self.head.num_network_outputs, activation
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are, and observations must be; statistics take them from anywhere."""
        weights = _first_weights(self)
        return torch.device("cpu") if weights is None else weights.device

    @property
    def state_size(self) -> int:
        """How many `state_features` there are, S."""
        return self.observation_size

    def raw_features(self, observations: Tensor) -> Tensor:
        """Observations, rows (..., W), as numbers: shape (..., D), float32 or float64."""
        if not self.rows.has_bytes or self.frame_history == 1:
            return row_features(self.rows, observations)
        frames = observations.unflatten(-1, (self.frame_history, self.rows.width))
        return row_features(self.rows, frames).flatten(-2)

    def features(self, observations: Tensor) -> Tensor:
        """Observations (..., W) as the network sees them: normalised, shape (..., D).

        They have the precision of the network's weights, float32 unless a user changed it.
        """
        features = self.raw_features(observations)
        if self.normaliser is not None:
            features = self.normaliser(features)
        weights = _first_weights(self)
        return features.to(torch.float32 if weights is None else weights.dtype)

    def state_features(self, observations: Tensor) -> Tensor:
        """Numbers that tell the states apart, shape (..., S), for observations as rows (..., W).

        State values are fitted on them: `features`, or what an encoder makes of an image.
        """
        return self.features(observations)

    def observe(self, observations: Tensor) -> None:
        """Add observations, rows (M, W), to the statistics that normalise."""
        if self.normaliser is None:
            return
        parts = (observations,)
        if self.rows.has_bytes:  # as numbers, all at once, they would take 30 times the memory
            parts = observations.split(max(1, _NUMBERS_AT_ONCE // self.observation_size))
        for rows in parts:
            self.normaliser.update(self.raw_features(rows))

    def forward(self, observations: Tensor) -> Tensor:
        """Distribution parameters, shape (..., P), for observations as rows (..., W)."""
        return self.head.complete(self.network(self.features(observations)))

    def numbers_kept(self, rows: int) -> int:
        """Numbers beyond rows and outputs that a backward pass over so many rows needs, roughly."""
        return 3 * self.observation_size * rows if self.rows.has_bytes else 0

    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Distribution:
        """The action distribution for `forward`'s outputs and legal actions (..., A)."""
        return self.head.distribution(outputs, masks)

    def finite_distribution(self, observations: Tensor, masks: Tensor | None) -> Distribution:
        """The action distribution at observations (..., W) with legal actions (..., A).

        Raises:
            FloatingPointError: If the outputs are not finite.
        """
        outputs = self(observations)
        if not bool(torch.isfinite(outputs).all()):
            raise FloatingPointError(
                "the policy's outputs must be finite, got nan or inf: its weights are damaged, or "
                "an observation is too large for it"
            )
        return self.distribution(outputs, masks)

    def act(
        self, observations: np.ndarray, masks: np.ndarray | None, noise: np.ndarray | None
    ) -> np.ndarray:
        """Actions in the environment's form, first axis B.

        Args:
            observations: As rows, shape (B, W).
            masks: Legal actions, shape (B, A), bool, or None.
            noise: Shape (B, C), float32, as the head's `noise_kind` says; None: the mode.

        Raises:
            FloatingPointError: If the outputs are not finite.
        """
        with torch.inference_mode():
            rows = torch.from_numpy(observations).to(self.device)
            legal = None if masks is None else torch.from_numpy(masks).to(self.device)
            distribution = self.finite_distribution(rows, legal)
            if noise is None:
                return self.head.to_environment(distribution.mode())
            drawn = torch.from_numpy(noise).to(self.device)
            return self.head.to_environment(distribution.sample(drawn))


class MLPPolicy(Policy):
    """The policy `mlp`: hidden layers of equal kind."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: MLPOptions,
    ) -> None:
        """Build the network; arguments as for `Policy`."""
        super().__init__(
            observation_space,
            action_space,
            options,
            hidden_sizes=options.hidden_sizes,
            activation=options.activation,
        )


def _first_weights(module: nn.Module) -> Tensor | None:
    """The first of `parameters()`, which takes as long as a small layer to find it."""
    for weights in module._parameters.values():
        if weights is not None:
            return weights
    found = (_first_weights(child) for child in module._modules.values() if child is not None)
    return next((weights for weights in found if weights is not None), None)


def row_features(row_format: RowFormat, rows: Tensor) -> Tensor:
    """Features, shape (..., D), float32 or float64, of rows (..., W); `RowFormat.features`."""
    if not row_format.has_bytes:
        return rows
    if len(row_format.runs) == 1:
        return rows.to(torch.float32)
    parts = rows.split(row_format.widths, dim=-1)
    return torch.cat(
        [
            # Cloned, as bytes are read as a number only from where such numbers lie.
            part.to(torch.float32)
            if kind == np.uint8
            else part.clone(memory_format=torch.contiguous_format).view(getattr(torch, kind.name))
            for (kind, _), part in zip(row_format.runs, parts, strict=True)
        ],
        dim=-1,
    )


def whole_or_split(rows: Tensor, at_once: int) -> Sequence[Tensor]:
    """Rows in parts of at most so many; in one where the network is exported, for any number."""
    return [rows] if torch.compiler.is_exporting() else rows.split(at_once)


def feedforward(
    inputs: int,
    hidden_sizes: tuple[int, ...],
    outputs: int,
    activation: Activation = "tanh",
    gain: float = 0.01,
) -> nn.Sequential:
    """Linear layers with orthogonal weights and activations between them.

    With the default gain of the last layer a policy is nearly uniform at first: early exploration
    must not depend on the initial weights.
    """
    layers: list[nn.Module] = []
    for hidden in hidden_sizes:
        layers += [orthogonal(nn.Linear(inputs, hidden), 2**0.5), _ACTIVATIONS[activation]()]
        inputs = hidden
    return nn.Sequential(*layers, orthogonal(nn.Linear(inputs, outputs), gain))


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """The layer with orthogonal weights of this gain, and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
