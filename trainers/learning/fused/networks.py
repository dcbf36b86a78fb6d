"""Which policies' networks are computed by hand, and their outputs without a graph.

Shapes: M steps; B rows; P distribution parameters; N numbers of a policy.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo_gym.policies.network import MLPPolicy, Policy
from grpo_gym.policies.servers import ServersPolicy
from grpo_gym.trainers.learning.fused.layers import FeedForward, Views
from grpo_gym.trainers.learning.fused.servers import Servers

_NETWORKS: dict[type[Policy], type[FeedForward] | type[Servers]] = {
    Policy: FeedForward,
    MLPPolicy: FeedForward,
    ServersPolicy: Servers,
}


class Network(Protocol):
    """A policy's network by hand.

    Attributes:
        width: Numbers that it needs of a step.
    """

    width: int

    def pack(self, observations: Tensor, /) -> Tensor:
        """What it needs of steps, shape (M, width), for observations as rows."""

    def forward(self, packed: Tensor, /) -> Tensor:
        """The network's outputs, shape (M, P)."""

    def backward(self, slopes: Tensor, /) -> Any:
        """Write all gradients, for the loss's slopes by the outputs of the last call."""


def has_network(policy: Policy) -> bool:
    """Whether a policy's network is computed by hand, in float32 on the CPU."""
    kind = _NETWORKS.get(type(policy))
    return (
        kind is not None
        and kind.covers(policy)
        and all(each.dtype == torch.float32 for each in policy.parameters())
        and all(each.device.type == "cpu" for each in policy.parameters())
    )


def make_network(policy: Policy, weights: Views, gradient: Views) -> Network:
    """The network of a policy that has one; views of its weights and gradients as for `Layers`."""
    return _NETWORKS[type(policy)](policy, weights, gradient)


def forward_of(policy: Policy) -> Callable[[Tensor], Tensor]:
    """A policy's outputs (B, P) at observations (B, W), without a graph.

    By hand they take a fraction of the time. The weights may change, but must stay where they are.
    """
    if not has_network(policy):
        return policy
    weights: Views = {parameter: parameter.detach() for parameter in policy.parameters()}
    network = make_network(policy, weights, weights)

    def forward(observations: Tensor) -> Tensor:
        return policy.head.complete(network.forward(network.pack(observations)))

    return forward


def as_views(parameters: Sequence[Tensor], vector: Tensor) -> Views:
    """The part of a vector (N or more,) that is each parameter's."""
    sizes = [parameter.numel() for parameter in parameters]
    parts = vector[: sum(sizes)].split(sizes)
    return {
        parameter: part.view_as(parameter)
        for parameter, part in zip(parameters, parts, strict=True)
    }
