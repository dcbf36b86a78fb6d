"""From a network's outputs to probabilities and actions, in NumPy: the heads of `policies.heads`.

Shapes: B observations, A choices of all C components side by side, P network outputs.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from grpo_gym.inference.kernels import log_softmax
from grpo_gym.inference.networks import Weights, vector
from grpo_gym.rollouts.box_actions import BoxScale
from grpo_gym.rollouts.returned import choices_of

_ALL = np.ones((0, 0), np.bool_)
"""The mask of no rows: every choice is legal."""


class Head(Protocol):
    """Turns network outputs into actions of one kind of space.

    Attributes:
        sizes: Network outputs of each component of an action.
    """

    sizes: list[int]

    def actions(
        self,
        outputs: np.ndarray,
        masks: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> np.ndarray:
        """Actions in the environment's form, first axis B: samples, or the most probable ones."""


class ChoiceHead:
    """Discrete, MultiDiscrete and MultiBinary actions: one categorical for each component."""

    def __init__(self, space: gym.Space[Any]) -> None:
        """Lay out the choices of each component."""
        self.sizes = choices_of(space)
        self._shape = space.shape or ()
        self._dtype = space.dtype
        self._start = np.asarray(getattr(space, "start", 0), np.int64)
        self._stops = np.cumsum(self.sizes)[:-1]

    def log_probs(self, outputs: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """Log-probabilities of all choices, shape (B, A), float32; -inf where a mask forbids one.

        Raises:
            ValueError: If a mask allows nothing.
        """
        if len(self.sizes) == 1:
            return _log_softmax(outputs, masks)
        logits = self._split(outputs)
        legal = [None] * len(logits) if masks is None else self._split(masks)
        return np.concatenate(list(map(_log_softmax, logits, legal)), axis=1)

    def actions(
        self,
        outputs: np.ndarray,
        masks: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> np.ndarray:
        """As for `Head`."""
        parts = self._split(self.log_probs(outputs, masks))
        if generator is None:
            chosen = [part.argmax(axis=1) for part in parts]
        else:
            noise = generator.random((len(outputs), len(parts)), np.float32)
            chosen = [_sample(part, noise[:, [i]]) for i, part in enumerate(parts)]
        actions = np.stack(chosen, axis=1).reshape(len(outputs), *self._shape) + self._start
        return actions.astype(self._dtype, copy=False)

    def _split(self, choices: np.ndarray) -> list[np.ndarray]:
        """Choices (B, A) by component; `servers` has any number of those of its only one."""
        return np.split(choices, self._stops, axis=1) if len(self._stops) else [choices]


class BoxHead:
    """Box actions: independent normals."""

    def __init__(
        self, space: gym.spaces.Box, log_std_bounds: tuple[float, float], weights: Weights
    ) -> None:
        """Find the deviations among the weights.

        Raises:
            ValueError: If they are not there.
        """
        self._scale = BoxScale(space)
        self.sizes = [1] * int(np.prod(space.shape))
        raw = vector(weights, "head.raw_log_std", len(self.sizes))
        low, high = log_std_bounds
        self._std = np.exp(0.5 * (low + high) + 0.5 * (high - low) * np.tanh(raw))

    def actions(
        self,
        outputs: np.ndarray,
        masks: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> np.ndarray:
        """As for `Head`."""
        if generator is not None:
            outputs = outputs + self._std * generator.standard_normal(outputs.shape, np.float32)
        return self._scale.to_environment(outputs)


def make_head(space: gym.Space[Any], options: Mapping[str, Any], weights: Weights) -> Head:
    """The head of an action space.

    Raises:
        Exception: Of any kind, if the options or weights do not fit it.
    """
    if isinstance(space, gym.spaces.Box):
        return BoxHead(space, options["log_std_bounds"], weights)
    return ChoiceHead(space)


def _log_softmax(logits: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    """Log-probabilities of one component's choices, shape (B, n)."""
    log_probs = np.empty(logits.shape, np.float32)
    if not log_softmax(logits, _ALL if masks is None else masks, log_probs):
        raise ValueError("an action mask must allow at least one action, got none")
    return log_probs


def _sample(log_probs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Choices, shape (B,), where uniforms (B, 1) cut the distribution function."""
    cumulative = np.exp(log_probs).cumsum(axis=1)
    total = cumulative[:, -1:]
    choice = (cumulative <= noise * total).sum(axis=1)
    # Rounding may lead past the end: stay at the last choice of positive probability.
    return np.minimum(choice, (cumulative < total).sum(axis=1))
