"""The policy `servers`: the same weights score every server, given a summary of all of them.

It takes any number of servers in any order: permuted servers have permuted scores. Nothing in it
is about load balancing, so it serves any environment with a row of features and an action for each
of several entities: machines, jobs, slots, players.

An environment whose number of servers varies pads its observations to the largest: an absent
server's row is -1 in every feature, and its action is illegal. What is present has the scores it
would have without the padding.

Source: Zaheer et al., Deep Sets, arXiv 1703.06114.

Shapes: leading axes "..." are any batch dimensions; M observations of H frames; N servers; F
features of a server and S shared ones, so D = N * F + S features of a frame; W width.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from typing_extensions import override

from grpo_gym.policies.network import Policy, feedforward
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.options import ServersOptions
from grpo_gym.rollouts.spaces import flat_size
from grpo_gym.settings import ConfigError

_ABSENT = -1.0
# Without a mask an absent server has probability 0, but a finite logarithm of it: 0 * -inf is NaN.
ABSENT_SCORE = -1e4


@dataclass(frozen=True)
class ServersLayout:
    """Where servers and shared features lie in an observation; it holds for any number of servers.

    Attributes:
        features: F.
        shared: S, after the rows of all servers.
        frames: H, the newest last.
    """

    features: int
    shared: int
    frames: int

    def split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (..., H, N, F) and shared features (..., H, S) of observations (..., H * D)."""
        frames = observations.unflatten(-1, (self.frames, -1))
        rows, shared = frames.split([frames.shape[-1] - self.shared, self.shared], dim=-1)
        return rows.unflatten(-1, (-1, self.features)), shared


class ServersPolicy(Policy):
    """The policy `servers`: a stochastic policy over any number of servers in any order.

    Attributes:
        layout: Of observations.
        encoder: From a server's features and the shared ones to its hidden ones (W,).
        network: From the mean and the maximum of these over servers (2 * W,) to the weights (W,)
            of their sum that is a server's score.
    """

    normalises_by_default = False  # features of servers usually have a common scale
    any_size = True

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: ServersOptions,
    ) -> None:
        """Build the network; its scores start near zero.

        Args:
            observation_space: A Box of F features for each server in turn, then S shared ones,
                (N * F + S,); or of rows alone, (N, F).
            action_space: Discrete, one action per server.
            options: Of the policy.

        Raises:
            ConfigError: If the spaces are not those of servers.
        """
        layout = _find_layout(observation_space, action_space, options)
        super().__init__(observation_space, action_space, options)
        self.layout = layout
        if self.normaliser is not None:
            self.normaliser = ServersNormaliser(layout)
        width = options.server_width
        inputs = layout.frames * (layout.features + layout.shared)
        self.encoder = feedforward(inputs, (width,), width, "relu", 2**0.5).append(torch.nn.ReLU())
        self.network = feedforward(2 * width, (width,), width, "relu")

    @override
    def forward(self, observations: Tensor) -> Tensor:
        flat = observations.reshape(-1, observations.shape[-1])
        rows, shared = self.layout.split(self.features(flat))
        present = present_servers(self.layout.split(flat)[0])[:, -1]
        shared = shared.flatten(1).unsqueeze(1).expand(-1, rows.shape[2], -1)
        hidden = self._encode(torch.cat([rows.transpose(1, 2).flatten(2), shared], dim=-1), present)
        # Hidden features are >= 0, so the zeros of absent servers change neither sum nor maximum.
        mean = hidden.sum(dim=1) / present.sum(dim=1, keepdim=True).clamp_min(1)
        weights: Tensor = self.network(torch.cat([mean, hidden.amax(dim=1)], dim=-1))
        scores = (hidden * weights.unsqueeze(1)).sum(dim=-1).masked_fill(~present, ABSENT_SCORE)
        return scores.reshape(*observations.shape[:-1], scores.shape[-1])

    def _encode(self, inputs: Tensor, present: Tensor) -> Tensor:
        """Hidden features (M, N, W) of servers by their inputs, 0 where none is present (M, N)."""
        if torch.compiler.is_exporting():  # no branch may depend on what is present
            return self.encoder(inputs) * present.unsqueeze(-1)
        if bool(present.all()):
            hidden: Tensor = self.encoder(inputs)
            return hidden
        # Absent servers are left out, not masked: with 9 of 24 present this takes 0.6 of the time.
        index = present.flatten().nonzero().squeeze(1)
        found = self.encoder(inputs.flatten(0, 1)[index])
        zeros = found.new_zeros(present.numel(), found.shape[1])
        return zeros.index_copy(0, index, found).unflatten(0, present.shape)


class ServersNormaliser(RunningNormaliser):
    """A normaliser with one statistic per feature, over all servers that are present.

    Of a history only the newest frame is counted: the others were when they were the newest.
    Features of absent servers stay as they are.
    """

    def __init__(self, layout: ServersLayout) -> None:
        """Start without observations, which leaves features unchanged."""
        super().__init__(layout.features + layout.shared)
        self.layout = layout

    @override
    def forward(self, observations: Tensor) -> Tensor:
        rows, shared = self.layout.split(observations)
        normalised = self._normalised(rows, slice(self.layout.features))
        rows = torch.where(present_servers(rows).unsqueeze(-1), normalised, rows)
        shared = self._normalised(shared, slice(self.layout.features, None))
        return torch.cat([rows.flatten(-2), shared], dim=-1).flatten(-2)

    def _normalised(self, features: Tensor, which: slice) -> Tensor:
        scaled = (features - self.shift_of(features)[which]) * self.scale[which]
        return scaled.clamp(-self.clip, self.clip)

    @override
    def update(self, observations: Tensor) -> None:
        rows, shared = (part[:, -1] for part in self.layout.split(observations))
        everything = torch.cat([rows, shared.unsqueeze(1).expand(-1, rows.shape[1], -1)], dim=-1)
        super().update(everything[present_servers(rows)])


def present_servers(rows: Tensor) -> Tensor:
    """Which servers exist, shape (...), bool, by their rows (..., F)."""
    return (rows != _ABSENT).any(dim=-1)


def _find_layout(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], options: ServersOptions
) -> ServersLayout:
    if not isinstance(action_space, gym.spaces.Discrete):
        raise ConfigError(
            f"action space must be Discrete, one action per server, for the policy 'servers', got "
            f"{action_space}: use the policy 'mlp'"
        )
    servers = int(action_space.n)
    shape = observation_space.shape if isinstance(observation_space, gym.spaces.Box) else ()
    if len(shape) != 1 and (len(shape) != 2 or shape[0] != servers):
        raise ConfigError(
            f"observation space must be a Box of rows of {servers} servers, one after the other, "
            f"for the policy 'servers', got {observation_space}: use the policy 'mlp'"
        )
    size = flat_size(observation_space)
    shared = size % servers if options.shared_features is None else options.shared_features
    features, left = divmod(size - shared, servers)
    if features < 1 or left:
        raise ConfigError(
            f"shared_features must leave each of {servers} servers the same number of features, at "
            f"least one, got {shared} of {size} features: count those after the servers' rows, or "
            "use the policy 'mlp'"
        )
    return ServersLayout(features, shared, options.frame_history)
