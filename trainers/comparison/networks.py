"""Our policy `board` as actor of Stable-Baselines3's algorithms, with a critic beside it.

Shapes: B observations; C images of a hidden layer, H rows, W columns, A = H * W cells.
"""

from typing import Any

import gymnasium as gym
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from grpo_gym.policies.board import BoardPolicy


class BoardFeatures(BaseFeaturesExtractor):  # type: ignore[misc,unused-ignore]
    """The board policy but for its last layer: images of the hidden layers, (B, C * A)."""

    def __init__(self, observation_space: gym.spaces.Box, channels: int, blocks: int) -> None:
        """Build the layers.

        Args:
            observation_space: Images of a board.
            channels: C.
            blocks: Residual blocks.
        """
        rows, columns = observation_space.shape[-2:]
        super().__init__(observation_space, channels * rows * columns)
        policy = BoardPolicy(
            observation_space,
            gym.spaces.Discrete(rows * columns),
            channels=channels,
            blocks=blocks,
        )
        self.images = policy.network[:-2]

    def forward(self, observations: Tensor) -> Tensor:
        """Hidden images side by side, (B, C * A), for observations (B, ..., H, W)."""
        hidden: Tensor = self.images(observations.flatten(1))
        return hidden.flatten(1)


class _BoardActor:
    """Scores of the cells from the hidden images, as the last layer of the board policy."""

    observation_space: gym.spaces.Box
    features_dim: int
    action_net: nn.Module
    optimizer: Any
    optimizer_class: Any
    optimizer_kwargs: dict[str, Any]
    parameters: Any

    def _build(self, lr_schedule: Any) -> None:
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
    """Actor and critic over the same images; the actor is our board policy."""


class MaskableBoardActorCritic(_BoardActor, MaskableActorCriticPolicy):  # type: ignore[misc,unused-ignore]
    """The same for algorithms that know which cells are left."""


def board_policy_kwargs(channels: int, blocks: int) -> dict[str, Any]:
    """`policy_kwargs` that go with these policies.

    Args:
        channels: C.
        blocks: Residual blocks.
    """
    return {
        "net_arch": [],
        "ortho_init": False,  # our layers are so already
        "features_extractor_class": BoardFeatures,
        "features_extractor_kwargs": {"channels": channels, "blocks": blocks},
    }
