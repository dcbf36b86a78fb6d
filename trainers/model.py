"""A policy bound to an environment: predicting, evaluating. Trainers add how it learns.

Shapes: B observations, D features, A choices.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch

from grpo_gym.evaluation.episodes import Evaluable
from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.gru import GRUPolicy
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.policies.network import Policy
from grpo_gym.policies.temporal import TemporalPolicy
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.frame_history import as_features, stack_frames
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.spaces import flatten_batch, flatten_one, is_batch
from grpo_gym.settings.config import ConfigError, suggest
from grpo_gym.storage import checkpoint
from grpo_gym.trainers.config import GRPOConfig

PolicyKind = Literal["linear", "mlp", "board", "gru", "temporal"]
POLICIES: tuple[str, ...] = get_args(PolicyKind)


class PolicyModel(Evaluable):
    """A policy and the environment it is for.

    Attributes:
        config: The settings.
        policy: The network.
        policy_kind: Its name.
        env_source: The environment: an id, a made one, or a function that makes one.
        env_kwargs: The environment's arguments.
        training_env_kwargs: Those that replace or join them in training.
        observation_space: Of one environment.
        action_space: Of one environment.
        metrics_normaliser: How the observations that it learns from were made of raw metrics, for
            whoever deploys it; set it to have it saved with the policy.
    """

    def __init__(
        self,
        policy: PolicyKind,
        env: EnvSource,
        env_kwargs: Mapping[str, Any] | None,
        training_env_kwargs: Mapping[str, Any] | None,
        config: GRPOConfig,
    ) -> None:
        """Build a policy for an environment.

        Raises:
            ConfigError: If a name is unknown or the environment cannot be used.
        """
        if policy not in POLICIES:
            raise ConfigError(
                f"policy must be a known name, got {policy!r}.{suggest(policy, POLICIES)}"
            )
        self.config = config
        self.policy_kind = policy
        self.env_source = env
        self.env_kwargs = dict(env_kwargs or {})
        self.training_env_kwargs = dict(training_env_kwargs or {})
        # One environment tells the spaces, and refuses bad arguments before anything is paid for.
        self.observation_space, self.action_space = _spaces(env, self.env_kwargs)
        if self.training_env_kwargs:
            training = _spaces(env, {**self.env_kwargs, **self.training_env_kwargs})
            if training != (self.observation_space, self.action_space):
                raise ConfigError(
                    "training_env_kwargs must leave the spaces as they are, got "
                    f"{training[0]} and {training[1]}: put what changes them into env_kwargs"
                )
        # Orthogonal weights differ in their last bits with the number of threads.
        torch.set_num_threads(config.torch_threads)
        self.policy = self._make_policy()
        if config.augment_symmetries and not self.policy.symmetries:
            raise ConfigError(
                f"augment_symmetries must be false with the policy {policy!r}: only 'board' knows "
                "symmetries"
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
            state: What the last call returned, None at first; with `frame_history` above 1 it
                holds the last observations.
            episode_start: Where an episode begins, shape (B,), bool: what was seen before is
                forgotten there.
            deterministic: The most probable action instead of a sample.
            action_masks: Legal actions, shape (A,) or (B, A), called as sb3-contrib calls them.

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
        noise = (
            None
            if deterministic
            else self._noise(len(features), Stream.PREDICTION, next(self._predictions))
        )
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
            raise ConfigError("frame_history must be 1: one observation is not all it sees")
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

    def action_function(self, deterministic: bool = True, seed: int = 0) -> Callable[..., Any]:
        """The policy as `evaluation.evaluate` takes it; `seed` decides sampled actions."""
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

    def _make_policy(self) -> Policy:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, Stream.WEIGHTS))
            return _make_policy(
                self.policy_kind, self.observation_space, self.action_space, self.config
            )

    def _remember(
        self, observations: np.ndarray, state: Any, starts: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        """What the policy sees at observations (B, D), and the state for the next ones."""
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


def _make_policy(
    kind: str,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: GRPOConfig,
) -> Policy:
    if kind == "board":
        return BoardPolicy(
            observation_space,
            action_space,
            channels=config.channels,
            blocks=config.blocks,
            normalise_observations=bool(config.normalise_observations),
            frame_history=config.frame_history,
        )
    options: dict[str, Any] = {
        "normalise_observations": config.normalise_observations is not False,
        "initial_log_std": config.initial_log_std,
        "log_std_bounds": config.log_std_bounds,
        "frame_history": config.frame_history,
    }
    if kind == "gru":
        return GRUPolicy(
            observation_space,
            action_space,
            width=config.gru_width,
            hidden_sizes=config.hidden_sizes,
            **options,
        )
    if kind == "temporal":
        return TemporalPolicy(
            observation_space,
            action_space,
            width=config.lstm_width,
            layers=config.lstm_layers,
            attention_heads=config.attention_heads,
            transformer_layers=config.transformer_layers,
            transformer_heads=config.transformer_heads,
            feedforward_width=config.feedforward_width,
            **options,
        )
    return Policy(
        observation_space,
        action_space,
        hidden_sizes=() if kind == "linear" else config.hidden_sizes,
        activation=config.activation,
        **options,
    )


def _spaces(env: EnvSource, kwargs: Mapping[str, Any]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Observation and action space of an environment."""
    sample = make_batch(env, kwargs, 1)
    sample.close()
    return sample.single_observation_space, sample.single_action_space
