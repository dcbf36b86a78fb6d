"""The policy `temporal`: recurrence, attention and a transformer over the history and the present.

A published design for infrastructure, "GRPO Implementation Deep Dive", with three differences. Its
transformer saw a sequence of one token: here it sees every step. Its encoder was given the current
state and did not use it: here it is a token of its own. And there is no dropout: what is dropped
when a policy acts is not what is dropped when it learns, so importance ratios would not begin at 1
and would be noise of their own that clipping takes for a change of the policy.

Steps need no mark of their position, because the recurrence has put order into them.

Shapes: N rows, L steps of a history, M metrics of a step, C current features, W width, H heads;
Q queries and S tokens that they look at.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from grpo_gym.policies.history import HistoryLayout, HistoryPolicy, orthogonal_recurrence
from grpo_gym.policies.network import orthogonal
from grpo_gym.settings.config import ConfigError

_READOUT_WIDTH = 128


class TemporalPolicy(HistoryPolicy):
    """A stochastic policy that looks back over a history."""

    name = "temporal"

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        width: int = 128,
        layers: int = 2,
        attention_heads: int = 4,
        transformer_layers: int = 1,
        transformer_heads: int = 8,
        feedforward_width: int = 256,
        **options: Any,
    ) -> None:
        """Build the network; its scores start near zero.

        Args:
            observation_space: Of one environment; see `history.find_history`.
            action_space: Of one environment.
            width: Of the recurrence and of all tokens, W.
            layers: Of the recurrence.
            attention_heads: Of the attention over its outputs.
            transformer_layers: Of the transformer encoder; 0: none.
            transformer_heads: Of each of them.
            feedforward_width: Of each of them, between its two layers.
            **options: As for `HistoryPolicy`.

        Raises:
            ConfigError: If there is no history, or a space cannot be used, or heads do not divide
                the width.
        """
        super().__init__(observation_space, action_space, **options)
        self.encoder = _Encoder(
            self.layout,
            width,
            layers,
            Attention(width, attention_heads),
            [
                TransformerLayer(
                    width,
                    transformer_heads,
                    feedforward_width,
                    # Two tokens are read: the last layer need not find out what became of others.
                    outputs=2 if layer == transformer_layers - 1 else None,
                )
                for layer in range(transformer_layers)
            ],
        )
        self.network = nn.Sequential(
            orthogonal(nn.Linear(3 * width, _READOUT_WIDTH), 2**0.5),
            nn.LayerNorm(_READOUT_WIDTH),
            nn.ReLU(),
            orthogonal(nn.Linear(_READOUT_WIDTH, _READOUT_WIDTH), 2**0.5),
            orthogonal(nn.Linear(_READOUT_WIDTH, self.head.num_network_outputs), 0.01),
        )


class _Encoder(nn.Module):
    """The last step and the present, each having looked at all the others, and the last hidden."""

    def __init__(
        self,
        layout: HistoryLayout,
        width: int,
        layers: int,
        attention: "Attention",
        transformer: list["TransformerLayer"],
    ) -> None:
        super().__init__()
        lstm = nn.LSTM(layout.metrics, width, layers, batch_first=True)
        self.recurrence = orthogonal_recurrence(lstm)
        self.attention = attention
        self.embedding = orthogonal(nn.Linear(layout.current_size, width), 1.0)
        self.transformer = nn.Sequential(*transformer)

    def forward(self, history: Tensor, current: Tensor) -> Tensor:
        """Shape (N, 3 * W), for histories (N, L, M) and current features (N, C)."""
        hidden, _ = self.recurrence(history)
        attended = self.attention(hidden, hidden)
        present = self.embedding(current).unsqueeze(1)
        tokens = self.transformer(torch.cat([attended, present], dim=1))
        return torch.cat([tokens[:, -2], hidden[:, -1], tokens[:, -1]], dim=-1)


class TransformerLayer(nn.Module):
    """A layer of a transformer encoder, normalised before each part.

    Source: arXiv 1706.03762; arXiv 2002.04745 for the place of the normalisation, which needs no
    warm-up of the learning rate.
    """

    def __init__(
        self, width: int, heads: int, feedforward_width: int, outputs: int | None = None
    ) -> None:
        """Build it.

        Args:
            width: Of a token, W.
            heads: Of its attention, H.
            feedforward_width: Between the two layers after the attention.
            outputs: How many of the last tokens come out; None: all of them.

        Raises:
            ConfigError: If the heads do not divide the width.
        """
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

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (N, Q, W), for tokens (N, S, W)."""
        seen = self.normalisation(tokens)
        first = 0 if self.outputs is None else -self.outputs
        attended = tokens[:, first:] + self.attention(seen[:, first:], seen)
        result: Tensor = attended + self.feedforward(attended)
        return result


class Attention(nn.Module):
    """Scaled dot-product attention of several heads.

    Written out, because torch's own has no second derivative on a CPU, which a trust region takes.

    Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Build it.

        Args:
            width: Of a token, W.
            heads: H.

        Raises:
            ConfigError: If the heads do not divide the width.
        """
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"heads must divide the width {width}, got {heads}: choose a divisor of it"
            )
        self.heads = heads
        self.query = orthogonal(nn.Linear(width, width), 1.0)
        self.key = orthogonal(nn.Linear(width, width), 1.0)
        self.value = orthogonal(nn.Linear(width, width), 1.0)
        self.output = orthogonal(nn.Linear(width, width), 1.0)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """What queries (N, Q, W) find among tokens (N, S, W), shape (N, Q, W)."""
        query, key, value = (
            layer(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, inputs in (
                (self.query, queries),
                (self.key, tokens),
                (self.value, tokens),
            )
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        mixed = torch.softmax(scores, dim=-1) @ value
        found: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return found
