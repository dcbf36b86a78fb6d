"""Asking a policy or a fallback for an action, without letting it fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_gym.deployment.records import describe
from grpo_gym.settings import ConfigError


@dataclass(frozen=True)
class Proposal:
    """An action, or the reason why there is none."""

    action: Any
    """None if there is an error."""
    error: str | None = None
    """Type and text of the exception."""


class Controller:
    """A callable `observation -> action`, or a model with Stable-Baselines3's `predict`.

    A model is asked for its deterministic action; its recurrent state is passed back to it.
    """

    def __init__(self, behaviour: Any, name: str) -> None:
        """Wrap a callable or a model.

        Args:
            behaviour: The callable or the model; an object that is both is used as a model.
            name: For error messages.

        Raises:
            ConfigError: If it is neither.
        """
        self._is_model = callable(getattr(behaviour, "predict", None))
        if not self._is_model and not callable(behaviour):
            raise ConfigError(
                f"{name} must be a callable observation -> action or have a method predict, "
                f"got {behaviour!r}"
            )
        self._behaviour = behaviour
        self._state: Any = None

    def propose(self, observation: Any) -> Proposal:
        """The action for an observation, or the error where there is none that is finite."""
        try:
            action = self._choose(observation)
            check_finite(action)
        # A policy may fail in any way; the guard exists to survive that.
        except Exception as error:
            return Proposal(None, describe(error))
        return Proposal(action)

    def _choose(self, observation: Any) -> Any:
        if not self._is_model:
            return self._behaviour(observation)
        action, self._state = self._behaviour.predict(
            observation, state=self._state, deterministic=True
        )
        return action


def check_finite(action: Any) -> None:
    """Refuse an action that is None or contains a nan or an infinity.

    Raises:
        ValueError: If it does.
    """
    if action is None:
        raise ValueError("action must not be None")
    if isinstance(action, Mapping | list | tuple):
        for part in action.values() if isinstance(action, Mapping) else action:
            check_finite(part)
        return
    numbers = np.asarray(action)
    if numbers.dtype.kind in "fc" and not np.isfinite(numbers).all():
        raise ValueError(f"action must be finite, got {action!r}")
