"""The policy `temporal`: recurrence, attention and a transformer over a history.

A published design for infrastructure ("GRPO Implementation Deep Dive") with three corrections. Its
transformer saw a sequence of one token; here it sees every step. Its encoder ignored the current
state; here that is a token of its own. There is no dropout: acting and learning would drop
different units, so importance ratios would not start at 1, and clipping would mistake the noise
for a change of the policy.

Tokens need no positional encoding, because the recurrence puts order into them.

Shapes: N rows, L steps of a history, M metrics of a step, C current features, W width, H heads;
Q queries and S tokens that they attend to.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.history import HistoryLayout, HistoryPolicy, orthogonal_recurrence
from grpo_gym.policies.network import orthogonal
from grpo_gym.policies.options import TemporalOptions

_READOUT_WIDTH = 128


class TemporalPolicy(HistoryPolicy):
    """A stochastic policy that attends to every step of a history."""

    name = "temporal"

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: TemporalOptions,
    ) -> None:
        """Build the network; its outputs start near zero. Arguments as for `HistoryPolicy`."""
        super().__init__(observation_space, action_space, options)
        self.encoder = _Encoder(self.layout, options)
        self.network = nn.Sequential(
            orthogonal(nn.Linear(3 * options.lstm_width, _READOUT_WIDTH), 2**0.5),
            nn.LayerNorm(_READOUT_WIDTH),
            nn.ReLU(),
            orthogonal(nn.Linear(_READOUT_WIDTH, _READOUT_WIDTH), 2**0.5),
            orthogonal(nn.Linear(_READOUT_WIDTH, self.head.num_network_outputs), 0.01),
        )


class _Encoder(nn.Module):
    """The last step's token, the last hidden state, and the token of the current features."""

    def __init__(self, layout: HistoryLayout, options: TemporalOptions) -> None:
        super().__init__()
        width = options.lstm_width
        attention = Attention(width, options.attention_heads)
        transformer = [
            TransformerLayer(
                width,
                options.transformer_heads,
                options.feedforward_width,
                # Only two tokens are read from the last layer.
                outputs=2 if layer == options.transformer_layers - 1 else None,
            )
            for layer in range(options.transformer_layers)
        ]
        lstm = nn.LSTM(layout.metrics, width, options.lstm_layers, batch_first=True)
        self.recurrence = orthogonal_recurrence(lstm)
        self.attention = attention
        self.embedding = orthogonal(nn.Linear(layout.current_size, width), 1.0)
        self.transformer = nn.Sequential(*transformer)

    @override
    def forward(self, history: Tensor, current: Tensor) -> Tensor:
        """Shape (N, 3 * W), for histories (N, L, M) and current features (N, C)."""
        hidden, _ = self.recurrence(history)
        attended = self.attention(hidden, hidden)
        present = self.embedding(current).unsqueeze(1)
        tokens = self.transformer(torch.cat([attended, present], dim=1))
        return torch.cat([tokens[:, -2], hidden[:, -1], tokens[:, -1]], dim=-1)


class TransformerLayer(nn.Module):
    """A pre-norm transformer encoder layer, which needs no learning-rate warm-up.

    Source: arXiv 1706.03762; pre-norm: arXiv 2002.04745.
    """

    def __init__(
        self, width: int, heads: int, feedforward_width: int, outputs: int | None = None
    ) -> None:
        """Build the layer; `outputs` is the number of last tokens to compute, None: all."""
        super().__init__()
        self.outputs = outputs
        self.attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            orthogonal(nn.Linear(width, feedforward_width), 2**0.5),
            nn.ReLU(),
            orthogonal(nn.Linear(feedforward_width, width), 1.0),
        )
        self.normalisation = nn.LayerNorm(width)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (N, Q, W), for tokens (N, S, W)."""
        seen = self.normalisation(tokens)
        first = 0 if self.outputs is None else -self.outputs
        attended = tokens[:, first:] + self.attention(seen[:, first:], seen)
        result: Tensor = attended + self.feedforward(attended)
        return result


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    Written out because torch's own has no second derivative on a CPU, which a trust region needs.

    Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = orthogonal(nn.Linear(width, width), 1.0)
        self.key = orthogonal(nn.Linear(width, width), 1.0)
        self.value = orthogonal(nn.Linear(width, width), 1.0)
        self.output = orthogonal(nn.Linear(width, width), 1.0)

    @override
    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Attention of queries (N, Q, W) to tokens (N, S, W), shape (N, Q, W)."""
        query, key, value = (
            layer(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, inputs in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        mixed = torch.softmax(scores, dim=-1) @ value
        found: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return found
