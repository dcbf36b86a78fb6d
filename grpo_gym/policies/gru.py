"""The policy `gru`: one recurrent layer over the history, then a small network.

Shapes: N rows, L steps of a history, M metrics of a step, C current features, W width.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.history import HistoryLayout, HistoryPolicy, orthogonal_recurrence
from grpo_gym.policies.network import feedforward
from grpo_gym.policies.options import GRUOptions


class GRUPolicy(HistoryPolicy):
    """A stochastic policy that summarises a history with a gated recurrent unit."""

    name = "gru"

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: GRUOptions,
    ) -> None:
        """Build the network; its outputs start near zero. Arguments as for `HistoryPolicy`."""
        super().__init__(observation_space, action_space, options)
        self.encoder = _Encoder(self.layout, options.gru_width)
        inputs = options.gru_width + self.layout.current_size
        self.network = feedforward(inputs, options.hidden_sizes, self.head.num_network_outputs)


class _Encoder(nn.Module):
    """The recurrent layer's last hidden state beside the current features."""

    def __init__(self, layout: HistoryLayout, width: int) -> None:
        super().__init__()
        self.recurrence = orthogonal_recurrence(nn.GRU(layout.metrics, width, batch_first=True))

    @override
    def forward(self, history: Tensor, current: Tensor) -> Tensor:
        """Shape (N, W + C), for histories (N, L, M) and current features (N, C)."""
        hidden, _ = self.recurrence(history)
        return torch.cat([hidden[:, -1], current], dim=-1)
