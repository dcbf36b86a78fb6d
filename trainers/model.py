"""A policy bound to an environment: predicting and evaluating. `GRPO` adds how it learns.

Shapes: B observations, D features, A choices.
"""

import contextlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from typing_extensions import override

from grpo_gym.evaluation.episodes import Evaluable
from grpo_gym.policies.distributions import Categorical
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.policies.registry import (
    PolicySource,
    find_policy,
    make_policy,
    merge_policy_kwargs,
)
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.rollouts.policy_inputs import features_of, masks_of
from grpo_gym.rollouts.randomness import Stream, derive_seed, draw_noise
from grpo_gym.rollouts.rows import RowFormat
from grpo_gym.rollouts.spaces import stack_frames
from grpo_gym.settings import ConfigError
from grpo_gym.storage import checkpoint
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.devices import find_device


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
        is_separate: Whether its environments are stepped one by one, as workers can.
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
        super().__init__(config.seed)
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
        sample = _sample(env, self.env_kwargs, config.num_envs)
        self.observation_space = sample.single_observation_space
        self.action_space = sample.single_action_space
        self.is_separate = isinstance(sample, SeparateBatch)
        self.check_training_environment()
        device = find_device(self.config.device)
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
            ).to(device)
        _refuse_float64(self.policy.rows, device)
        if self.config.augment_symmetries and not self.policy.symmetries:
            raise ConfigError(
                f"augment_symmetries must be false with the policy {policy!r}, which knows no "
                "symmetries: use 'board'"
            )
        self.metrics_normaliser: MetricsNormaliser | None = None

    def check_training_environment(self) -> None:
        """Make an environment as training will, if that is another one.

        Raises:
            ConfigError: If it cannot be made, or has other spaces.
        """
        if not self.training_env_kwargs:
            return
        kwargs = {**self.env_kwargs, **self.training_env_kwargs}
        sample = _sample(self.env_source, kwargs, self.config.num_envs)
        training = sample.single_observation_space, sample.single_action_space
        if training != (self.observation_space, self.action_space):
            raise ConfigError(
                "training_env_kwargs must not change the spaces, got "
                f"{training[0]} and {training[1]}: put what changes them into env_kwargs"
            )

    def probabilities(self, observation: Any, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the actions at one observation, shape (A,), float32.

        Args:
            observation: As the environment gives it.
            action_mask: Legal actions, shape (A,).

        Raises:
            ConfigError: If the actions are not Discrete, the policy needs a history, the
                observation is a batch, not in the space or not finite, or the mask allows nothing.
            FloatingPointError: If the policy's outputs are not finite.
        """
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ConfigError(f"actions must be Discrete, got {self.action_space}")
        if self.config.frame_history > 1:
            raise ConfigError("frame_history must be 1: the policy sees more than one observation")
        features, many = features_of(self.observation_space, observation)
        if many:
            raise ConfigError("observation must be a single one, got a batch")
        legal = None
        if action_mask is not None:
            rows = masks_of(self.action_space, action_mask, 1)
            legal = torch.from_numpy(rows).to(self.policy.device)
        with torch.inference_mode():
            seen = torch.from_numpy(features).to(self.policy.device)
            distribution = self.policy.finite_distribution(seen, legal)
            chances = cast(Categorical, distribution).log_probs.flatten().exp()
        return chances.cpu().numpy()

    def weights_sha256(self) -> str:
        """A hash of the policy's weights and statistics, equal exactly when they are."""
        return checkpoint.weights_sha256(self.policy.state_dict())

    @override
    def _act(
        self,
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        starts: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, Any]:
        if self.config.frame_history > 1:
            state = stack_frames(state, observations, self.config.frame_history, starts)
            observations = state.reshape(len(state), -1)
        noise = None
        if generator is not None:
            head = self.policy.head
            noise = draw_noise(generator, head.noise_kind, (len(observations), head.num_components))
        return self.policy.act(observations, masks, noise), state


def _refuse_float64(rows: RowFormat, device: torch.device) -> None:
    """Refuse observations that a device cannot hold.

    Raises:
        ConfigError: If it cannot.
    """
    if device.type == "mps" and rows.dtype == np.float64:
        raise ConfigError(
            'device must be "cpu" with observations that are stored as float64, since their bounds '
            'are large, got "mps", which has none: scale them with a wrapper'
        )


def _sample(env: EnvSource, kwargs: Mapping[str, Any], num_envs: int) -> EnvBatch:
    """A batch of one environment, which is closed: for its spaces and its kind.

    Raises:
        ConfigError: If it is a vector environment of another number than `num_envs`.
    """
    sample = make_batch(env, kwargs, 1)
    sample.close()
    if sample.num_envs not in (1, num_envs):
        raise ConfigError(
            f"num_groups x group_size must be the {sample.num_envs} environments of {sample}, got "
            f"{num_envs}: or pass a function of num_envs that makes it"
        )
    return sample
