"""The card of an exported policy: what whoever runs it must know, as JSON in the file."""

import json
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from grpo_gym.settings import ConfigError, check_value

CARD_KEY = "grpo_gym_card"
"""The name of the card among a file's metadata."""
FORMAT_VERSION: Literal[1] = 1


class Card(TypedDict):
    """A policy's card; arguments that JSON cannot hold are None."""

    format_version: Literal[1]
    grpo_gym_version: str
    """Of the package that wrote it."""
    policy: str | None
    """The network: "linear", "mlp", "servers", ...; None: a user's own without a name."""
    options: dict[str, Any]
    """Of the network."""
    env_id: str | None
    env_kwargs: dict[str, Any] | None
    training_env_kwargs: dict[str, Any] | None
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    training: dict[str, Any]
    """Iterations, environment steps, notes, and the settings of GRPO."""
    metrics_normaliser: dict[str, Any] | None
    """How raw metrics become observations, if the model knows."""
    weights_sha256: str
    """Of the weights, as `model.weights_sha256()` says."""


def card_to_text(card: Card) -> str:
    """A card as JSON."""
    return json.dumps(card, allow_nan=False)


def card_from_text(text: str) -> Card:
    """The card that a file holds.

    Raises:
        ConfigError: If it is none, or a newer one.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"card must be JSON, got {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ConfigError(
            f"format_version must be <= {FORMAT_VERSION}, got {version}: upgrade grpo-gym, which "
            "is older than the file"
        )
    card: Card = check_value("card", content, Card)
    return card
