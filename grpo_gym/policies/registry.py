"""Which policy a name or a callable stands for: built-in, registered, or a user's own network.

Shapes: N rows, D features of a flattened observation.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

import gymnasium as gym
from torch import nn

from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.combined import CNNPolicy, CombinedPolicy
from grpo_gym.policies.custom import CustomPolicy
from grpo_gym.policies.gru import GRUPolicy
from grpo_gym.policies.network import MLPPolicy, Policy
from grpo_gym.policies.options import OPTIONS_OF, NetworkConfig
from grpo_gym.policies.servers import ServersPolicy
from grpo_gym.policies.temporal import TemporalPolicy
from grpo_gym.settings import ConfigError, suggest

NetworkFactory = Callable[..., nn.Module]
"""`(observation_space, action_space, **policy_kwargs) -> nn.Module`; see `register_policy`."""
PolicySource = str | NetworkFactory
"""A registered name, or a factory."""
Config = TypeVar("Config", bound=NetworkConfig)

_BUILT_IN: dict[str, Callable[[Any, Any, Any], Policy]] = {
    "linear": Policy,
    "mlp": MLPPolicy,
    "cnn": CNNPolicy,
    "combined": CombinedPolicy,
    "board": BoardPolicy,
    "servers": ServersPolicy,
    "gru": GRUPolicy,
    "temporal": TemporalPolicy,
}
_REGISTERED: dict[str, NetworkFactory] = {}


def policy_names() -> list[str]:
    """The names of all policies, built-in ones first."""
    return [*_BUILT_IN, *_REGISTERED]


def is_built_in(policy: PolicySource) -> bool:
    """Whether a policy is one of ours, with options in `NetworkConfig`."""
    return isinstance(policy, str) and policy in _BUILT_IN


def register_policy(name: str, factory: NetworkFactory) -> None:
    """Make a network known by name, for YAML files, the command line and `GRPO(name, ...)`.

    Args:
        name: The name; registering the same factory again changes nothing.
        factory: Called as `factory(observation_space, action_space, **policy_kwargs)`; returns a
            module that maps flattened (and, unless switched off, normalised) observations, shape
            (N, D), float32, to one logit per choice for Discrete and MultiDiscrete actions
            (components side by side) or one mean per dimension for Box actions. A module with an
            integer attribute `features_dim` is a features extractor instead: it maps to
            (N, features_dim), and a linear layer to logits or means is appended.

    Raises:
        ConfigError: If the name is taken or not a plain name, or the factory is not callable.
    """
    if not name or ":" in name:
        raise ConfigError(f"name must be a non-empty text without a colon, got {name!r}")
    if not callable(factory):
        raise ConfigError(f"factory must be callable, got {factory!r}")
    if name in _BUILT_IN or _REGISTERED.get(name, factory) is not factory:
        raise ConfigError(f"name must not be taken, got {name!r}: choose another")
    _REGISTERED[name] = factory


def find_policy(policy: PolicySource) -> PolicySource:
    """The plain name, or the factory, that a user's choice stands for.

    As with Gymnasium's ids, "module:name" imports the module first, which registers the name.

    Raises:
        ConfigError: If the name is unknown or the module cannot be imported.
    """
    if not isinstance(policy, str):
        if not callable(policy):
            raise ConfigError(f"policy must be a name or a callable, got {policy!r}")
        return policy
    module, _, name = policy.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(f"policy {policy!r} cannot be imported: {error}") from error
    if name not in policy_names():
        hint = suggest(name, policy_names())
        raise ConfigError(f"policy must be a known name, got {policy!r}.{hint}")
    return name


def merge_policy_kwargs(
    policy: PolicySource, config: Config, policy_kwargs: Mapping[str, Any]
) -> Config:
    """The config with a built-in policy's `policy_kwargs`; a user's own network keeps its own.

    Raises:
        ConfigError: If the policy has no such option.
    """
    if not isinstance(policy, str) or not is_built_in(policy):
        return config
    known = [field.name for field in dataclasses.fields(OPTIONS_OF[policy])]
    for name in policy_kwargs:
        if name not in known:
            hint = suggest(str(name), known)
            raise ConfigError(f"policy_kwargs: {name!r} is not an option of {policy!r}.{hint}")
    return replace(config, **policy_kwargs)


def make_policy(
    policy: PolicySource,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: NetworkConfig,
    policy_kwargs: Mapping[str, Any],
) -> Policy:
    """Build the policy that `find_policy` found.

    Args:
        policy: A plain name or a factory.
        observation_space: Of one environment.
        action_space: Of one environment.
        config: Options of the built-in policies; those in `PolicyOptions` hold for all.
        policy_kwargs: Passed to a user's factory.

    Raises:
        ConfigError: If a space is not supported, or the factory does not return a fitting module.
    """
    if isinstance(policy, str) and policy in _BUILT_IN:
        return _BUILT_IN[policy](observation_space, action_space, config)
    factory = _REGISTERED[policy] if isinstance(policy, str) else policy
    return CustomPolicy(observation_space, action_space, config, factory, policy_kwargs)
