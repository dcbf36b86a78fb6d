"""What policies without torch are read from: our checkpoints.

Shapes: none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from grpo_gym.inference.spaces import space_from_text, space_to_json
from grpo_gym.inference.torch_archive import read_archive
from grpo_gym.storage.container import read_body, refuse

Path = str | PathLike[str]


@dataclass(frozen=True)
class PolicyFile:
    """A policy as a file holds it.

    Attributes:
        card: What it is: see `grpo_gym.inference.card`.
        weights: By the names that the network has in torch.
    """

    card: dict[str, Any]
    weights: Mapping[str, np.ndarray]


def read_checkpoint(path: Path) -> PolicyFile:
    """A policy from a checkpoint of `GRPO.save`.

    Raises:
        CheckpointError: If the file is missing, damaged, or not ours.
    """
    body = read_body(path)
    try:
        content = read_archive(body)
        payload = content["payload"]
        kind = content["kind"]
    except Exception as error:  # a forged file may raise anything
        refuse(path, f"its content is not what grpo-gym writes ({error}): do not use it", error)
    if kind != "grpo":
        refuse(path, f"kind must be 'grpo', got {kind!r}: choose another file")
    environment = payload["environment"]
    spaces = {}
    for name in ("observation_space", "action_space"):
        space = space_from_text(environment[name], with_bounds=name == "action_space")
        if space is None:
            refuse(
                path,
                f"its {name} {environment[name]} does not tell enough without torch: load it with "
                "GRPO and export it to a .safetensors file",
            )
        spaces[name] = space_to_json(space)
    card = {
        "policy": payload["policy_kind"],
        "options": payload["config"],
        "env_id": environment["id"],
        "env_kwargs": environment["kwargs"],
        **spaces,
        "training": {
            "iterations": payload["iteration"],
            "steps": payload["num_steps"],
            "notes": payload["notes"],
        },
    }
    return PolicyFile(card, payload["model"])


def read_policy(path: Path) -> PolicyFile:
    """A policy from a file of any of these kinds."""
    return read_checkpoint(fspath(path))
