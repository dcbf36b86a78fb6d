"""The network of `servers`, forwards and backwards: see `policies.servers`.

Shapes: M steps; N servers, L of the M * N present; H frames of F features of a server and S shared
ones; W width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.policies.servers import ABSENT_SCORE, ServersPolicy, present_servers
from grpo_gym.trainers.learning.fused import kernels, servers_kernels
from grpo_gym.trainers.learning.fused.layers import Layers, Views, is_plain


class Servers:
    """From servers' features to their scores.

    Attributes:
        width: H * (N * F + S) features, and N numbers that say which servers are present.
    """

    def __init__(self, policy: Policy, weights: Views, gradient: Views) -> None:
        """Read weights from views of them, which may change, and write gradients to others."""
        assert isinstance(policy, ServersPolicy)
        self._policy, self._layout = policy, policy.layout
        self._servers = policy.head.num_outputs
        self.width = policy.observation_size + self._servers
        self._encoder = Layers(_without_last(policy.encoder), weights, gradient)
        self._network = Layers(policy.network, weights, gradient)

    @staticmethod
    def covers(policy: Policy) -> bool:
        """Whether the networks are still as they were made."""
        if not isinstance(policy, ServersPolicy):
            return False
        last = policy.encoder[-1]
        plain = is_plain(_without_last(policy.encoder)) and is_plain(policy.network)
        return plain and type(last) is nn.ReLU

    def pack(self, observations: Tensor) -> Tensor:
        """Features and which servers are present, shape (M, width)."""
        rows, _ = self._layout.split(observations)
        present = present_servers(rows)[:, -1].to(torch.float32)
        return torch.cat([self._policy.features(observations), present], dim=1)

    def forward(self, packed: Tensor) -> Tensor:
        """Scores, shape (M, N)."""
        steps, servers, layout = packed.shape[0], self._servers, self._layout
        numbers = packed.numpy()
        inputs = np.empty(
            (steps * servers, layout.frames * (layout.features + layout.shared)), np.float32
        )
        members = np.empty(steps * servers, np.int64)
        sizes = layout.frames, servers, layout.features, layout.shared
        found = servers_kernels.lay_out(numbers, *sizes, inputs, members)
        hidden = self._encoder.forward(torch.from_numpy(inputs[:found]))
        hidden.relu_()
        self._hidden, self._members = hidden.numpy(), members[:found]
        width = hidden.shape[1]
        self._summary = np.zeros((steps, 2 * width), np.float32)
        self._counts = np.zeros(steps, np.float32)
        servers_kernels.summarise(self._hidden, self._members, servers, self._summary, self._counts)
        self._weights = self._network.forward(torch.from_numpy(self._summary)).numpy()
        scores = np.full((steps, servers), ABSENT_SCORE, np.float32)
        servers_kernels.score(self._hidden, self._members, self._weights, scores)
        return torch.from_numpy(scores)

    def backward(self, slopes: Tensor) -> None:
        """Write all gradients, for the loss's slopes by scores (M, N)."""
        by_scores = slopes.numpy()
        by_weights = np.zeros_like(self._weights)
        servers_kernels.by_weights(self._hidden, self._members, by_scores, by_weights)
        first = self._network.backward(torch.from_numpy(by_weights))
        by_summary = self._network.slopes_by_inputs(first).numpy()
        by_hidden = np.empty_like(self._hidden)
        servers_kernels.by_hidden(
            self._hidden,
            self._members,
            by_scores,
            self._weights,
            self._summary,
            self._counts,
            by_summary,
            np.zeros_like(self._weights),
            by_hidden,
        )
        kernels.through_relu(by_hidden, self._hidden, np.empty(by_hidden.shape[1], np.float32))
        self._encoder.backward(torch.from_numpy(by_hidden))


def _without_last(network: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*list(network)[:-1])
