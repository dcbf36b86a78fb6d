"""A user's own network as a policy.

Shapes: N rows, D features of a flattened observation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from grpo_gym.policies.network import Policy, feedforward
from grpo_gym.policies.options import PolicyOptions
from grpo_gym.settings import ConfigError, Count, check_value

_RANDOM_OR_STATEFUL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class CustomPolicy(Policy):
    """A policy whose network comes from a user's factory; see `registry.register_policy`."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        options: PolicyOptions,
        factory: Callable[..., nn.Module],
        policy_kwargs: Mapping[str, Any],
    ) -> None:
        """Build the network and try it on two rows of zeros; arguments as for `make_policy`.

        Raises:
            ConfigError: If a space is not supported, the factory fails or does not return a
                module, or the module's outputs do not fit the action space.
        """
        super().__init__(observation_space, action_space, options)
        name = qualified_name(factory)
        try:
            network = factory(observation_space, action_space, **policy_kwargs)
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"policy {name} failed with (observation_space, action_space, **policy_kwargs) = "
                f"({observation_space}, {action_space}, **{dict(policy_kwargs)}): {error!r}"
            ) from error
        if not isinstance(network, nn.Module):
            raise ConfigError(f"policy {name} must return a torch.nn.Module, got {network!r}")
        outputs = self.head.num_network_outputs
        features = getattr(network, "features_dim", None)
        if features is not None:
            check_value(f"features_dim of policy {name}", features, Count)
        width = outputs if features is None else features
        self._try(name, network, width)
        # Nested in a Sequential, weights have the same names with and without our last layer.
        self.network = nn.Sequential(network)
        if features is not None:
            self.network.extend(feedforward(width, (), outputs))

    def _try(self, name: str, network: nn.Module, width: int) -> None:
        for module in network.modules():
            if isinstance(module, _RANDOM_OR_STATEFUL):
                raise ConfigError(
                    f"policy {name} must not contain {type(module).__name__}: it would compute "
                    "other probabilities in the update than when acting; LayerNorm would not"
                )
        rows = torch.zeros(2, self.observation_size)
        try:
            with torch.no_grad():
                found = tuple(network(rows).shape)
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"policy {name} must map observations of shape (N, {self.observation_size}), "
                f"float32, got {error!r}"
            ) from error
        if found != (2, width):
            raise ConfigError(
                f"policy {name} must map (N, {self.observation_size}) to (N, {width}), got "
                f"(N, {', '.join(map(str, found[1:]))}): one logit per choice, one mean per "
                "dimension of a Box, or `features_dim` features"
            )


def qualified_name(factory: Callable[..., nn.Module]) -> str:
    """How messages and checkpoints name a factory: its module and name, such as nets.Small."""
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}.{named.__qualname__}"
