"""Training algorithms of Stable-Baselines3 as the comparison trains every algorithm.

Shapes: B environments, D features of a flattened observation.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from grpo_gym.envs.sb3 import to_sb3
from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.policies.board import BoardPolicy
from grpo_gym.rollouts.batches import NativeBatch, make_batch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.comparison.networks import (
    BoardActorCritic,
    MaskableBoardActorCritic,
    board_policy_kwargs,
)
from grpo_gym.trainers.comparison.settings import PeerSettings, algorithm_class, keyword_arguments

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
_OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_CRITICS = (
    "value_net",
    "mlp_extractor.value_net",
    "vf_features_extractor",
    "lstm_critic",
    "critic",
)
"""Where the policies of Stable-Baselines3 have what does not act."""


class PeerTraining:
    """An algorithm of Stable-Baselines3; see `ours.Training` for the methods.

    Attributes:
        model: Stable-Baselines3's.
    """

    def __init__(self, settings: PeerSettings, seed: int) -> None:
        """Make the model and its environments; nothing is collected yet.

        Args:
            settings: What to train with.
            seed: Decides everything that is random.

        Raises:
            ConfigError: If the algorithm cannot play the environment, or not with these settings.
        """
        self._settings = settings
        keywords = keyword_arguments(settings)
        native = _check_environment(settings)
        venv = _make_training_envs(settings, native)
        if settings.algorithm == "maskable_ppo" and not is_masking_supported(venv):
            venv.close()
            raise ConfigError(
                f"algorithm must be ppo for {settings.env}, got maskable_ppo: the environment has "
                "no method action_masks()"
            )
        self._normaliser = _normaliser(settings, venv, keywords["gamma"])
        schedule = _learning_rate(settings, keywords.pop("learning_rate"))
        self.model = algorithm_class(settings.algorithm)(
            _policy_class(settings),
            self._normaliser or venv,
            policy_kwargs=_policy_kwargs(settings),
            learning_rate=schedule,
            seed=seed,
            device="cpu",
            **keywords,
        )

    @property
    def num_steps(self) -> int:
        """See `Training.num_steps`."""
        return int(self.model.num_timesteps)

    @property
    def parameters(self) -> int:
        """See `Training.parameters`."""
        return sum(parameter.numel() for parameter in self.model.policy.parameters())

    @property
    def policy_parameters(self) -> int:
        """See `Training.policy_parameters`."""
        return sum(
            parameter.numel()
            for name, parameter in self.model.policy.named_parameters()
            if not name.startswith(tuple(f"{critic}." for critic in _CRITICS))
        )

    def learn(self, total_steps: int, record: Callable[[int], None]) -> None:
        """See `Training.learn`."""
        between = _BetweenIterations(record, self._settings.final_discount, total_steps)
        self.model.learn(total_steps, callback=between, log_interval=None)

    def action_function(self, deterministic: bool) -> ActionFunction:
        """See `Training.action_function`."""

        def act(
            observations: np.ndarray, masks: np.ndarray | None, state: Any, start: np.ndarray
        ) -> tuple[np.ndarray, Any]:
            seen = unflatten_batch(self.model.observation_space, observations)
            if self._normaliser is not None:
                seen = self._normaliser.normalize_obs(seen)
            further = {"action_masks": masks} if self._settings.algorithm == "maskable_ppo" else {}
            actions: tuple[np.ndarray, Any] = self.model.predict(
                seen, state=state, episode_start=start, deterministic=deterministic, **further
            )
            return actions

        return act

    def weights(self) -> nn.Module:
        """See `Training.weights`."""
        policy: nn.Module = self.model.policy
        return policy


def unflatten_batch(space: gym.Space[Any], features: np.ndarray) -> np.ndarray:
    """Observations as a space has them, from rows of features; `spaces.flatten_batch` undone.

    Args:
        space: Of one observation: Box, Discrete, MultiDiscrete or MultiBinary.
        features: Shape (B, D), float32.

    Returns:
        Shape (B, *space.shape), of the space's dtype.
    """
    if isinstance(space, spaces.Discrete):
        return features.argmax(axis=1).astype(space.dtype) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        one_hot = np.split(features, np.cumsum(space.nvec)[:-1], axis=1)
        columns = [part.argmax(axis=1) for part in one_hot]
        values = np.stack(columns, axis=1).reshape(-1, *space.shape) + space.start
        return values.astype(space.dtype)
    return features.astype(space.dtype, copy=False).reshape(-1, *(space.shape or ()))


class _BetweenIterations(BaseCallback):  # type: ignore[misc,unused-ignore]
    """Records the curve between updates, and moves the discount as GRPO does."""

    def __init__(
        self, record: Callable[[int], None], final_discount: float | None, total_steps: int
    ) -> None:
        super().__init__()
        self._record = record
        self._final_discount = final_discount
        self._total_steps = total_steps
        self._discount = 0.0

    def _on_training_start(self) -> None:
        self._discount = self.model.gamma

    def _on_rollout_start(self) -> None:
        self._record(self.num_timesteps)
        if self._final_discount is not None:
            done = min(self.num_timesteps / self._total_steps, 1.0)
            discount = self._discount + done * (self._final_discount - self._discount)
            self.model.gamma = self.model.rollout_buffer.gamma = discount

    def _on_step(self) -> bool:
        return True


def _check_environment(settings: PeerSettings) -> bool:
    """Refuse what the algorithm cannot play; whether the environment is native.

    Raises:
        ConfigError: If it cannot.
    """
    kwargs = settings.env_kwargs
    batch = make_batch(settings.env, kwargs, 1)
    training = make_batch(settings.env, {**kwargs, **settings.training_env_kwargs}, 1)
    try:
        observed, acted = batch.single_observation_space, batch.single_action_space
        if (training.single_observation_space, training.single_action_space) != (observed, acted):
            raise ConfigError("training_env_kwargs must leave the spaces as they are")
        if not isinstance(observed, _OBSERVATIONS):
            raise ConfigError(
                f"observation space must not be a {type(observed).__name__} for "
                f"{settings.algorithm}: register the environment with "
                "gymnasium.wrappers.FlattenObservation around it"
            )
        if settings.normalise_observations and not isinstance(observed, spaces.Box):
            raise ConfigError(
                f"normalise_observations must be false with observations {observed}: only those "
                "of a Box are numbers"
            )
        if settings.policy == "board":
            BoardPolicy(observed, acted, channels=1, blocks=0)  # refuses what is no board
        _check_counting(settings, observed, acted)
        _check_actions(settings, acted, batch.reset([0])[1])
        return isinstance(batch, NativeBatch)
    finally:
        batch.close()
        training.close()


def _check_counting(settings: PeerSettings, *observed_and_acted: gym.Space[Any]) -> None:
    for name, space in zip(("observations", "actions"), observed_and_acted, strict=True):
        if np.any(getattr(space, "start", 0)):
            raise ConfigError(
                f"{name} must count from 0 for {settings.algorithm}, got {space}: a wrapper of "
                "gymnasium, TransformObservation or TransformAction, can shift them"
            )


def _check_actions(settings: PeerSettings, space: gym.Space[Any], masks: np.ndarray | None) -> None:
    if settings.algorithm != "maskable_ppo":
        return
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        raise ConfigError(f"algorithm must be ppo for actions {space}, got maskable_ppo")
    if masks is None:
        raise ConfigError(
            f"algorithm must be ppo for {settings.env}, got maskable_ppo: the environment has no "
            "info['action_mask'] to play it with"
        )


def _make_training_envs(settings: PeerSettings, native: bool) -> VecEnv:
    """Our batch simulator, or Stable-Baselines3's own loop over the environments of others.

    Vector environments of Gymnasium itself reset a step later than Stable-Baselines3 needs.
    """
    kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
    if native:
        return to_sb3(
            gym.make_vec(
                settings.env, num_envs=settings.num_envs, autoreset_mode="SameStep", **kwargs
            )
        )
    return DummyVecEnv(
        [lambda: gym.make(settings.env, disable_env_checker=True, **kwargs)] * settings.num_envs
    )


def _normaliser(settings: PeerSettings, venv: VecEnv, discount: float) -> VecNormalize | None:
    if not (settings.normalise_observations or settings.normalise_rewards):
        return None
    return VecNormalize(
        venv,
        norm_obs=settings.normalise_observations,
        norm_reward=settings.normalise_rewards,
        gamma=discount,
    )


def _learning_rate(settings: PeerSettings, first: float) -> float | Callable[[float], float]:
    """The learning rate as Stable-Baselines3 takes it: by the share of steps that is left."""
    if settings.learning_rate_schedule == "constant":
        return first
    final = settings.final_learning_rate
    return lambda left: first * (final + (1.0 - final) * max(left, 0.0))


def _policy_class(settings: PeerSettings) -> Any:
    if settings.policy == "board":
        masked = settings.algorithm == "maskable_ppo"
        return MaskableBoardActorCritic if masked else BoardActorCritic
    return "MlpLstmPolicy" if settings.algorithm == "recurrent_ppo" else "MlpPolicy"


def _policy_kwargs(settings: PeerSettings) -> dict[str, Any]:
    if settings.policy == "board":
        return board_policy_kwargs(settings.channels, settings.blocks)
    kwargs: dict[str, Any] = {
        "net_arch": list(settings.hidden_sizes),
        "activation_fn": _ACTIVATIONS[settings.activation],
    }
    if settings.algorithm == "recurrent_ppo":
        kwargs["lstm_hidden_size"] = settings.lstm_width
    return kwargs
