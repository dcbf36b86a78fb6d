"""A linear softmax policy that learns from single decisions: the part to embed in a router.

It knows no environment and needs no torch. Shapes: A actions, F weights, K members of a group.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

import numpy as np

from grpo_gym.envs.randomness import stream_key
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.settings import (
    ConfigError,
    Integer,
    Natural,
    Number,
    checked_dataclass,
    from_mapping,
    to_mapping,
)
from grpo_gym.storage import CheckpointError
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.online import kernels
from grpo_gym.trainers.online.config import OnlineConfig

NOT_FINITE = "the weights must be finite, and their products with the features: load them again"


_FORMAT = "grpo-gym-online-policy 1"


@checked_dataclass
class _Saved:
    """The content of a file that `OnlinePolicy.save` wrote."""

    format: str
    num_actions: Integer
    config: OnlineConfig
    weights: tuple[Number, ...]
    decisions: Natural


@dataclass(frozen=True)
class Choice:
    """What `OnlinePolicy.choose` drew, and what `OnlinePolicy.learn` needs of it.

    Attributes:
        features: x at that time, shape (A, F), float64.
        group: Distinct actions in the order of drawing, shape (K,), int64.
        sampled_from: Probabilities of the first draw, shape (A,), float64.
    """

    features: np.ndarray
    group: np.ndarray
    sampled_from: np.ndarray

    @property
    def executed(self) -> int:
        """The action to execute: the first of the group."""
        return int(self.group[0])


class OnlinePolicy:
    """A linear softmax policy that learns from each decision: pi = softmax(x w).

    Example:
        ```python
        policy = OnlinePolicy(num_actions=4, num_features=8)
        choice = policy.choose(features)  # one row per server
        rewards = [measure(choice.executed), *map(estimate, choice.group[1:])]
        policy.learn(choice, rewards)  # as soon as the response is there
        ```

    Attributes:
        config: The settings.
        decisions: Number of choices so far.
    """

    def __init__(
        self, num_actions: int, num_features: int, config: OnlineConfig | None = None
    ) -> None:
        """Start from the uniform policy.

        Raises:
            ConfigError: If `num_actions` is smaller than a group, or larger than 63.
        """
        self.config = OnlineConfig() if config is None else config
        members = self.config.group_size
        if not members <= num_actions <= 63:
            raise ConfigError(
                f"num_actions must be from group_size = {members} to 63, got {num_actions}: a "
                "group consists of distinct actions"
            )
        self.arrays = kernels.PolicyArrays(
            weights=np.zeros(num_features),
            features=np.zeros((num_actions, num_features)),
            pi=np.zeros(num_actions),
            mixed=np.zeros(num_actions),
            group=np.zeros(members, np.int64),
            rewards=np.zeros(members),
            completion=np.zeros(1 << members),
            gradient=np.zeros(num_features),
        )
        self.decisions = 0
        self.rule = kernels.LearningRule(
            learning_rate=self.config.learning_rate,
            exploration=self.config.exploration,
            weight_limit=self.config.weight_limit or math.inf,
            step_limit=self.config.step_limit or math.inf,
            importance_weights=self.config.importance_weights,
        )
        seed = np.uint64(derive_seed(self.config.seed, Stream.ACTIONS))
        self.key = np.uint64(stream_key(seed, 0))

    def __repr__(self) -> str:
        actions, features = self.arrays.features.shape
        return (
            f"<OnlinePolicy of {actions} actions and {features} features, "
            f"{self.decisions:,} decisions>"
        )

    def warm_up(self) -> None:
        """Compile what `choose`, `learn` and `probabilities` run, before the first request waits.

        It takes a second where nothing is in numba's cache yet, and changes nothing in the policy.
        """
        actions, num_features = self.arrays.features.shape
        other = OnlinePolicy(actions, num_features, self.config)
        features = np.zeros((actions, num_features))
        other.learn(other.choose(features), np.zeros(self.config.group_size))
        other.probabilities(features)

    def save(self, path: str | PathLike[str]) -> None:
        """Write settings, weights and the number of decisions as JSON, atomically.

        Raises:
            CheckpointError: If the weights are not finite, or the file cannot be written.
        """
        if not np.isfinite(self.weights).all():
            raise CheckpointError(f"cannot save {fspath(path)}: {NOT_FINITE}")
        saved = _Saved(
            format=_FORMAT,
            num_actions=self.arrays.features.shape[0],
            config=self.config,
            weights=tuple(self.weights.tolist()),
            decisions=self.decisions,
        )
        try:
            write_atomic(path, json.dumps(to_mapping(saved), indent=1).encode() + b"\n")
        except OSError as error:
            raise CheckpointError(f"cannot save {fspath(path)}: {error}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a policy that `save` wrote; it chooses and learns on as the original.

        Raises:
            CheckpointError: If the file cannot be read, is not ours, or is damaged.
        """
        try:
            content: Any = json.loads(Path(path).read_bytes())
            saved = from_mapping(_Saved, content, fspath(path))
            if saved.format != _FORMAT:
                raise ConfigError(f"format must be {_FORMAT!r}, got {saved.format!r}")
            policy = cls(saved.num_actions, len(saved.weights), saved.config)
        except (OSError, ValueError) as error:  # of JSON and of settings, too
            raise CheckpointError(
                f"{fspath(path)} must be a file that OnlinePolicy.save wrote: {error}"
            ) from error
        policy.weights[:] = saved.weights
        policy.decisions = saved.decisions
        return policy

    @property
    def weights(self) -> np.ndarray:
        """w, shape (F,), float64; initially zero. Change it in place."""
        return self.arrays.weights

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """The policy without exploration, shape (A,), float64.

        Args:
            features: x, shape (A, F).

        Raises:
            ValueError: If there are not A finite rows of F features.
            FloatingPointError: If the weights are not finite.
        """
        self._observe(features)
        kernels.softmax_policy(self.arrays)
        self._check_chances()
        return self.arrays.pi.copy()

    def choose(self, features: np.ndarray) -> Choice:
        """Draw K distinct actions, the first of which is to be executed.

        Args:
            features: x, shape (A, F).

        Raises:
            ValueError: If there are not A finite rows of F features.
            FloatingPointError: If the weights are not finite.
        """
        arrays = self.arrays
        self._observe(features)
        kernels.choose(arrays, self.rule, self.key, self.decisions)
        self._check_chances()
        self.decisions += 1
        return Choice(arrays.features.copy(), arrays.group.copy(), arrays.mixed.copy())

    def learn(self, choice: Choice, rewards: Iterable[float]) -> None:
        """Learn from one choice. Choices may be learned from late and in any order.

        Args:
            choice: From `choose`.
            rewards: One for each action of its group: the first measured, the others estimated.

        Raises:
            ValueError: If there is not one finite reward per action.
        """
        arrays = self.arrays
        given = np.fromiter(rewards, np.float64)
        if given.shape != arrays.rewards.shape or not np.isfinite(given).all():
            raise ValueError(
                f"rewards must be {len(arrays.rewards)} finite numbers, one for each action of the "
                f"group, got {given}"
            )
        arrays.features[:] = choice.features
        arrays.mixed[:] = choice.sampled_from
        arrays.group[:] = choice.group
        arrays.rewards[:] = given
        kernels.softmax_policy(arrays)
        kernels.learn(arrays, self.rule)

    def _observe(self, features: np.ndarray) -> None:
        shape = self.arrays.features.shape
        if np.shape(features) != shape:
            raise ValueError(f"features must have shape {shape}, got {np.shape(features)}")
        if not np.isfinite(features).all():
            raise ValueError(f"features must be finite, got {features}")
        self.arrays.features[:] = features

    def _check_chances(self) -> None:
        # One logit that is not finite leaves no chance that is.
        if not math.isfinite(self.arrays.pi[0]):
            raise FloatingPointError(NOT_FINITE)
