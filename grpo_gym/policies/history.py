"""What policies that read a history share: its place in an observation, and its statistics.

An observation holds all of the history that the policy sees; no hidden state is carried from step
to step. So the policy that is updated is the one that acted, with minibatches of any size and
order.

Shapes: leading axes "..." are any batch dimensions; N rows, D features, L steps of a history, M
metrics of a step, C current features, S statistics; P network outputs.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from grpo_gym.policies.network import Policy, whole_or_split
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.options import PolicyOptions
from grpo_gym.rollouts.spaces import flat_size
from grpo_gym.settings import ConfigError

Recurrence = TypeVar("Recurrence", nn.LSTM, nn.GRU)

# The backward pass of a row with 60 by 10 numbers needs 0.2 MB (gru) to 1.7 MB (temporal).
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class HistoryLayout:
    """Where in a row of features the history lies; the features around it are current.

    Attributes:
        steps: L, oldest first.
        metrics: M.
        start: Column of its first number.
        size: Numbers of a row, D.
    """

    steps: int
    metrics: int
    start: int
    size: int

    @property
    def current_size(self) -> int:
        """C; without other features, the last step of the history is current."""
        return self.size - self.steps * self.metrics or self.metrics

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """History (..., L, M) and current features (..., C) of rows (..., D)."""
        stop = self.start + self.steps * self.metrics
        history = rows[..., self.start : stop].unflatten(-1, (self.steps, self.metrics))
        if stop - self.start == self.size:
            return history, history[..., -1, :]
        return history, torch.cat([rows[..., : self.start], rows[..., stop:]], dim=-1)


def find_history(
    observation_space: gym.Space[Any], frame_history: int, policy: str
) -> HistoryLayout:
    """The layout of a space's observations, `frame_history` of them side by side.

    A history is a Box (L, M) with L > 1, alone or the only one in a Dict, or else the last
    `frame_history` observations.

    Args:
        observation_space: Of one environment.
        frame_history: Observations that the policy sees at once.
        policy: Name of the policy, for the error message.

    Raises:
        ConfigError: If there is no history, or one of each kind.
    """
    size = flat_size(observation_space)
    found = _histories(observation_space)
    if len(found) == 1 and frame_history == 1:
        start, (steps, metrics) = found[0]
        return HistoryLayout(steps, metrics, start, size)
    if len(found) == 1:
        raise ConfigError(
            f"frame_history must be 1 for the policy {policy!r} where observations hold a history, "
            f"got {frame_history} with {observation_space}"
        )
    if frame_history == 1:
        raise ConfigError(
            "observation space must be a Dict with exactly one history, a Box of at least 2 steps "
            f"(steps, metrics), for the policy {policy!r} with frame_history 1, got "
            f"{observation_space}: let the environment give one, as AutoScaler-v0 does with "
            "history=60, or raise frame_history, which puts observations side by side"
        )
    return HistoryLayout(frame_history, size, 0, frame_history * size)


def _histories(space: gym.Space[Any]) -> list[tuple[int, tuple[int, int]]]:
    """First column and shape of each history in a flattened observation."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    found, column = [], 0
    for part in parts:
        if isinstance(part, spaces.Box) and len(part.shape) == 2 and part.shape[0] > 1:
            found.append((column, part.shape))
        column += flat_size(part)
    return found


class HistoryNormaliser(RunningNormaliser):
    """A normaliser with one statistic per metric, so that a history keeps its shape.

    An observation adds only its newest step: the others were added when they were the newest.

    Attributes:
        columns: Columns of a row that are counted, shape (S,), int64.
        statistic: The statistic that normalises each column of a row, shape (D,), int64.
    """

    columns: Tensor
    statistic: Tensor

    def __init__(self, layout: HistoryLayout) -> None:
        """Start without observations, which leaves features unchanged."""
        length = layout.steps * layout.metrics
        before, after = layout.start, layout.size - layout.start - length
        super().__init__(before + layout.metrics + after)
        numbers = torch.arange(self.shift.numel())
        first, metrics, last = numbers.split([before, layout.metrics, after])
        statistic = torch.cat([first, metrics.repeat(layout.steps), last])
        everything = torch.arange(layout.size)
        newest = everything >= layout.start + length - layout.metrics
        columns = everything[newest | (everything < layout.start)]
        self.register_buffer("statistic", statistic, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    @override
    def forward(self, observations: Tensor) -> Tensor:
        shifted = observations - self.shift_of(observations)[self.statistic]
        return (shifted * self.scale[self.statistic]).clamp(-self.clip, self.clip)

    @override
    def update(self, observations: Tensor) -> None:
        super().update(observations[:, self.columns.to(observations.device)])


class HistoryPolicy(Policy):
    """Base of the policies that read a history: an encoder, then layers up to the outputs.

    Attributes:
        layout: Where the history lies.
        encoder: From histories (N, L, M) and current features (N, C) to the input of `network`.
    """

    encoder: nn.Module
    name: str
    """The policy's name, for messages."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: PolicyOptions,
    ) -> None:
        """Find the history; subclasses build `encoder` and `network`.

        Arguments are those of `Policy`. With `normalise_observations`, all steps of a metric share
        their statistics.

        Raises:
            ConfigError: If there is no history, or a space is not supported.
        """
        layout = find_history(observation_space, options.frame_history, self.name)
        super().__init__(observation_space, action_space, options)
        self.layout = layout
        if self.normaliser is not None:
            self.normaliser = HistoryNormaliser(layout)

    @override
    def forward(self, observations: Tensor) -> Tensor:
        rows = self.features(observations).reshape(-1, self.observation_size)
        parts = whole_or_split(rows, _ROWS_AT_ONCE)
        if len(parts) > 1 and torch.is_grad_enabled():
            # Large minibatches would not fit into memory: each part is recomputed in the backward
            # pass, which takes a third longer.
            found = [checkpoint(self._outputs, part, use_reentrant=False) for part in parts]
        else:
            found = [self._outputs(part) for part in parts]
        outputs = torch.cat(found)
        return self.head.complete(outputs.reshape(*observations.shape[:-1], outputs.shape[-1]))

    def _outputs(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.network(self.encoder(*self.layout.split(rows)))
        return outputs


def orthogonal_recurrence(module: Recurrence) -> Recurrence:
    """The module with orthogonal weights per gate, and a second gate that remembers at first.

    The second gate (forget gate of an LSTM, update gate of a GRU) starts with bias 1: with 0 half
    of the memory would be lost at each step.

    Source: Jozefowicz et al. (ICML 2015), for the bias.
    """
    width = module.hidden_size
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.split(width):
                    nn.init.orthogonal_(gate)
                continue
            parameter.zero_()
            if name.startswith("bias_ih"):
                parameter[width : 2 * width] = 1.0
    return module
