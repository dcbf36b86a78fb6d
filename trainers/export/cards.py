"""The card of a model that is exported."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import grpo_gym
from grpo_gym.inference.card import FORMAT_VERSION, Card
from grpo_gym.inference.spaces import space_to_json
from grpo_gym.policies.options import OPTIONS_OF, PolicyOptions
from grpo_gym.policies.servers import ServersPolicy
from grpo_gym.settings import to_mapping
from grpo_gym.trainers.model import PolicyModel
from grpo_gym.trainers.saved_environment import as_in_file


def make_card(model: PolicyModel, training: Mapping[str, Any]) -> Card:
    """The card of a model.

    Args:
        model: Its policy, spaces and environment.
        training: What is known of its training.
    """
    source = model.policy_source
    kind = source if isinstance(source, str) else None
    settings = to_mapping(model.config)
    fields = dataclasses.fields(OPTIONS_OF.get(kind or "", PolicyOptions))
    options = {field.name: settings[field.name] for field in fields}
    if isinstance(model.policy, ServersPolicy):
        options["shared_features"] = model.policy.layout.shared
    env_id = model.env_source if isinstance(model.env_source, str) else None
    metrics = model.metrics_normaliser
    return {
        "format_version": FORMAT_VERSION,
        "grpo_gym_version": grpo_gym.__version__,
        "policy": kind,
        "options": options,
        "env_id": env_id,
        "env_kwargs": _as_json(as_in_file(model.env_kwargs, env_id)),
        "training_env_kwargs": _as_json(as_in_file(model.training_env_kwargs, env_id)),
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "training": {**training, "settings": settings},
        "metrics_normaliser": None if metrics is None else metrics.state(),
        "weights_sha256": model.weights_sha256(),
    }


def _as_json(kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Arguments as JSON; None if it has others than text, numbers, lists and dictionaries."""
    try:
        json.dumps(kwargs, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return kwargs
