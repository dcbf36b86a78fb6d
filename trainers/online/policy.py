"""A linear softmax policy that learns from single decisions: what a router embeds.

It chooses and learns, and knows of no environment. Shapes: A actions, F weights, K members of a
group.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from grpo_gym.envs.randomness import stream_key
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.settings.config import ConfigError
from grpo_gym.trainers.online import kernels
from grpo_gym.trainers.online.config import OnlineConfig


@dataclass(frozen=True)
class Decision:
    """What `OnlinePolicy.choose` decided, and what learning from it takes.

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
        decision = policy.choose(features)  # one row per server
        rewards = [measure(decision.executed), *map(estimate, decision.group[1:])]
        policy.learn(decision, rewards)  # whenever the answer is there
        ```

    Attributes:
        config: The settings.
        weights: w, shape (F,), float64; zero at first.
        decisions: How many were made.
    """

    def __init__(
        self, num_actions: int, num_features: int, config: OnlineConfig | None = None
    ) -> None:
        """A uniform policy.

        Raises:
            ConfigError: If there are fewer actions than a group has, or more than 63.
        """
        self.config = OnlineConfig() if config is None else config
        if not self.config.group_size <= num_actions <= 63:
            raise ConfigError(
                f"num_actions must be from group_size = {self.config.group_size} to 63, got "
                f"{num_actions}: a group consists of different actions"
            )
        self.weights = np.zeros(num_features)
        self.decisions = 0
        self.settings = _kernel_settings(self.config)
        seed = np.uint64(derive_seed(self.config.seed, Stream.ACTIONS))
        self.key = np.uint64(stream_key(seed, 0))
        self.workspace = kernels.make_workspace(num_actions, num_features, self.config.group_size)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """The policy without exploration, shape (A,), float64.

        Args:
            features: x, shape (A, F).

        Raises:
            ValueError: If they are not finite.
        """
        self.workspace.features[:] = _finite(features)
        kernels.policy_kernel(self.weights, self.workspace)
        return self.workspace.pi.copy()

    def choose(self, features: np.ndarray) -> Decision:
        """Draw K distinct actions, of which the first is to be executed.

        Args:
            features: x, shape (A, F).

        Raises:
            ValueError: If they are not finite: one such decision would spoil all weights.
        """
        work = self.workspace
        work.features[:] = _finite(features)
        kernels.choose_kernel(self.weights, work, self.settings, self.key, self.decisions)
        self.decisions += 1
        return Decision(work.features.copy(), work.group.copy(), work.mixed.copy())

    def learn(self, decision: Decision, rewards: Iterable[float]) -> None:
        """Learn from one decision, at once or later: it may be out of order.

        Args:
            decision: From `choose`.
            rewards: Of each action in its group: the first one measured, the others estimated.

        Raises:
            ValueError: If there is not one finite reward for each.
        """
        work = self.workspace
        given = np.fromiter(rewards, np.float64)
        if given.shape != work.rewards.shape or not np.isfinite(given).all():
            raise ValueError(
                f"rewards must be {len(work.rewards)} finite numbers, one for each action of the "
                f"group, got {given}"
            )
        work.features[:] = decision.features
        work.mixed[:] = decision.sampled_from
        work.group[:] = decision.group
        work.rewards[:] = given
        kernels.learn_kernel(self.weights, work, self.settings)


def _finite(features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():
        raise ValueError(f"features must be finite, got {features}")
    return features


def _kernel_settings(config: OnlineConfig) -> np.ndarray:
    settings = np.zeros(1, kernels.LEARNING)
    settings["learning_rate"] = config.learning_rate
    settings["exploration"] = config.exploration
    for name in ("weight_limit", "step_limit"):
        limit = getattr(config, name)
        settings[name] = math.inf if limit is None else limit
    settings["importance_weights"] = config.importance_weights
    settings["privileged"] = config.estimates == "privileged"
    return settings
