"""A GRPO model as a checkpoint, and back: whatever training goes on from."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings.config import ConfigError, from_mapping, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.schedule import Schedule

if TYPE_CHECKING:
    from grpo_gym.trainers.grpo import GRPO

_KIND = "grpo"


def save(model: "GRPO", path: str | PathLike[str]) -> None:
    """Write a model to one file, atomically.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    checkpoint.save(
        path,
        {
            "config": to_mapping(model.config),
            "policy_kind": model.policy_kind,
            "environment": _describe_environment(model),
            "model": model.policy.state_dict(),
            "reference": None if model.reference is None else model.reference.state_dict(),
            "optimizer": model.optimizer.state_dict(),
            "value_baseline": None
            if model.value_baseline is None
            else model.value_baseline.state(),
            "iteration": model.iteration,
            "num_steps": model.num_steps,
            "notes": model.notes,
            "metrics_normaliser": None
            if model.metrics_normaliser is None
            else model.metrics_normaliser.state(),
            "schedule": [model.schedule.start, model.schedule.end],
        },
        kind=_KIND,
    )


def load(
    cls: type["GRPO"],
    path: str | PathLike[str],
    env: EnvSource | None,
    env_kwargs: Mapping[str, Any] | None,
) -> "GRPO":
    """Read a model; see `GRPO.load`.

    Raises:
        CheckpointError: If the file is damaged, not ours, or of another environment.
    """
    payload = checkpoint.load(path, kind=_KIND)
    saved = payload["environment"]
    source = saved["id"] if env is None else env
    if source is None:
        raise CheckpointError(
            f"{path} was trained in an environment without an id: pass it as env="
        )
    same = isinstance(source, str) and _bare(source) == _bare(saved["id"])
    kwargs = saved["kwargs"] if env_kwargs is None and same else env_kwargs
    try:
        model = cls(
            payload["policy_kind"],
            source,
            env_kwargs=kwargs,
            training_env_kwargs=saved["training_kwargs"] if same else None,
            config=from_mapping(GRPOConfig, payload["config"], str(path)),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used here: {error}") from error
    if not _plays_other_boards(model, payload):
        _check_spaces(saved, _describe_environment(model), path)
    _restore(model, payload)
    return model


def _bare(env_id: str | None) -> str | None:
    """An id without the module that registers it: "grpo_gym:LoadBalancer-v0" is no other game."""
    return None if env_id is None else env_id.rpartition(":")[2]


def _restore(model: "GRPO", payload: Mapping[str, Any]) -> None:
    model.policy.load_state_dict(payload["model"])
    if model.reference is not None:
        model.reference.load_state_dict(payload["reference"])
    model.optimizer.load_state_dict(payload["optimizer"])
    if model.value_baseline is not None:
        model.value_baseline.restore(payload["value_baseline"])
    model.iteration = payload["iteration"]
    model.num_steps = payload["num_steps"]
    model.notes = payload["notes"]
    metrics = payload.get("metrics_normaliser")  # older files have none
    model.metrics_normaliser = None if metrics is None else MetricsNormaliser.from_state(metrics)
    model.schedule = Schedule(*payload["schedule"])


def _plays_other_boards(model: "GRPO", payload: Mapping[str, Any]) -> bool:
    """Whether the policy is for boards of any size, with as many images as here."""
    own = model.policy.state_dict()
    saved = payload["model"]
    return (
        model.policy_kind == "board"
        and own.keys() == saved.keys()
        and all(weights.shape == own[name].shape for name, weights in saved.items())
    )


def _check_spaces(
    saved: Mapping[str, Any], here: Mapping[str, Any], path: str | PathLike[str]
) -> None:
    for name in ("observation_space", "action_space"):
        if saved[name] != here[name]:
            raise CheckpointError(
                f"{path} was trained with {name.replace('_', ' ')} {saved[name]}, but the "
                f"environment here has {here[name]}: pass the env and env_kwargs it was trained "
                "with"
            )


def _describe_environment(model: "GRPO") -> dict[str, Any]:
    env = model.env_source
    return {
        "id": env if isinstance(env, str) else None,
        "kwargs": _plain(model.env_kwargs),
        "training_kwargs": _plain(model.training_env_kwargs),
        "observation_space": str(model.observation_space),
        "action_space": str(model.action_space),
    }


def _plain(value: Any) -> Any:
    """Environment arguments as a checkpoint can hold them; what is no plain value becomes text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
