"""The policy `board`: a convolutional network that scores every cell of a board.

It is fully convolutional, so the same weights play on boards of any size.

Shapes: leading axes "..." are any batch; C images, H rows, W columns, A = H * W cells; D = C * A
numbers of an observation.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy, orthogonal
from grpo_gym.policies.symmetries import board_symmetries
from grpo_gym.settings.config import ConfigError


class BoardPolicy(Policy):
    """A stochastic policy over the cells of a board, from images of it.

    Attributes:
        board_shape: C, H and W.
        symmetries: Of the board.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        channels: int,
        blocks: int,
        normalise_observations: bool = False,
        frame_history: int = 1,
    ) -> None:
        """Build the network; its scores start near zero.

        Args:
            observation_space: A Box of images (C, H, W), or of one, (H, W).
            action_space: Discrete, one action for each cell, row by row.
            channels: Images of a hidden layer.
            blocks: Residual blocks of two convolutions each.
            normalise_observations: Whether numbers are shifted and scaled by their running mean
                and deviation, one by one; then the board's size is fixed.
            frame_history: Observations that are seen at once.

        Raises:
            ConfigError: If the spaces are not those of a board.
        """
        images, rows, columns = _board_shape(observation_space, action_space)
        super().__init__(
            observation_space,
            action_space,
            hidden_sizes=(),
            normalise_observations=normalise_observations,
            frame_history=frame_history,
        )
        self.board_shape = (frame_history * images, rows, columns)
        self.symmetries = board_symmetries(self.board_shape)
        self.network = nn.Sequential(
            _Images(self.board_shape),
            _convolution(self.board_shape[0] + 1, channels, 2**0.5),
            nn.ReLU(),
            *[_Block(channels) for _ in range(blocks)],
            _convolution(channels, 1, 0.01, size=1),
            nn.Flatten(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Scores of all cells, shape (..., A), for observations (..., D), float32."""
        leading = observations.shape[:-1]
        scores: Tensor = self.network(
            self.features(observations).reshape(-1, self.observation_size)
        )
        return scores.reshape(*leading, scores.shape[-1])


class _Images(nn.Module):
    """Rows of numbers as images, with one more of ones.

    Padding is not part of it, so it shows where the board ends.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        images = rows.reshape(-1, *self.shape)
        marked = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
        # Convolutions are up to half as fast again with the images of a cell side by side.
        return marked.contiguous(memory_format=torch.channels_last)


class _Block(nn.Module):
    """Two convolutions around which the input passes by (arXiv 1603.05027).

    What the second finds is also averaged over the board, so that distant parts know each other.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 2**0.5)
        self.second = _convolution(channels, channels, 0.1)
        self.everywhere = orthogonal(nn.Linear(channels, channels), 0.1)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = torch.relu(self.first(hidden))
        overall: Tensor = self.everywhere(inner.mean(dim=(2, 3)))
        result: Tensor = torch.relu(hidden + self.second(inner) + overall[:, :, None, None])
        return result


def _board_shape(
    observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> tuple[int, int, int]:
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) not in (
        2,
        3,
    ):
        raise ConfigError(
            "observation space must be a Box of images, (C, H, W) or (H, W), for the policy "
            f"'board', got {observation_space}: use the policy 'mlp'"
        )
    images, rows, columns = (1, *observation_space.shape)[-3:]
    if not isinstance(action_space, gym.spaces.Discrete) or action_space.n != rows * columns:
        raise ConfigError(
            f"action space must be Discrete({rows * columns}), one for each cell, for the policy "
            f"'board', got {action_space}"
        )
    return images, rows, columns


def _convolution(inputs: int, outputs: int, gain: float, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size, with orthogonal weights of this gain and no bias."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.orthogonal_(layer.weight, gain)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
