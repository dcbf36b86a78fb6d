"""The policy `board` as the actor of Stable-Baselines3's algorithms, with a critic beside it.

Shapes: B observations; C channels of a hidden layer, H rows, W columns, A = H * W cells.
"""

import math
from typing import Any

import gymnasium as gym
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.options import BoardOptions


class BoardFeatures(BaseFeaturesExtractor):  # type: ignore[misc,unused-ignore]
    """The board policy without its last layer."""

    def __init__(self, observation_space: gym.spaces.Box, options: BoardOptions) -> None:
        """Build the layers.

        Args:
            observation_space: Channels of a board, shape (..., H, W).
            options: Options of the board policy.
        """
        cells = math.prod(observation_space.shape[-2:])
        super().__init__(observation_space, options.channels * cells)
        policy = BoardPolicy(observation_space, gym.spaces.Discrete(cells), options)
        self.convolutions = policy.network[:-2]

    def forward(self, observations: Tensor) -> Tensor:
        """Hidden channels, flattened to (B, C * A), of observations (B, ..., H, W)."""
        hidden: Tensor = self.convolutions(observations.flatten(1))
        return hidden.flatten(1)


class _BoardActor:
    """Scores of the cells from the hidden channels, as the board policy's last layer."""

    def _build(self: Any, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        rows, columns = self.observation_space.shape[-2:]
        channels = self.features_dim // (rows * columns)
        score = nn.Conv2d(channels, 1, 1, bias=False)  # a bias would change no probability
        nn.init.orthogonal_(score.weight, 0.01)
        self.action_net = nn.Sequential(
            nn.Unflatten(1, (channels, rows, columns)), score, nn.Flatten()
        )
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )


class BoardActorCritic(_BoardActor, ActorCriticPolicy):  # type: ignore[misc,unused-ignore]
    """The board policy and a critic over the same channels."""


class MaskableBoardActorCritic(_BoardActor, MaskableActorCriticPolicy):  # type: ignore[misc,unused-ignore]
    """The same, for algorithms that mask actions."""


def board_policy_kwargs(options: BoardOptions) -> dict[str, Any]:
    """`policy_kwargs` of these policies."""
    return {
        "net_arch": [],
        "ortho_init": False,  # the board policy initialises its own layers
        "features_extractor_class": BoardFeatures,
        "features_extractor_kwargs": {"options": options},
    }
