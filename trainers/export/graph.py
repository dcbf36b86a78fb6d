"""A policy as one graph for other runtimes: what the environment gives in, an action out.

Observations come in as the environment gives them, a batch of each part, so that whoever runs the
graph flattens, normalises and remembers nothing.

Shapes: B observations; D features of an observation, H of them in a history; A choices of all C
components of an action side by side.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.heads import CategoricalHead, GaussianHead
from grpo_gym.policies.network import Policy
from grpo_gym.policies.servers import ServersPolicy
from grpo_gym.rollouts.rows import RowFormat, type_of

OBSERVATION = "observation"
MASK = "action_mask"
FRAMES, START = "frames", "episode_start"


@dataclass(frozen=True)
class Part:
    """A part of an observation that has no parts.

    Attributes:
        name: Of the graph's input, such as "observation" or "observation.camera".
        space: Its space.
    """

    name: str
    space: gym.Space[Any]


class PolicyGraph(nn.Module):
    """A policy with all that surrounds it.

    Inputs are, in this order, the parts of the observation; with choices a mask of legal ones
    (B, A), bool; with a history the frames that the last call returned (B, H, D) and whether an
    episode begins (B,), bool. Outputs are the most probable actions in the environment's form; for
    choices their log-probabilities (B, A), for a Box the means and log standard deviations in the
    policy's scale (B, C); with a history the frames for the next call.
    """

    low: Tensor
    high: Tensor
    half_width: Tensor
    center: Tensor
    action_start: Tensor

    def __init__(
        self, policy: Policy, observation_space: gym.Space[Any], action_space: gym.Space[Any]
    ) -> None:
        """Copy the policy, which afterwards takes features instead of rows."""
        super().__init__()
        self.parts = _parts_of(observation_space, OBSERVATION)
        self.frame_history = policy.frame_history
        self.dtype = np.result_type(np.float32, *[_wide(part.space) for part in self.parts])
        self.policy = copy.deepcopy(policy).cpu().eval().requires_grad_(False)
        self.policy.rows = RowFormat(((self.dtype, policy.rows.num_features),))
        self.action_shape = action_space.shape or ()
        self.action_dtype = _torch_dtype(action_space)
        # Buffers: torch.export would lose the numbers of tensors that are made as the graph runs.
        head = self.policy.head
        if isinstance(head, GaussianHead):
            for name in ("low", "high", "half_width", "center"):
                numbers = torch.from_numpy(getattr(head.scale, name).copy())
                self.register_buffer(name, numbers, persistent=False)
        start = torch.as_tensor(np.asarray(getattr(action_space, "start", 0)))
        self.register_buffer("action_start", start, persistent=False)

    @property
    def input_names(self) -> list[str]:
        """Of the inputs, in order."""
        masks = [MASK] if isinstance(self.policy.head, CategoricalHead) else []
        history = [FRAMES, START] if self.frame_history > 1 else []
        return [*[part.name for part in self.parts], *masks, *history]

    @property
    def output_names(self) -> list[str]:
        """Of the outputs, in order."""
        choices = isinstance(self.policy.head, CategoricalHead)
        return [
            "action",
            *(["log_probs"] if choices else ["mean", "log_std"]),
            *(["next_frames"] if self.frame_history > 1 else []),
        ]

    def dynamic_axes(self) -> tuple[dict[int, Any], ...]:
        """Axes of the inputs that may have any length: the batch, and servers where any will do."""
        axis = torch.export.Dim.DYNAMIC
        batch: list[dict[int, Any]] = [{0: axis} for _ in self.input_names]
        if isinstance(self.policy, ServersPolicy):
            for name in (OBSERVATION, MASK):
                batch[self.input_names.index(name)][1] = axis
            if self.frame_history > 1:
                batch[self.input_names.index(FRAMES)][2] = axis
        return tuple(batch)

    def sample_inputs(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """Inputs for B observations, at random where a space has bounds."""
        generator = np.random.default_rng(seed)
        inputs = [torch.from_numpy(_samples(part.space, count, generator)) for part in self.parts]
        if isinstance(self.policy.head, CategoricalHead):
            mask = torch.from_numpy(generator.random((count, self.policy.head.num_outputs)) < 0.7)
            # The first choice of each component is legal.
            mask[:, torch.tensor([0, *np.cumsum(self.policy.head.sizes)[:-1].tolist()])] = True
            inputs.append(mask)
        if self.frame_history > 1:
            shape = (count, self.frame_history, self.policy.rows.num_features)
            frames = generator.standard_normal(shape).astype(self.dtype)
            inputs += [torch.from_numpy(frames), torch.arange(count) % 2 == 0]
        return tuple(inputs)

    @override
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.input_names, inputs, strict=True))
        features = self._features([given[part.name] for part in self.parts])
        frames: tuple[Tensor, ...] = ()
        if self.frame_history > 1:
            newest = features.unsqueeze(1)
            later = torch.cat([given[FRAMES][:, 1:], newest], dim=1)
            start = given[START][:, None, None]
            history = torch.where(start, newest.expand_as(later), later)
            features, frames = history.flatten(1), (history,)
        outputs = self.policy(features)
        if isinstance(self.policy.head, GaussianHead):
            mean, log_std = outputs.chunk(2, dim=1)
            return self._box_action(mean), mean, log_std, *frames
        log_probs = self._log_probs(outputs.masked_fill(~given[MASK], -torch.inf))
        choices = torch.stack([each.argmax(dim=1) for each in log_probs], dim=1)
        return self._choice_action(choices), torch.cat(log_probs, dim=1), *frames

    def _log_probs(self, logits: Tensor) -> list[Tensor]:
        """Log-probabilities of each component's choices (B, n)."""
        parts = [logits]
        if self.policy.head.num_components > 1:
            parts = list(logits.split(self.policy.head.sizes, dim=1))
        return [torch.log_softmax(part, dim=1) for part in parts]

    def _features(self, parts: Sequence[Tensor]) -> Tensor:
        """Features of observations, shape (B, D), from their parts."""
        numbers = [
            _encoded(part.space, given) for part, given in zip(self.parts, parts, strict=True)
        ]
        dtype = getattr(torch, self.dtype.name)
        return torch.cat([each.flatten(1).to(dtype) for each in numbers], dim=1)

    def _box_action(self, mean: Tensor) -> Tensor:
        """Actions of a Box, as `BoxScale.to_environment` makes them, for means (B, C)."""
        scaled = mean * self.half_width + self.center
        clipped = torch.minimum(torch.maximum(scaled, self.low), self.high)
        return clipped.to(self.action_dtype).unflatten(1, self.action_shape)

    def _choice_action(self, choices: Tensor) -> Tensor:
        """Actions of choices (B, C), as `CategoricalHead.to_environment` makes them."""
        shaped = choices.unflatten(1, self.action_shape) if self.action_shape else choices[:, 0]
        return (shaped + self.action_start).to(self.action_dtype)


