"""The policy `board`: a convolutional network with one logit per cell of a board.

It is fully convolutional, so the same weights play on boards of any size.

Shapes: leading axes "..." are any batch dimensions; C channels, H rows, W columns, A = H * W
cells; D = C * A features of an observation.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.network import Policy, orthogonal
from grpo_gym.policies.options import BoardOptions
from grpo_gym.policies.symmetries import board_symmetries
from grpo_gym.settings import ConfigError


class BoardPolicy(Policy):
    """The policy `board`: a stochastic policy over the cells of a board.

    Attributes:
        board_shape: C, H and W.
        symmetries: Of the board.
    """

    normalises_by_default = False  # with statistics per cell the size of the board is fixed
    any_size = True

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: BoardOptions,
    ) -> None:
        """Build the network; its logits start near zero.

        Args:
            observation_space: A Box of channels (C, H, W), or of one channel, (H, W).
            action_space: Discrete, one action per cell, row by row.
            options: Of the policy.

        Raises:
            ConfigError: If the spaces are not those of a board.
        """
        planes, rows, columns = _board_shape(observation_space, action_space)
        super().__init__(observation_space, action_space, options)
        self.board_shape = (options.frame_history * planes, rows, columns)
        self.symmetries = board_symmetries(self.board_shape)
        self.network = nn.Sequential(
            _Planes(self.board_shape),
            _convolution(self.board_shape[0] + 1, options.channels, 2**0.5),
            nn.ReLU(),
            *[_Block(options.channels) for _ in range(options.blocks)],
            _convolution(options.channels, 1, 0.01, size=1),
            nn.Flatten(),
        )

    @override
    def forward(self, observations: Tensor) -> Tensor:
        rows = self.features(observations).reshape(-1, self.observation_size)
        logits: Tensor = self.network(rows)
        return logits.reshape(*observations.shape[:-1], logits.shape[-1])


class _Planes(nn.Module):
    """Rows as channels of a board, with one more channel of ones.

    Padding is zero there, so that the network sees where the board ends.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    @override
    def forward(self, rows: Tensor) -> Tensor:
        planes = rows.reshape(-1, *self.shape)
        marked = torch.cat([planes, torch.ones_like(planes[:, :1])], dim=1)
        # Convolutions are up to 50 % faster with the channels of a cell adjacent in memory.
        return marked.contiguous(memory_format=torch.channels_last)


class _Block(nn.Module):
    """A residual block of two convolutions (arXiv 1603.05027).

    The first one's mean over the board is added everywhere, which connects distant cells.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 2**0.5)
        self.second = _convolution(channels, channels, 0.1)
        self.everywhere = orthogonal(nn.Linear(channels, channels), 0.1)

    @override
    def forward(self, hidden: Tensor) -> Tensor:
        inner = torch.relu(self.first(hidden))
        overall: Tensor = self.everywhere(inner.mean(dim=(2, 3)))
        result: Tensor = torch.relu(hidden + self.second(inner) + overall[:, :, None, None])
        return result


def _board_shape(
    observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> tuple[int, int, int]:
    shape = observation_space.shape if isinstance(observation_space, gym.spaces.Box) else ()
    if len(shape) not in (2, 3):
        raise ConfigError(
            "observation space must be a Box of channels, (C, H, W) or (H, W), for the policy "
            f"'board', got {observation_space}: use the policy 'mlp'"
        )
    planes, rows, columns = (1, *shape)[-3:]
    if not isinstance(action_space, gym.spaces.Discrete) or action_space.n != rows * columns:
        raise ConfigError(
            f"action space must be Discrete({rows * columns}), one per cell, for the policy "
            f"'board', got {action_space}"
        )
    return planes, rows, columns


def _convolution(inputs: int, outputs: int, gain: float, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size, with orthogonal weights of this gain and zero bias."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.orthogonal_(layer.weight, gain)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
