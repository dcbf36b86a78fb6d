"""The files that policies run from without torch: what `model.export` wrote, and checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from grpo_gym.inference.card import CARD_KEY, FORMAT_VERSION, Card, card_from_text
from grpo_gym.inference.spaces import space_from_text, space_to_json
from grpo_gym.inference.torch_archive import read_archive
from grpo_gym.settings import ConfigError, check_value
from grpo_gym.storage.container import read_body, refuse, weights_digest

SUFFIX = ".safetensors"
_CHECKPOINT_KIND = "grpo"


@dataclass(frozen=True)
class PolicyFile:
    """A policy as a file holds it.

    Attributes:
        card: What is known of it.
        weights: By the names that the network has in torch.
    """

    card: Card
    weights: Mapping[str, np.ndarray]


class _Environment(TypedDict):
    """The part of a checkpoint that says what its policy acts in."""

    id: str | None
    kwargs: dict[str, Any] | None
    training_kwargs: dict[str, Any] | None
    observation_space: str
    action_space: str


class _Payload(TypedDict):
    """The part of a checkpoint that a policy needs; `trainers.payloads` has all of it."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]
    config: dict[str, Any]
    policy_kind: str | None
    environment: _Environment
    model: dict[str, np.ndarray]
    iteration: Annotated[int, Field(ge=0)]
    num_steps: Annotated[int, Field(ge=0)]
    notes: dict[str, Any]


def read_policy(path: str | PathLike[str]) -> PolicyFile:
    """A policy from a .safetensors file, or else from a checkpoint.

    Raises:
        CheckpointError: If the file is missing, damaged or not ours.
        ConfigError: If a package is missing that reads it.
    """
    if Path(path).suffix == SUFFIX:
        return _read_safetensors(path)
    return _read_checkpoint(path)


def digest_of(weights: Mapping[str, np.ndarray]) -> str:
    """The hash of weights that `model.weights_sha256()` gives in torch."""
    return weights_digest(
        (name, f"torch.{array.dtype}", array.shape, array.tobytes())
        for name, array in weights.items()
    )


def _read_safetensors(path: str | PathLike[str]) -> PolicyFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path} needs the package safetensors: pip install 'grpo-gym[export]'"
        ) from error
    if not Path(path).is_file():
        refuse(path, "there is no such file: check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        refuse(path, f"{error.strerror or error}: check the path and its permissions", error)
    except (SafetensorError, TypeError, ValueError) as error:
        refuse(path, f"it is damaged, or no safetensors file ({error}): use another copy", error)
    if CARD_KEY not in metadata:
        refuse(path, "it has no card, so grpo-gym did not write it: choose another file")
    try:
        card = card_from_text(metadata[CARD_KEY])
    except ConfigError as error:
        refuse(path, str(error), error)
    if digest_of(weights) != card["weights_sha256"]:
        refuse(path, "it is damaged (the SHA-256 of its weights does not match): use another copy")
    return PolicyFile(card, weights)


def _read_checkpoint(path: str | PathLike[str]) -> PolicyFile:
    body = read_body(path)
    try:
        content = read_archive(body)
        kind, payload = content["kind"], content["payload"]
    except Exception as error:  # a forged file may raise anything
        refuse(path, f"its content is not what grpo-gym writes ({error}): do not use it", error)
    if kind != _CHECKPOINT_KIND:
        refuse(path, f"kind must be {_CHECKPOINT_KIND!r}, got {kind!r}: choose another file")
    try:
        checked: _Payload = check_value("payload", payload, _Payload)
    except ConfigError as error:
        refuse(path, str(error), error)
    environment = checked["environment"]
    return PolicyFile(
        {
            "format_version": FORMAT_VERSION,
            "grpo_gym_version": "",
            "policy": checked["policy_kind"],
            "options": checked["config"],
            "env_id": environment["id"],
            "env_kwargs": environment["kwargs"],
            "training_env_kwargs": environment["training_kwargs"],
            "observation_space": _space(path, environment["observation_space"], with_bounds=False),
            "action_space": _space(path, environment["action_space"], with_bounds=True),
            "training": {
                "iterations": checked["iteration"],
                "steps": checked["num_steps"],
                "notes": checked["notes"],
            },
            "metrics_normaliser": None,
            "weights_sha256": digest_of(checked["model"]),
        },
        checked["model"],
    )


def _space(path: str | PathLike[str], text: str, *, with_bounds: bool) -> dict[str, Any]:
    """The space of a checkpoint, as JSON."""
    space = space_from_text(text, with_bounds=with_bounds)
    if space is None:
        refuse(
            path,
            f"its space {text} does not tell enough without torch: load it with GRPO and export it "
            f"to a {SUFFIX} file",
        )
    return space_to_json(space)
