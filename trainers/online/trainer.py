"""`OnlineGRPO` trains an `OnlinePolicy` in `LoadBalancer-v0`, with the interface of `GRPO`.

For each request it draws K distinct servers, executes one and estimates the rewards of the others.

Shapes: B observations, A actions, F weights, D observed numbers, T decisions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from grpo_gym.envs.arguments import merge_env_kwargs
from grpo_gym.envs.batch_simulator import FINGERPRINT
from grpo_gym.envs.load_balancer.env import TASK
from grpo_gym.envs.load_balancer.online import count_server_features, write_features
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.evaluation.episodes import Evaluable, described
from grpo_gym.rollouts.policy_inputs import features_of
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.spaces import is_finite
from grpo_gym.settings import ConfigError, Count, check_value, from_mapping, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.online.config import OnlineConfig
from grpo_gym.trainers.online.loop import train_kernel
from grpo_gym.trainers.online.older_worlds import is_older, upgraded
from grpo_gym.trainers.online.policy import NOT_FINITE, OnlinePolicy
from grpo_gym.trainers.payloads import OnlinePayload, check_payload, refuse
from grpo_gym.trainers.saved_environment import as_in_file

ENV_ID = "LoadBalancer-v0"
KIND = "online"
"""The kind of these models' checkpoints."""
_CALLBACK_EVERY = 10_000


@dataclass(frozen=True)
class OnlineStats:
    """Statistics of a stretch of training.

    Attributes:
        num_steps: Decisions since the start of training.
        reward_mean: Mean reward per decision in this stretch.
    """

    num_steps: int
    reward_mean: float


Callback = Callable[["OnlineGRPO", OnlineStats], bool | None]


