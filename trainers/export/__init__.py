"""Trained policies as files that run without this package, or without torch."""

from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium as gym

from grpo_gym.inference.card import Card
from grpo_gym.policies.network import Policy
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from grpo_gym.storage.files import make_folder_of, write_atomic
from grpo_gym.trainers.export.graph import PolicyGraph
from grpo_gym.trainers.export.onnx_file import onnx_bytes
from grpo_gym.trainers.export.safetensors_file import safetensors_bytes

__all__ = ["SUFFIXES", "check_target", "export_policy"]

SUFFIXES = (".onnx", ".safetensors")
"""Of the files that can be written."""


def check_target(path: str | PathLike[str]) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        ConfigError: If its name does not end as that of a known kind.
        CheckpointError: If its folder cannot be made, or it is one.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f"an export must end with {' or '.join(SUFFIXES)}, got {path}")
    try:
        make_folder_of(Path(path))
    except OSError as error:
        raise CheckpointError(_cannot(path, error)) from error


def export_policy(
    path: str | PathLike[str],
    policy: Policy,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    card: Card,
) -> None:
    """Write a policy to a file, atomically.

    Args:
        path: Ends with .onnx or .safetensors.
        policy: The policy.
        observation_space: Of one environment.
        action_space: Of one environment.
        card: What is known of it.

    Raises:
        ConfigError: If the name ends otherwise, a package is missing, or the network cannot be
            translated.
        CheckpointError: If the file cannot be written; the old file is then unchanged.
    """
    check_target(path)
    if Path(path).suffix == ".onnx":
        content = onnx_bytes(PolicyGraph(policy, observation_space, action_space), card)
    else:
        content = safetensors_bytes(policy, card)
    try:
        write_atomic(path, content)
    except OSError as error:
        raise CheckpointError(_cannot(path, error)) from error


def _cannot(path: str | PathLike[str], error: OSError) -> str:
    return (
        f"cannot write {path}: {error.strerror or error}: free space or choose another path; the "
        "old file is unchanged"
    )