def _parts_of(space: gym.Space[Any], name: str) -> list[Part]:
    named: list[tuple[Any, gym.Space[Any]]] = []
    if isinstance(space, spaces.Dict):
        named = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        named = list(enumerate(space.spaces))
    if not named:
        return [Part(name, space)]
    return [part for key, inner in named for part in _parts_of(inner, f"{name}.{key}")]


def _wide(space: gym.Space[Any]) -> np.dtype[Any]:
    """The type of a part's features as numbers."""
    kind = type_of(space)
    return np.dtype(np.float32) if kind == np.uint8 else kind


def _encoded(space: gym.Space[Any], given: Tensor) -> Tensor:
    """A part as numbers, first axis B: choices one-hot, as `rollouts.spaces` flattens them."""
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return given.to(getattr(torch, _wide(space).name))
    sizes = np.reshape(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n, -1)
    starts = np.reshape(space.start, -1)
    choices = given.unsqueeze(-1).flatten(1)
    columns = [
        choices[:, [i]] - int(start) == torch.arange(int(n))
        for i, (start, n) in enumerate(zip(starts, sizes, strict=True))
    ]
    return torch.cat(columns, dim=1).to(torch.float32)


def _torch_dtype(space: gym.Space[Any]) -> torch.dtype:
    found: torch.dtype = getattr(torch, np.dtype(space.dtype).name)
    return found


def _samples(space: gym.Space[Any], count: int, generator: np.random.Generator) -> np.ndarray:
    space = copy.deepcopy(space)
    space.seed(int(generator.integers(2**31)))
    found = np.stack([space.sample() for _ in range(count)])
    return found.astype(space.dtype, copy=False)
