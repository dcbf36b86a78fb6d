"""A policy bound to an environment: predicting and evaluating. `GRPO` adds how it learns.

Shapes: B observations, D features, A choices.
"""

import contextlib
import itertools
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from typing_extensions import override

from grpo_gym.evaluation.episodes import ActionFunction, Evaluable
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.policies.registry import (
    PolicySource,
    find_policy,
    make_policy,
    merge_policy_kwargs,
)
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.frame_history import as_features, stack_frames
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.spaces import flatten_batch, flatten_one, is_batch
from grpo_gym.settings import ConfigError
from grpo_gym.storage import checkpoint
from grpo_gym.trainers.config import GRPOConfig


class PolicyModel(Evaluable):
    """A policy and the environment it is for.

    Attributes:
        config: The settings.
        policy: The network with its head and normaliser.
        policy_source: What it was made from: a name, or the user's factory.
        policy_kwargs: Keyword arguments of the user's factory.
        env_source: The environment: an id, a made one, or a function that makes one.
        env_kwargs: The environment's arguments.
        training_env_kwargs: Arguments that replace or extend them in training.
        observation_space: Of one environment.
        action_space: Of one environment.
        metrics_normaliser: How raw metrics became the observations it learned from, for its
            deployment; set it to have it saved with the policy.
    """

    def __init__(
        self,
        policy: PolicySource,
        env: EnvSource,
        *,
        env_kwargs: Mapping[str, Any] | None,
        training_env_kwargs: Mapping[str, Any] | None,
        policy_kwargs: Mapping[str, Any] | None,
        config: GRPOConfig,
    ) -> None:
        """Build a policy for an environment; arguments as for `GRPO`.

        Raises:
            ConfigError: If a name is unknown or the environment cannot be used.
        """
        if isinstance(env, str) and ":" in env:
            # A user's module may register policies beside its environments; if it is missing,
            # making the environment says so.
            with contextlib.suppress(ImportError):
                import_module(env.partition(":")[0])
        self.policy_source = find_policy(policy)
        self.policy_kwargs = dict(policy_kwargs or {})
        self.config = merge_policy_kwargs(self.policy_source, config, self.policy_kwargs)
        self.env_source = env
        self.env_kwargs = dict(env_kwargs or {})
        self.training_env_kwargs = dict(training_env_kwargs or {})
        # Making one environment tells the spaces, and refuses bad arguments before any work.
        self.observation_space, self.action_space = _spaces(env, self.env_kwargs)
        if self.training_env_kwargs:
            training = _spaces(env, {**self.env_kwargs, **self.training_env_kwargs})
            if training != (self.observation_space, self.action_space):
                raise ConfigError(
                    "training_env_kwargs must not change the spaces, got "
                    f"{training[0]} and {training[1]}: put what changes them into env_kwargs"
                )
        # The last bits of orthogonal weights depend on the number of threads.
        torch.set_num_threads(self.config.torch_threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, Stream.WEIGHTS))
            self.policy = make_policy(
                self.policy_source,
                self.observation_space,
                self.action_space,
                self.config,
                self.policy_kwargs,
            )
        if self.config.augment_symmetries and not self.policy.symmetries:
            raise ConfigError(
                f"augment_symmetries must be false with the policy {policy!r}, which knows no "
                "symmetries: use 'board'"
            )
        self.metrics_normaliser: MetricsNormaliser | None = None
        self._predictions = itertools.count()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Choose an action, as Stable-Baselines3's models do.

        Args:
            observation: One observation or a batch of them, as the environment gives it.
            state: The state that the last call returned, None at first; with `frame_history`
                above 1 it holds the last observations.
            episode_start: Where an episode begins, shape (B,), bool: earlier observations are
                forgotten there.
            deterministic: The most probable action instead of a sample.
            action_masks: Legal actions, shape (A,) or (B, A); sb3-contrib's name.

        Returns:
            An action, or a batch of actions, and the state for the next call.

        Raises:
            ConfigError: If the observation does not fit the space.
        """
        many = is_batch(self.observation_space, observation)
        flatten = flatten_batch if many else flatten_one
        features = np.ascontiguousarray(flatten(self.observation_space, observation))
        starts = None if episode_start is None else np.atleast_1d(episode_start).astype(np.bool_)
        features, state = self._remember(features, state, starts)
        masks = None if action_masks is None else np.atleast_2d(np.asarray(action_masks, np.bool_))
        noise = None
        if not deterministic:
            noise = self._noise(len(features), Stream.PREDICTION, next(self._predictions))
        actions = self.policy.act(features, masks, noise)
        return (actions if many else actions[0]), state

    def probabilities(self, observation: Any, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the actions at one observation, shape (A,), float32.

        Args:
            observation: As the environment gives it.
            action_mask: Legal actions, shape (A,).

        Raises:
            ConfigError: If the actions are not Discrete, the policy needs a history, or the
                observation does not fit the space.
        """
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ConfigError(f"actions must be Discrete, got {self.action_space}")
        if self.config.frame_history > 1:
            raise ConfigError("frame_history must be 1: the policy sees more than one observation")
        is_batch(self.observation_space, observation)  # refuses other shapes
        features = torch.from_numpy(flatten_one(self.observation_space, observation))
        legal = None if action_mask is None else torch.tensor(action_mask, dtype=torch.bool)[None]
        count = int(self.action_space.n)
        with torch.inference_mode():
            outputs = self.policy(features).expand(count, -1)
            masks = None if legal is None else legal.expand(count, -1)
            each = torch.arange(count)[:, None]
            chances = self.policy.distribution(outputs, masks).log_prob(each).exp()
        return chances.numpy()

    @override
    def action_function(self, deterministic: bool = True, seed: int = 0) -> ActionFunction:
        draws = itertools.count()

        def act(
            observations: np.ndarray, masks: np.ndarray | None, state: Any, start: np.ndarray
        ) -> tuple[np.ndarray, Any]:
            noise = None
            if not deterministic:
                noise = self._noise(len(observations), Stream.EVALUATION, seed, next(draws))
            features, state = self._remember(observations, state, start)
            return self.policy.act(features, masks, noise), state

        return act

    def weights_sha256(self) -> str:
        """A hash of the policy's weights and statistics, equal exactly when they are."""
        return checkpoint.weights_sha256(self.policy.state_dict())

    def _remember(
        self, observations: np.ndarray, state: Any, starts: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        """The policy's input at observations (B, D), and the state for the next call."""
        if self.config.frame_history == 1:
            return observations, state
        frames = stack_frames(state, observations, starts, self.config.frame_history)
        return as_features(frames), frames

    def _noise(self, rows: int, stream: Stream, *key: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.config.seed, stream, *key))
        shape = (rows, self.policy.head.num_components)
        if self.policy.head.noise_kind == "uniform":
            return generator.random(shape, np.float32)
        return generator.standard_normal(shape, np.float32)


def _spaces(env: EnvSource, kwargs: Mapping[str, Any]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Observation and action space of an environment."""
    sample = make_batch(env, kwargs, 1)
    sample.close()
    return sample.single_observation_space, sample.single_action_space
