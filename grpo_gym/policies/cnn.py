"""Convolutions over an image: how it lies in its axes, and the layers that read it.

Shapes: N rows, H observations of a history; an image has S stacked frames of C channels, height
and width.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.network import orthogonal
from grpo_gym.policies.options import CNNOptions
from grpo_gym.settings import ConfigError

_SMALLEST_PICTURE = 36
"""Height and width from which the kernels of the Nature network fit."""


@dataclass(frozen=True)
class ImageLayout:
    """How an image lies in its axes.

    Attributes:
        stacked: Frames along a first of four axes, S; 1 for images of fewer axes.
        channels: Of a frame, C.
        height: In pixels, or in cells of a grid.
        width: In pixels, or in cells of a grid.
        channels_last: Whether a frame is (height, width, C) and not (C, height, width).
    """

    stacked: int
    channels: int
    height: int
    width: int
    channels_last: bool

    @property
    def is_picture(self) -> bool:
        """Whether it is a large image, and not a grid."""
        return min(self.height, self.width) >= _SMALLEST_PICTURE


def image_layout(space: gym.Space[Any], channels_last: bool | None) -> ImageLayout:
    """The layout of a Box of two axes (one channel), of three, or of four (stacked frames).

    Args:
        space: Of the image.
        channels_last: Where a frame of three axes has its channels. None: as Stable-Baselines3
            finds it, first if no other axis is shorter, else last.

    Raises:
        ConfigError: If the space is not an image.
    """
    shape = space.shape if isinstance(space, spaces.Box) else ()
    if len(shape) not in (2, 3, 4):
        raise ConfigError(
            "observation space must be an image, a Box of two to four axes, for the policy 'cnn', "
            f"got {space}: use 'combined' for images among other parts, or 'mlp'"
        )
    stacked, *frame = (1, 1, *shape)[-4:]
    last = len(shape) > 2 and (np.argmin(frame) != 0 if channels_last is None else channels_last)
    height, width, channels = frame if last else (*frame[1:], frame[0])
    return ImageLayout(stacked, channels, height, width, bool(last))


class ImageEncoder(nn.Sequential):
    """From an image, shape (N, H, S * C * height * width), to features, shape (N, `size`).

    Attributes:
        size: Number of features.
        numbers: Per row, those that its layers keep for a backward pass.
    """

    def __init__(self, layout: ImageLayout, frame_history: int, options: CNNOptions) -> None:
        """Build the layers with orthogonal weights.

        Args:
            layout: Of the image.
            frame_history: Observations side by side, H.
            options: Which layers.

        Raises:
            ConfigError: If the image is too small for the layers.

        Source: "nature": Mnih et al. (2015), doi 10.1038/nature14236, as Stable-Baselines3 has it.
        """
        channels = frame_history * layout.stacked * layout.channels
        kind = options.convolutions or ("nature" if layout.is_picture else "small")
        if kind == "nature" and not layout.is_picture:
            raise ConfigError(
                f'convolutions must be "small" for images of less than {_SMALLEST_PICTURE} x '
                f'{_SMALLEST_PICTURE}, got "nature" for {layout.height} x {layout.width}'
            )
        if kind == "nature":
            size = 512
            convolutions = [
                nn.Conv2d(channels, 32, 8, stride=4),
                nn.Conv2d(32, 64, 4, stride=2),
                nn.Conv2d(64, 64, 3),
            ]
        else:
            size = 128
            convolutions = [
                nn.Conv2d(channels, 32, 3, padding=1),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
            ]
        super().__init__(_Planes(layout))
        self.size = size
        hidden = torch.zeros(1, channels, layout.height, layout.width)
        self.numbers = 2 * hidden.numel()
        for layer in convolutions:
            self.extend([_orthogonal(layer), nn.ReLU()])
            with torch.no_grad():
                hidden = layer(hidden)
            self.numbers += 2 * hidden.numel()
        self.extend([nn.Flatten(), orthogonal(nn.Linear(hidden.numel(), self.size), 2**0.5)])
        self.append(nn.ReLU())


class _Planes(nn.Module):
    """Images as planes, shape (N, H * S * C, height, width)."""

    def __init__(self, layout: ImageLayout) -> None:
        super().__init__()
        sides = layout.height, layout.width
        self.channels_last = layout.channels_last
        self.frame = (*sides, layout.channels) if self.channels_last else (layout.channels, *sides)

    @override
    def forward(self, images: Tensor) -> Tensor:
        frames = images.reshape(len(images), -1, *self.frame)
        planes = frames.movedim(-1, 2) if self.channels_last else frames
        return planes.flatten(1, 2)


def _orthogonal(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.orthogonal_(layer.weight, 2**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
