"""The policy `gru`: one recurrent layer over the history, then a small network. Light.

Shapes: N rows, L steps of a history, M metrics of a step, C current features, W width.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from grpo_gym.policies.history import HistoryLayout, HistoryPolicy, orthogonal_recurrence
from grpo_gym.policies.network import orthogonal


class GRUPolicy(HistoryPolicy):
    """A stochastic policy that remembers a history in a gated recurrent unit."""

    name = "gru"

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        width: int = 64,
        hidden_sizes: tuple[int, ...] = (64,),
        **options: Any,
    ) -> None:
        """Build the network; its scores start near zero.

        Args:
            observation_space: Of one environment; see `history.find_history`.
            action_space: Of one environment.
            width: Of the recurrent layer.
            hidden_sizes: Width of each layer between it and the scores, with tanh.
            **options: As for `HistoryPolicy`.

        Raises:
            ConfigError: If there is no history, or a space cannot be used.
        """
        super().__init__(observation_space, action_space, **options)
        self.encoder = _Encoder(self.layout, width)
        layers: list[nn.Module] = []
        inputs = width + self.layout.current_size
        for hidden in hidden_sizes:
            layers += [orthogonal(nn.Linear(inputs, hidden), 2**0.5), nn.Tanh()]
            inputs = hidden
        layers.append(orthogonal(nn.Linear(inputs, self.head.num_network_outputs), 0.01))
        self.network = nn.Sequential(*layers)


class _Encoder(nn.Module):
    """What the recurrent layer knows after the last step, beside the current features."""

    def __init__(self, layout: HistoryLayout, width: int) -> None:
        super().__init__()
        self.recurrence = orthogonal_recurrence(nn.GRU(layout.metrics, width, batch_first=True))

    def forward(self, history: Tensor, current: Tensor) -> Tensor:
        """Shape (N, W + C), for histories (N, L, M) and current features (N, C)."""
        hidden, _ = self.recurrence(history)
        return torch.cat([hidden[:, -1], current], dim=-1)
