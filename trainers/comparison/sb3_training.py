"""Algorithms of Stable-Baselines3 behind the interface of a comparison.

Shapes: B environments, D features of a flattened observation.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn
from typing_extensions import override

from grpo_gym.envs.sb3 import to_sb3
from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.cnn import ImageEncoder, image_layout
from grpo_gym.policies.options import BoardOptions, CNNOptions
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.comparison.sb3_networks import (
    BoardActorCritic,
    MaskableBoardActorCritic,
    board_policy_kwargs,
)
from grpo_gym.trainers.comparison.settings import SB3Settings, algorithm_class, keyword_arguments
from grpo_gym.trainers.comparison.training import Training, count_parameters

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
_OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_CRITICS = (
    "value_net.",
    "mlp_extractor.value_net.",
    "vf_features_extractor.",
    "lstm_critic.",
    "critic.",
)
"""Prefixes of the parameters that choose no actions."""


class SB3Training(Training):
    """An algorithm of Stable-Baselines3.

    Attributes:
        model: Stable-Baselines3's model.
    """

    def __init__(self, settings: SB3Settings, seed: int) -> None:
        """Make the model and its environments without collecting anything.

        Raises:
            ConfigError: If the algorithm cannot play the environment, or not with these settings.
        """
        self._settings = settings
        keywords = keyword_arguments(settings)
        venv = _make_training_envs(settings, native=_check_environment(settings))
        if settings.algorithm == "maskable_ppo" and not is_masking_supported(venv):
            venv.close()
            raise _masking_error(settings, "the environment has no method action_masks()")
        self._normaliser = None
        if settings.normalise_observations or settings.normalise_rewards:
            self._normaliser = VecNormalize(
                venv,
                norm_obs=settings.normalise_observations,
                norm_reward=settings.normalise_rewards,
                gamma=keywords["gamma"],
            )
        policy_class, policy_kwargs = _policy(settings)
        self.model = algorithm_class(settings.algorithm)(
            policy_class,
            self._normaliser or venv,
            policy_kwargs=policy_kwargs,
            learning_rate=_learning_rate(settings, keywords.pop("learning_rate")),
            seed=seed,
            device="cpu",
            **keywords,
        )
        # its own logger would leave an empty folder in the temporary directory
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.network = self.model.policy
        self.parameters = count_parameters(self.network)
        self.policy_parameters = sum(
            values.numel()
            for name, values in self.network.named_parameters()
            if not name.startswith(_CRITICS)
        )

    @override
    def learn(self, total_steps: int, record: Callable[[int], None]) -> int:
        between = _BetweenIterations(record, self._settings.final_discount, total_steps)
        self.model.learn(total_steps, callback=between, log_interval=None)
        return int(self.model.num_timesteps)

    @override
    def action_function(self, deterministic: bool) -> ActionFunction:
        def act(
            features: np.ndarray, masks: np.ndarray | None, state: Any, episode_start: np.ndarray
        ) -> tuple[np.ndarray, Any]:
            observations = unflatten_batch(self.model.observation_space, features)
            if self._normaliser is not None:
                observations = self._normaliser.normalize_obs(observations)
            masking = {"action_masks": masks} if self._settings.algorithm == "maskable_ppo" else {}
            actions: tuple[np.ndarray, Any] = self.model.predict(
                observations, state, episode_start, deterministic, **masking
            )
            return actions

        return act


def unflatten_batch(space: gym.Space[Any], features: np.ndarray) -> np.ndarray:
    """Observations from rows of features, the inverse of `spaces.flatten_batch`.

    Args:
        space: Space of one observation: Box, Discrete, MultiDiscrete or MultiBinary.
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


def _check_environment(settings: SB3Settings) -> bool:
    """Refuse what the algorithm cannot play; returns whether the environment is native.

    Raises:
        ConfigError: If it cannot.
    """
    kwargs = settings.env_kwargs
    training_kwargs = {**kwargs, **settings.training_env_kwargs}
    with (
        closing(make_batch(settings.env, kwargs, 1)) as batch,
        closing(make_batch(settings.env, training_kwargs, 1)) as training,
    ):
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
                f"normalise_observations must be false with observations {observed}: only a Box "
                "holds numbers"
            )
        if settings.policy == "board":
            BoardPolicy(observed, acted, BoardOptions(channels=1, blocks=0))  # refuses other spaces
        if settings.policy == "cnn":
            ImageEncoder(image_layout(observed, None), 1, CNNOptions(convolutions="nature"))
        for name, space in (("observations", observed), ("actions", acted)):
            if np.any(getattr(space, "start", 0)):
                raise ConfigError(
                    f"{name} must count from 0 for {settings.algorithm}, got {space}: shift them "
                    "with gymnasium.wrappers.TransformObservation or TransformAction"
                )
        if settings.algorithm == "maskable_ppo":
            if not isinstance(acted, spaces.Discrete | spaces.MultiDiscrete):
                raise _masking_error(settings, f"its actions are {acted}")
            if batch.reset([0])[1] is None:
                raise _masking_error(settings, "the environment has no info['action_mask']")
        return isinstance(batch, NativeBatch)


def _masking_error(settings: SB3Settings, reason: str) -> ConfigError:
    return ConfigError(f"algorithm must be ppo for {settings.env}, got maskable_ppo: {reason}")


def _make_training_envs(settings: SB3Settings, native: bool) -> VecEnv:
    """Our batch simulator, or Stable-Baselines3's own loop over third-party environments.

    Gymnasium's vector environments reset a step later than Stable-Baselines3 needs.
    """
    env, count = settings.env, settings.num_envs
    kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
    if native:
        return to_sb3(gym.make_vec(env, num_envs=count, autoreset_mode="SameStep", **kwargs))
    return DummyVecEnv([lambda: gym.make(env, disable_env_checker=True, **kwargs)] * count)


def _learning_rate(settings: SB3Settings, first: float) -> float | Callable[[float], float]:
    """The learning rate as Stable-Baselines3 takes it: by the fraction of steps that is left."""
    if settings.learning_rate_schedule == "constant":
        return first
    final = settings.final_learning_rate
    return lambda left: first * (final + (1.0 - final) * max(left, 0.0))


def _policy(settings: SB3Settings) -> tuple[Any, dict[str, Any]]:
    """The policy class and its `policy_kwargs`."""
    if settings.policy == "board":
        options = BoardOptions(channels=settings.channels, blocks=settings.blocks)
        masked = settings.algorithm == "maskable_ppo"
        policy_class = MaskableBoardActorCritic if masked else BoardActorCritic
        return policy_class, board_policy_kwargs(options)
    kwargs: dict[str, Any] = {"ortho_init": settings.orthogonal_weights}
    if settings.policy == "mlp":
        kwargs["net_arch"] = list(settings.hidden_sizes)
        kwargs["activation_fn"] = _ACTIVATIONS[settings.activation]
    if settings.algorithm != "maskable_ppo":  # whose actions are never Box
        kwargs["log_std_init"] = settings.initial_log_std
    kind = {"mlp": "Mlp", "cnn": "Cnn"}[settings.policy]
    if settings.algorithm == "recurrent_ppo":
        return f"{kind}LstmPolicy", {**kwargs, "lstm_hidden_size": settings.lstm_width}
    return f"{kind}Policy", kwargs
