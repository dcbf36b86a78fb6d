"""GRPO one decision at a time: K sampled actions, one executed, the others estimated.

`OnlineGRPO` trains an `OnlinePolicy` in `LoadBalancer-v0`, with the interface of `GRPO`; within an
episode nothing but compiled code runs.

Shapes: B observations, A actions, F weights, D observed numbers.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.spaces import action_space, observation_space
from grpo_gym.evaluation.episodes import Evaluable
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.settings.config import ConfigError, from_mapping, replace, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.online.balancer import play_kernel, world_of
from grpo_gym.trainers.online.config import TINY_GRPO, OnlineConfig
from grpo_gym.trainers.online.kernels import features_kernel
from grpo_gym.trainers.online.policy import Decision, OnlinePolicy

__all__ = [
    "TINY_GRPO",
    "Decision",
    "OnlineConfig",
    "OnlineGRPO",
    "OnlinePolicy",
    "OnlineStats",
    "changed_at",
]

ENV_ID = "LoadBalancer-v0"
KIND = "online"
"""What `checkpoint` calls these models."""
_STRETCH = 10_000


@dataclass(frozen=True)
class OnlineStats:
    """What a stretch of training came to.

    Attributes:
        num_steps: Decisions since the start of training.
        reward_mean: Mean reward of a decision in this stretch.
    """

    num_steps: int
    reward_mean: float


Callback = Callable[["OnlineGRPO", OnlineStats], bool | None]


class OnlineGRPO(Evaluable):
    """GRPO one decision at a time, for `LoadBalancer-v0`.

    Where servers are observed one by one, they share one weight for each of their features; with
    an aggregate observation each has weights of its own.

    Example:
        ```python
        model = OnlineGRPO(env_kwargs={"preset": "flaky"}, seed=0).learn(1_000_000)
        action, _ = model.predict(observation, deterministic=True)
        ```

    Attributes:
        config: The settings.
        policy: The policy being trained.
        num_steps: Decisions made in training.
    """

    def __init__(
        self,
        env: str = ENV_ID,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        config: OnlineConfig | None = None,
        **overrides: Any,
    ) -> None:
        """Set up a policy for an environment; nothing is decided yet.

        Args:
            env: "LoadBalancer-v0".
            env_kwargs: Its arguments, such as `preset`.
            config: All settings at once.
            **overrides: Fields of `OnlineConfig` to replace.

        Raises:
            ConfigError: If a name is unknown, or a value or the environment cannot be used.
        """
        self.config = replace(OnlineConfig() if config is None else config, **overrides)
        if not isinstance(env, str) or env.removeprefix("grpo_gym:") != ENV_ID:
            raise ConfigError(
                f"env must be {ENV_ID!r} for online GRPO, got {env!r}: it needs discrete actions "
                "and estimates of what the actions not taken would have brought; use GRPO"
            )
        self.env_source = ENV_ID
        self.env_kwargs = dict(env_kwargs or {})
        balancer = make_config(**self.env_kwargs)
        if balancer.reward == "park":
            raise ConfigError(
                'reward must be "latency" or "demo" for online GRPO, got "park", which is not '
                'about single requests: add reward="latency" to env_kwargs'
            )
        self.observation_space = observation_space(balancer)
        self.action_space = action_space(balancer)
        self.own_features = balancer.observation == "per_server"
        self.simulator = LoadBalancerSimulator(replace(balancer, infos="full"), num_envs=1)
        actions, observed = balancer.num_servers, self.simulator.num_features
        features = observed // actions if self.own_features else observed * actions
        self.policy = OnlinePolicy(actions, features, self.config)
        self.policy.settings["own_features"] = self.own_features
        self.world = world_of(self.simulator)
        self._started = False
        self._predictions = itertools.count()

    @property
    def num_steps(self) -> int:
        """Decisions made in training."""
        return self.policy.decisions

    def learn(
        self, total_steps: float, *, callback: Callback | Iterable[Callback] = ()
    ) -> "OnlineGRPO":
        """Decide and learn so many times more.

        Args:
            total_steps: Decisions to make in this call.
            callback: Called after every 10,000 decisions, and at the end, as
                callback(model, stats); training stops early when one returns False.

        Raises:
            ConfigError: If `total_steps` is not a positive whole number.
        """
        if not 1 <= total_steps < math.inf or total_steps != int(total_steps):
            raise ConfigError(f"total_steps must be a whole number >= 1, got {total_steps}")
        callbacks = [callback] if callable(callback) else list(callback)
        end = self.num_steps + int(total_steps)
        going_on = True
        while going_on and self.num_steps < end:
            rewards = self.train_steps(min(_STRETCH, end - self.num_steps))
            stats = OnlineStats(self.num_steps, float(rewards.mean()))
            going_on = all([report(self, stats) is not False for report in callbacks])
        return self

    def train_steps(self, count: int, policies: np.ndarray | None = None) -> np.ndarray:
        """Decide, execute and learn so many times.

        Args:
            count: How often.
            policies: Receives the policy (without exploration) that each decision was made with,
                shape (count, A), float64.

        Returns:
            Rewards of what was executed, shape (count,), float64.
        """
        rewards = np.empty(count)
        policy, done = self.policy, 0
        if policies is None:
            policies = np.empty((0, len(policy.workspace.pi)))
        while done < count:
            end = min(done + self._requests_left(), count)
            play_kernel(
                policy.weights,
                policy.workspace,
                policy.settings,
                self.world,
                policy.key,
                policy.decisions,
                rewards[done:end],
                policies[done:end],
            )
            policy.decisions += end - done
            done = end
        return rewards

    def probabilities(self, observation: np.ndarray) -> np.ndarray:
        """The policy without exploration at one observation, shape (A,), float64.

        Raises:
            ConfigError: If the observation does not fit the space.
        """
        return self.policy.probabilities(self._features(observation[None])[0])

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Choose an action, as Stable-Baselines3's models do; exploration is for training.

        Args:
            observation: Shape (D,) or (B, D).
            state: Passed through; this policy remembers nothing.
            episode_start: Ignored for the same reason.
            deterministic: The most probable action instead of a sample of the policy.
            action_masks: Legal actions, shape (A,) or (B, A), called as sb3-contrib calls them.

        Returns:
            An action, or a batch of actions, int64, and `state`.

        Raises:
            ConfigError: If the observation does not fit the space.
        """
        stream = None if deterministic else (Stream.PREDICTION, next(self._predictions))
        masks = None if action_masks is None else np.atleast_2d(np.asarray(action_masks, np.bool_))
        actions = self._act(np.atleast_2d(observation), masks, stream)
        return (actions if np.ndim(observation) > 1 else actions[0]), state

    def action_function(self, deterministic: bool = True, seed: int = 0) -> Callable[..., Any]:
        """The policy as `evaluation.evaluate` takes it; `seed` decides sampled actions."""
        draws = itertools.count()

        def act(
            observations: np.ndarray, masks: np.ndarray | None, state: Any, start: np.ndarray
        ) -> tuple[np.ndarray, Any]:
            stream = None if deterministic else (Stream.EVALUATION, seed, next(draws))
            return self._act(observations, masks, stream), state

        return act

    def save(self, path: str | PathLike[str]) -> str:
        """Write everything that training goes on from to one file, atomically.

        Returns:
            The SHA-256 of the weights.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        world = self.simulator.get_state() if self._started else {}
        payload = {
            "config": to_mapping(self.config),
            "env_kwargs": self.env_kwargs,
            "weights": self.policy.weights.tolist(),
            "decisions": self.policy.decisions,
            "world": {name: array.tobytes() for name, array in world.items()},
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
            env: Its environment, if named at all.
            env_kwargs: Instead of those it was trained with; learning then starts a new episode.

        Raises:
            CheckpointError: If the file is damaged, not ours, or of another environment.
        """
        return cls.restore(checkpoint.load(path, kind=KIND), path, env, env_kwargs)

    @classmethod
    def restore(
        cls,
        payload: Mapping[str, Any],
        path: str | PathLike[str],
        env: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> "OnlineGRPO":
        """A model from what a checkpoint holds; see `load`."""
        kwargs = payload["env_kwargs"] if env_kwargs is None else env_kwargs
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
        if payload["world"] and env_kwargs is None:
            model._start()
            model.simulator.set_state(
                {
                    name: np.frombuffer(payload["world"][name], array.dtype).reshape(array.shape)
                    for name, array in model.simulator.get_state().items()
                }
            )
        return model

    def weights_sha256(self) -> str:
        """A hash of the weights, equal exactly when they are."""
        import torch

        return checkpoint.weights_sha256({"weights": torch.from_numpy(self.policy.weights)})

    def _start(self) -> None:
        seed = derive_seed(self.config.seed, Stream.EPISODES)
        self.simulator.seed(np.array([seed], np.uint64))
        self.simulator.reset()
        self._started = True

    def _requests_left(self) -> int:
        """Requests of this episode that are still to come; a new one begins after the last."""
        length = self.simulator.config.episode_length
        if not self._started:
            self._start()
        elif self.simulator.episodes[0]["step"] >= length:
            self.simulator.reset()
        return length - int(self.simulator.episodes[0]["step"])

    def _features(self, observations: np.ndarray) -> np.ndarray:
        """Shape (B, A, F), float64, of observations (B, D)."""
        shape = self.observation_space.shape
        if observations.shape[1:] != shape:
            raise ConfigError(
                f"observation must have shape {shape}, or that after a first axis, got "
                f"{observations.shape[1:]}"
            )
        features = np.zeros((len(observations), *self.policy.workspace.features.shape))
        rows = np.ascontiguousarray(observations, np.float32)
        features_kernel(rows, self.own_features, features)
        return features

    def _act(
        self, observations: np.ndarray, masks: np.ndarray | None, stream: tuple[Any, ...] | None
    ) -> np.ndarray:
        """Actions, shape (B,), int64: the most probable ones, or samples of a stream."""
        logits: np.ndarray = self._features(observations) @ self.policy.weights
        if stream is not None:  # the largest of logits with Gumbel noise is a sample of softmax
            generator = np.random.default_rng(derive_seed(self.config.seed, *stream))
            logits = logits + generator.gumbel(size=logits.shape)
        if masks is not None:
            logits = np.where(masks, logits, -np.inf)
        return logits.argmax(axis=1)


def changed_at(policies: np.ndarray, begin: int, end: int) -> int:
    """The first decision from which the most likely action stays the same until `end`.

    Args:
        policies: Shape (T, A).
        begin: First decision that is looked at.
        end: The one after the last.
    """
    likeliest = policies[begin:end].argmax(axis=1)
    other = np.flatnonzero(likeliest != likeliest[-1])
    return begin + (int(other[-1]) + 1 if len(other) else 0)
