"""The native environments: `import grpo_gym` registers them with Gymnasium. Imports no torch."""

from importlib import import_module

import gymnasium as gym

from grpo_gym.envs.descriptor import EnvironmentDescriptor

_PACKAGES = (
    "grpo_gym.envs.load_balancer",
    "grpo_gym.envs.battleship",
    "grpo_gym.envs.autoscaler",
)

DESCRIPTORS: tuple[EnvironmentDescriptor, ...] = tuple(
    import_module(f"{package}.descriptor").DESCRIPTOR for package in _PACKAGES
)
"""What the rest of the package knows about each native environment."""
_BY_ID = {descriptor.env_id: descriptor for descriptor in DESCRIPTORS}


def descriptor_of(env_id: str) -> EnvironmentDescriptor | None:
    """The descriptor of a native environment, with or without "grpo_gym:" before its id.

    Returns:
        None for other environments.
    """
    return _BY_ID.get(env_id.removeprefix("grpo_gym:"))


def register_environments() -> None:
    """Register every environment once; later calls change nothing."""
    for descriptor in DESCRIPTORS:
        if descriptor.env_id not in gym.registry:
            gym.register(
                descriptor.env_id,
                entry_point=descriptor.entry_point,
                vector_entry_point=descriptor.vector_entry_point,
            )
