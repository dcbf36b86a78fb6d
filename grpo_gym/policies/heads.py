"""From network outputs to action distributions and on to the environment's actions.

Shapes: leading axes "..." are any batch; P network outputs; C components of an action.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from grpo_gym.policies.distributions import Categorical, Distribution, Gaussian
from grpo_gym.rollouts.box_actions import BoxScale
from grpo_gym.rollouts.randomness import NoiseKind
from grpo_gym.rollouts.returned import choices_of
from grpo_gym.rollouts.spaces import validate_action_space


class ActionHead(nn.Module):
    """Turns network outputs into distributions and actions of one kind of action space.

    Attributes:
        num_network_outputs: Outputs of the network.
        num_outputs: Distribution parameters, P: those outputs and the head's own parameters.
        num_components: Components of an action, C.
        noise_kind: The noise that actions are sampled from.
    """

    num_network_outputs: int
    num_outputs: int
    num_components: int
    noise_kind: NoiseKind

    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Distribution:
        """The distribution for outputs (..., P) and legal actions (..., sum of choices)."""
        raise NotImplementedError

    def to_environment(self, actions: Tensor) -> np.ndarray:
        """Actions (B, C) in the form the environment takes, first axis B."""
        raise NotImplementedError

    def chances_of_others(self, actions: Tensor, log_probs: Tensor) -> Tensor:
        """How likely the environment had got another action, shape (...), each in [0, 1].

        Args:
            actions: Sampled, shape (..., C).
            log_probs: Of these actions, shape (...).
        """
        raise NotImplementedError

    def complete(self, outputs: Tensor) -> Tensor:
        """Append the head's own parameters, if any, to the network's outputs."""
        return outputs


class CategoricalHead(ActionHead):
    """Discrete, MultiDiscrete and MultiBinary actions: one categorical per component."""

    noise_kind: NoiseKind = "uniform"
    index: Tensor
    legal: Tensor

    def __init__(self, space: gym.Space[Any]) -> None:
        """Lay out one logit per choice of each component."""
        super().__init__()
        sizes = choices_of(space)
        self.shape = space.shape or ()
        self.dtype = space.dtype
        self.start = np.asarray(getattr(space, "start", 0), np.int64)
        self.sizes = sizes
        self.num_components = len(sizes)
        self.num_outputs = sum(sizes)
        self.num_network_outputs = self.num_outputs
        # Components of unequal size are padded to the longest; padding is never legal.
        index = pad_sequence(torch.arange(sum(sizes)).split(sizes), batch_first=True)
        legal = pad_sequence([torch.ones(size, dtype=torch.bool) for size in sizes], True)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("legal", legal, persistent=False)
        self.padded = not bool(legal.all())

    @override
    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Categorical:
        """The distribution for logits (..., P) and legal actions (..., P).

        Raises:
            ValueError: If a mask allows no action.
        """
        if self.num_components == 1:
            logits = outputs.unsqueeze(-2)
            return Categorical(logits, None if masks is None else masks.unsqueeze(-2))
        allowed = self.legal if self.padded else None
        if masks is not None:
            allowed = masks[..., self.index] & self.legal
        return Categorical(outputs[..., self.index], allowed)

    @override
    def chances_of_others(self, actions: Tensor, log_probs: Tensor) -> Tensor:
        return -torch.expm1(log_probs)

    @override
    def to_environment(self, actions: Tensor) -> np.ndarray:
        chosen = actions.cpu().numpy()
        shaped: np.ndarray = chosen.reshape(*chosen.shape[:-1], *self.shape) + self.start
        return shaped.astype(self.dtype, copy=False)


class GaussianHead(ActionHead):
    """Box actions: independent normals with learned, bounded, state-independent deviations.

    Samples outside of the space, whose ranges `BoxScale` finds, are clipped before they reach the
    environment.
    """

    noise_kind: NoiseKind = "normal"

    def __init__(
        self, space: gym.spaces.Box, initial_log_std: float, bounds: tuple[float, float]
    ) -> None:
        """Start all deviations at exp(initial_log_std) and keep log std between the bounds."""
        super().__init__()
        self.num_components = int(np.prod(space.shape))
        self.num_network_outputs = self.num_components
        self.num_outputs = 2 * self.num_components
        self.scale = BoxScale(space)
        self.middle = 0.5 * (bounds[0] + bounds[1])
        self.half_range = 0.5 * (bounds[1] - bounds[0])
        start = np.arctanh(np.clip((initial_log_std - self.middle) / self.half_range, -0.99, 0.99))
        self.raw_log_std = nn.Parameter(torch.full((self.num_components,), float(start)))

    @override
    def complete(self, outputs: Tensor) -> Tensor:
        """Append the log standard deviations, bounded by a tanh so that gradients never vanish."""
        log_std = self.middle + self.half_range * torch.tanh(self.raw_log_std)
        return torch.cat([outputs, log_std.expand_as(outputs)], dim=-1)

    @override
    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Gaussian:
        """The distribution for means and log standard deviations side by side, (..., 2 C).

        Raises:
            ValueError: If there is a mask.
        """
        if masks is not None:
            raise ValueError("an action mask must come with discrete actions, got a Box")
        mean, log_std = outputs.chunk(2, dim=-1)
        return Gaussian(mean, log_std)

    @override
    def chances_of_others(self, actions: Tensor, log_probs: Tensor) -> Tensor:
        """0 where all components were clipped, and would be again; else 1: no two are equal."""
        scaled = self.scale.scaled(actions.cpu().numpy())
        inside = (scaled > self.scale.low) & (scaled < self.scale.high)
        return torch.from_numpy(inside.any(axis=-1).astype(np.float32))

    @override
    def to_environment(self, actions: Tensor) -> np.ndarray:
        return self.scale.to_environment(actions.cpu().numpy())


def make_head(
    space: gym.Space[Any], initial_log_std: float, log_std_bounds: tuple[float, float]
) -> ActionHead:
    """The head for an action space.

    Raises:
        ConfigError: If no head covers the space.
    """
    validate_action_space(space)
    if isinstance(space, gym.spaces.Box):
        return GaussianHead(space, initial_log_std, log_std_bounds)
    return CategoricalHead(space)