class OnlineGRPO(Evaluable):
    """GRPO from single decisions, for `LoadBalancer-v0`.

    Example:
        ```python
        model = OnlineGRPO(env_kwargs={"preset": "flaky"}, seed=0).learn(1_000_000)
        action, _ = model.predict(observation, deterministic=True)
        ```

    Attributes:
        config: The settings.
        policy: The policy being trained.
        simulator: The load balancer it is trained in, one environment.
    """

    def __init__(
        self,
        env: str = ENV_ID,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        config: OnlineConfig | None = None,
        **overrides: Any,
    ) -> None:
        """Set up a uniform policy for an environment.

        Args:
            env: "LoadBalancer-v0".
            env_kwargs: Its arguments, such as `preset`.
            config: All settings at once.
            **overrides: Fields of `OnlineConfig` to replace.

        Raises:
            ConfigError: If a name is unknown, or a value or the environment cannot be used.
        """
        self.config = replace(OnlineConfig() if config is None else config, **overrides)
        super().__init__(self.config.seed)
        if not isinstance(env, str) or env.removeprefix("grpo_gym:") != ENV_ID:
            raise ConfigError(
                f"env must be {ENV_ID!r} for online GRPO, got {env!r}: it needs discrete actions "
                "and estimates of what the actions not taken would have brought; use GRPO"
            )
        self.env_source = ENV_ID
        self.env_kwargs = dict(env_kwargs or {})
        settings = make_config(**self.env_kwargs)
        if settings.reward == "park":
            raise ConfigError(
                'reward must be "latency" or "demo" for online GRPO, got "park", which does not '
                'score single requests: add reward="latency" to env_kwargs'
            )
        if settings.is_padded:
            raise ConfigError(
                "the number of servers must be the same in all episodes for online GRPO: add "
                "num_servers or fleet_seed to env_kwargs"
            )
        self.observation_space = TASK.observation_space(settings)
        self.action_space = TASK.action_space(settings)
        features = count_server_features(settings)
        self.policy = OnlinePolicy(settings.num_servers, features, self.config)
        self.simulator = LoadBalancerSimulator(settings, num_envs=1)
        seed = derive_seed(self.config.seed, Stream.EPISODES)
        self.simulator.seed(np.array([seed], np.uint64))

    def __repr__(self) -> str:
        return (
            f"<OnlineGRPO in {described(self)}: {len(self.policy.weights)} weights, "
            f"{self.num_steps:,} decisions>"
        )

    @property
    def num_steps(self) -> int:
        """Decisions made in training."""
        return self.policy.decisions

    def learn(
        self, total_steps: float, *, callback: Callback | Iterable[Callback] = ()
    ) -> "OnlineGRPO":
        """Train for a number of decisions.

        Args:
            total_steps: Decisions to make in this call.
            callback: Called after every 10,000 decisions, and at the end, as
                callback(model, stats); training stops early when one returns False.

        Raises:
            ConfigError: If `total_steps` is not a positive whole number.
        """
        end = self.num_steps + check_value("total_steps", total_steps, Count)
        callbacks = [callback] if callable(callback) else list(callback)
        stopped = False
        while self.num_steps < end and not stopped:
            rewards = self.train_steps(min(_CALLBACK_EVERY, end - self.num_steps))
            stats = OnlineStats(self.num_steps, float(rewards.mean()))
            stopped = any([report(self, stats) is False for report in callbacks])
        return self

    def train_steps(self, count: int, policies: np.ndarray | None = None) -> np.ndarray:
        """Train for a number of decisions without callbacks.

        Args:
            count: Decisions to make, T.
            policies: Receives the policy (without exploration) of each decision, shape (T, A),
                float64.

        Returns:
            Rewards of executed actions, shape (T,), float64.
        """
        rewards = np.empty(count)
        policy, simulator = self.policy, self.simulator
        observations = np.empty((1, simulator.num_features), np.float32)
        if policies is None:
            policies = np.empty((0, simulator.config.num_servers))
        done = 0
        while done < count:
            end = min(done + self._requests_left(), count)
            train_kernel(
                policy.arrays,
                policy.rule,
                policy.key,
                policy.decisions,
                simulator.memory,
                self.config.estimates == "privileged",
                observations,
                rewards[done:end],
                policies[done:end],
            )
            policy.decisions += end - done
            done = end
        return rewards

    def probabilities(self, observation: np.ndarray) -> np.ndarray:
        """The policy without exploration at one observation, shape (A,), float64.

        Raises:
            ConfigError: If the observation does not fit the space, or is not finite.
            FloatingPointError: If the weights are not finite.
        """
        shape, expected = np.shape(observation), self.observation_space.shape
        if shape != expected:
            raise ConfigError(f"observation must have shape {expected}, got {shape}")
        rows, _ = features_of(self.observation_space, observation)
        return self.policy.probabilities(self._features(rows)[0])

    def save(self, path: str | PathLike[str]) -> str:
        """Write everything that training continues from to one file, atomically.

        Returns:
            The SHA-256 of the weights.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        begun = self.simulator.episodes["episode"][0] >= 0
        state = self.simulator.get_state() if begun else {}
        payload = {
            "config": to_mapping(self.config),
            "env_kwargs": as_in_file(self.env_kwargs, ENV_ID) or self.env_kwargs,
            "weights": self.policy.weights.tolist(),
            "decisions": self.policy.decisions,
            # Without the fingerprint, which changes with every new setting of the environment.
            "world": {n: array.tobytes() for n, array in state.items() if n != FINGERPRINT},
        }
        checkpoint.save(path, payload, kind=KIND)
        return self.weights_sha256()

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        env: str | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> "OnlineGRPO":
        """Read a model that `save` wrote; it evaluates and learns on as the original.

        Args:
            path: The file.
            env: Its environment; may be left out.
            env_kwargs: Over those it was trained with, of which none stay with another `preset`;
                learning then starts a new episode.

        Raises:
            CheckpointError: If the file is damaged, not ours, or of another environment.
        """
        payload = check_payload(checkpoint.load(path, kind=KIND), OnlinePayload, path)
        kwargs = merge_env_kwargs(payload["env_kwargs"], env_kwargs or {})
        try:
            config = from_mapping(OnlineConfig, payload["config"], str(path))
            model = cls(env or ENV_ID, env_kwargs=kwargs, config=config)
        except ConfigError as error:
            raise CheckpointError(f"{path} cannot be used here: {error}") from error
        weights = np.array(payload["weights"])
        if weights.shape != model.policy.weights.shape:
            raise CheckpointError(
                f"{path} has {len(weights)} weights, but the environment here needs "
                f"{len(model.policy.weights)}: pass the env_kwargs it was trained with"
            )
        model.policy.weights[:] = weights
        model.policy.decisions = payload["decisions"]
        world = payload["world"]  # empty if training has not begun
        if world and not env_kwargs:
            try:
                model._restore_world(world)
            except (KeyError, ValueError) as error:
                refuse(path, f"payload.world is not of its environment: {error}", error)
        return model

    def weights_sha256(self) -> str:
        """A hash of the weights, equal exactly when they are."""
        return checkpoint.weights_sha256({"weights": torch.from_numpy(self.policy.weights)})

    def _restore_world(self, world: Mapping[str, bytes]) -> None:
        """Continue the episode of a checkpoint.

        Raises:
            KeyError: If an array is missing.
            ValueError: If one does not fit.
        """
        own = self.simulator.get_state()
        if is_older(world):
            state = upgraded(world, LoadBalancerSimulator(self.simulator.config, num_envs=1))
        else:
            state = {
                name: np.frombuffer(world[name], array.dtype).reshape(array.shape)
                for name, array in own.items()
                if name != FINGERPRINT
            }
        if state["episodes"]["episode"][0] >= 0:  # older files have what never began
            self.simulator.set_state({**state, FINGERPRINT: own[FINGERPRINT]})

    def _requests_left(self) -> int:
        """Requests left in the episode; starts the next one if there are none."""
        episode, length = self.simulator.episodes[0], self.simulator.config.episode_length
        if episode["episode"] < 0 or episode["step"] == length:
            self.simulator.reset()
        return length - int(episode["step"])

    def _features(self, observations: np.ndarray) -> np.ndarray:
        """Shape (B, A, F), float64, of observations (B, D)."""
        features = np.zeros((len(observations), *self.policy.arrays.features.shape))
        rows = np.ascontiguousarray(observations, np.float32)
        write_features(rows, self.simulator.parameters, features)
        return features

    @override
    def _act(
        self,
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        starts: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, Any]:
        logits: np.ndarray = self._features(observations) @ self.policy.weights
        if not is_finite(logits):
            raise FloatingPointError(NOT_FINITE)
        if generator is not None:  # Gumbel-max: argmax(logits + noise) samples the softmax
            logits = logits + generator.gumbel(size=logits.shape)
        if masks is not None:
            logits = np.where(masks, logits, -np.inf)
        return logits.argmax(axis=1), state
