"""A GRPO model as a checkpoint, and back: everything that training continues from."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_gym.policies.custom import qualified_name
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.policies.registry import PolicySource, find_policy, is_built_in, policy_names
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings import ConfigError, from_mapping, to_mapping
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
            **_describe_policy(model),
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
    policy: PolicySource | None,
    policy_kwargs: Mapping[str, Any] | None,
) -> "GRPO":
    """Read a model; arguments as for `GRPO.load`.

    Raises:
        CheckpointError: If the file is damaged, not ours, or of another environment or policy.
    """
    payload = checkpoint.load(path, kind=_KIND)
    saved = payload["environment"]
    source = saved["id"] if env is None else env
    if source is None:
        raise CheckpointError(
            f"{path} was trained in an environment without an id: pass it as env="
        )
    same = isinstance(source, str) and _bare(source) == _bare(saved["id"])
    try:
        model = cls(
            _policy_source(payload, policy, path),
            source,
            env_kwargs=saved["kwargs"] if env_kwargs is None and same else env_kwargs,
            training_env_kwargs=saved["training_kwargs"] if same else None,
            policy_kwargs=_policy_kwargs(payload, policy_kwargs, path),
            config=from_mapping(GRPOConfig, payload["config"], str(path)),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used here: {error}") from error
    if not _plays_other_boards(model, payload):
        _check_spaces(saved, _describe_environment(model), path)
    _restore(model, payload, path)
    return model


def _describe_policy(model: "GRPO") -> dict[str, Any]:
    """How a policy is named: by its registered name, or by its class or function."""
    source, kwargs = model.policy_source, model.policy_kwargs
    return {
        "policy_kind": source if isinstance(source, str) else None,
        "policy_class": None if isinstance(source, str) else qualified_name(source),
        # Kept only if a file can hold them as they are: `load` asks for others.
        "policy_kwargs": kwargs if _is_plain(kwargs) else None,
    }


def _policy_source(
    payload: Mapping[str, Any], policy: PolicySource | None, path: str | PathLike[str]
) -> PolicySource:
    """The policy to build; a file never imports anything."""
    name = payload["policy_kind"]
    chosen = name if policy is None else find_policy(policy)
    if chosen is None:
        raise CheckpointError(
            f"{path} was trained with the policy {payload['policy_class']}: pass it as policy="
        )
    if isinstance(chosen, str) and chosen not in policy_names():
        raise CheckpointError(
            f"{path} was trained with the policy {name!r}, which is not registered: import the "
            "module that calls register_policy first, or pass the network as policy="
        )
    trained = payload["policy_class"] if name is None else repr(name)
    if isinstance(chosen, str) and chosen != name and (name is not None or is_built_in(chosen)):
        raise CheckpointError(f"{path} was trained with the policy {trained}, not {chosen!r}")
    return chosen


def _policy_kwargs(
    payload: Mapping[str, Any], given: Mapping[str, Any] | None, path: str | PathLike[str]
) -> Mapping[str, Any]:
    saved = payload.get("policy_kwargs", {})  # files before 0.2.0 have none
    if given is None and saved is None:
        raise CheckpointError(
            f"{path} was trained with policy_kwargs that a file cannot hold: pass policy_kwargs="
        )
    kwargs: Mapping[str, Any] = saved if given is None else given
    return kwargs


def _bare(env_id: str | None) -> str | None:
    """An id without the module that registers it: "grpo_gym:LoadBalancer-v0" is no other game."""
    return None if env_id is None else env_id.rpartition(":")[2]


def _restore(model: "GRPO", payload: Mapping[str, Any], path: str | PathLike[str]) -> None:
    try:
        model.policy.load_state_dict(payload["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the policy: {error}") from error
    if model.reference is not None:
        model.reference.load_state_dict(payload["reference"])
    model.optimizer.load_state_dict(payload["optimizer"])
    if model.value_baseline is not None:
        model.value_baseline.restore(payload["value_baseline"])
    model.iteration = payload["iteration"]
    model.num_steps = payload["num_steps"]
    model.notes = payload["notes"]
    metrics = payload.get("metrics_normaliser")  # files before 0.2.0 may have none
    model.metrics_normaliser = None if metrics is None else MetricsNormaliser.from_state(metrics)
    model.schedule = Schedule(*payload["schedule"])


def _plays_other_boards(model: "GRPO", payload: Mapping[str, Any]) -> bool:
    """Whether the policy plays boards of any size, and these have its number of channels."""
    own = model.policy.state_dict()
    saved = payload["model"]
    return (
        model.policy_source == "board"
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


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint can hold a value as it is."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, int, float, bool, type(None)))


def _plain(value: Any) -> Any:
    """Environment arguments as a checkpoint can hold them; other values become text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
