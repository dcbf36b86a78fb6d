"""The policies `cnn`, for images, and `combined`, for images among other parts of an observation.

Shapes: leading axes "..." are any batch dimensions; N rows; D features of an observation, H
observations of a history, W numbers of a row of all of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from grpo_gym.policies.cnn import ImageEncoder, ImageLayout, image_layout
from grpo_gym.policies.network import Policy, feedforward, whole_or_split
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.options import Activation, CNNOptions, CombinedOptions
from grpo_gym.rollouts.rows import is_bytes, leaves_of
from grpo_gym.settings import ConfigError

_NUMBERS_AT_ONCE = 50_000_000
"""Numbers that the layers keep for a backward pass; larger minibatches pass in parts."""


class ImagePolicy(Policy):
    """Encoders of images beside features of other parts, then layers of equal kind."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: CNNOptions,
        images: Sequence[ImageLayout | None],
        hidden_sizes: tuple[int, ...] = (),
        activation: Activation = "tanh",
    ) -> None:
        """Build the network; `images` are the layouts of those parts that are images.

        Raises:
            ConfigError: If a space is not supported, or an image does not fit the layers.
        """
        unnormalised = replace(options, normalise_observations=False)
        super().__init__(observation_space, action_space, unnormalised)
        parts = leaves_of(observation_space)
        self.normaliser = _PartsNormaliser(parts, images, options)
        self.encoder = _Encoders(parts, images, options)
        outputs = self.head.num_network_outputs
        self.network = feedforward(self.encoder.size, hidden_sizes, outputs, activation)
        self._rows_at_once = max(1, _NUMBERS_AT_ONCE // self.encoder.numbers)

    @property
    @override
    def state_size(self) -> int:
        return self.encoder.size

    @override
    def state_features(self, observations: Tensor) -> Tensor:
        rows = observations.reshape(-1, observations.shape[-1])
        parts = whole_or_split(rows, self._rows_at_once)
        encoded = torch.cat([self.encoder(self.features(part)) for part in parts])
        return encoded.reshape(*observations.shape[:-1], self.encoder.size)

    @override
    def forward(self, observations: Tensor) -> Tensor:
        rows = observations.reshape(-1, observations.shape[-1])
        parts = whole_or_split(rows, self._rows_at_once)
        if len(parts) > 1 and torch.is_grad_enabled():
            # Each part is computed again in the backward pass, which takes a third longer.
            found = [checkpoint(self._outputs, part, use_reentrant=False) for part in parts]
        else:
            found = [self._outputs(part) for part in parts]
        outputs = torch.cat(found)
        return self.head.complete(outputs.reshape(*observations.shape[:-1], outputs.shape[-1]))

    @override
    def numbers_kept(self, rows: int) -> int:
        return min(rows, self._rows_at_once) * self.encoder.numbers

    def _outputs(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.network(self.encoder(self.features(rows)))
        return outputs


class CNNPolicy(ImagePolicy):
    """The policy `cnn`: the observation is an image."""

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], options: CNNOptions
    ) -> None:
        """Build the network; arguments as for `Policy`, the observations a Box of 2 to 4 axes."""
        image = image_layout(observation_space, options.channels_last)
        super().__init__(observation_space, action_space, options, [image])


class CombinedPolicy(ImagePolicy):
    """The policy `combined`: the parts of type uint8 with two to four axes are images."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: CombinedOptions,
    ) -> None:
        """Build the network; arguments as for `Policy`."""
        images = [
            image_layout(part, options.channels_last) if _is_image(part) else None
            for part in leaves_of(observation_space)
        ]
        if not any(images):
            raise ConfigError(
                "observation space must have an image, a Box of type uint8 and two to four axes, "
                f"for the policy 'combined', got {observation_space}: use 'mlp'"
            )
        hidden = options.hidden_sizes
        super().__init__(
            observation_space, action_space, options, images, hidden, options.activation
        )


class _Encoders(nn.Module):
    """From the features of an observation, shape (N, H * D), to those of all parts together.

    Attributes:
        size: Number of features.
        numbers: Per row, those that its layers keep for a backward pass.
    """

    def __init__(
        self,
        parts: Sequence[gym.Space[Any]],
        images: Sequence[ImageLayout | None],
        options: CNNOptions,
    ) -> None:
        super().__init__()
        self.sizes = [spaces.flatdim(part) for part in parts]
        self.frame_history = options.frame_history
        self.of_parts = nn.ModuleList(
            nn.Flatten() if image is None else ImageEncoder(image, self.frame_history, options)
            for image in images
        )
        encoders = [each for each in self.of_parts if isinstance(each, ImageEncoder)]
        others = [size for size, image in zip(self.sizes, images, strict=True) if image is None]
        self.size = sum(each.size for each in encoders) + self.frame_history * sum(others)
        self.numbers = sum(each.numbers for each in encoders) + self.size

    @override
    def forward(self, features: Tensor) -> Tensor:
        frames = features.unflatten(-1, (self.frame_history, sum(self.sizes)))
        parts = frames.split(self.sizes, dim=-1)
        encoded = [encode(part) for encode, part in zip(self.of_parts, parts, strict=True)]
        return torch.cat(encoded, dim=1)


class _PartsNormaliser(RunningNormaliser):
    """Normalises vectors and grids; bytes of pictures are divided by 255, their other numbers kept.

    Attributes:
        columns: Features that are normalised, shape (F,), int64.
        factors: Of those that are not, shape (H * D,), float32.
    """

    columns: Tensor
    factors: Tensor

    def __init__(
        self,
        parts: Sequence[gym.Space[Any]],
        images: Sequence[ImageLayout | None],
        options: CNNOptions,
    ) -> None:
        """`options.normalise_observations` decides for all features where it is not None."""
        normalised, factors = [], []
        for part, image in zip(parts, images, strict=True):
            chosen = options.normalise_observations
            if chosen is None:
                chosen = image is None or not image.is_picture
            size = spaces.flatdim(part)
            normalised.append(torch.full((size,), chosen))
            factors.append(torch.full((size,), 1.0 / 255.0 if is_bytes(part) else 1.0))
        columns = torch.cat(normalised).repeat(options.frame_history).nonzero().squeeze(1)
        super().__init__(len(columns))
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer(
            "factors", torch.cat(factors).repeat(options.frame_history), persistent=False
        )

    @override
    def forward(self, observations: Tensor) -> Tensor:
        scaled = observations * self.factors
        if len(self.columns) == 0:
            return scaled
        normalised = super().forward(observations[..., self.columns])
        return scaled.index_copy(-1, self.columns, normalised)

    @override
    def update(self, observations: Tensor) -> None:
        super().update(observations[:, self.columns.to(observations.device)])


def _is_image(part: gym.Space[Any]) -> bool:
    return is_bytes(part) and len(part.shape or ()) in (2, 3, 4)
