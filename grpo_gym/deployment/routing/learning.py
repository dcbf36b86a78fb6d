"""The policy `online`: it goes on learning from every request that it routes.

Shapes: N endpoints, of which A may be chosen; F features of an endpoint; D of an observation; K
members of a group.
"""

from os import PathLike
from typing import NamedTuple

import numpy as np

from grpo_gym.deployment.routing.fleet import Fleet, Layout
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.dynamics import Memory
from grpo_gym.envs.load_balancer.online import (
    count_server_features,
    estimated_reward,
    write_features,
)
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.online.config import OnlineConfig
from grpo_gym.trainers.online.policy import Choice, OnlinePolicy

_MOST = 63
"""Endpoints that an `OnlinePolicy` can choose among."""


class _Memo(NamedTuple):
    """A choice whose first member was executed, and the estimated rewards of the others."""

    choice: Choice
    estimates: list[float]


class OnlineRanker:
    """A linear policy whose weights follow the answers; all endpoints share them.

    It draws K endpoints, sends the request to the first, and compares its reward with what the
    others would have given by its own estimate. Where the guard lets the fallback act, it compares
    estimates alone. The norm of the weights is bounded, so that it can always change its mind.
    """

    needs_service_time = True

    def __init__(self, layout: Layout, config: OnlineConfig | None = None) -> None:
        """Start from the uniform policy."""
        self.layout = layout
        self.config = OnlineConfig() if config is None else config
        self.decisions = 0
        observed = LoadBalancerConfig(
            service_rates=(1.0, 1.0), observe_size=layout.sizes, observe_weights=layout.weights
        )
        self.weights = np.zeros(count_server_features(observed))
        self._policies: dict[int, OnlinePolicy] = {}
        self._drawn: tuple[Choice, np.ndarray, np.ndarray] | None = None

    def load(self, path: str | PathLike[str]) -> None:
        """Continue with the weights that `save` wrote.

        Raises:
            CheckpointError: If the file cannot be read, is not ours, or is damaged.
            ConfigError: If it is for another observation.
        """
        saved = OnlinePolicy.load(path)
        if saved.weights.shape != self.weights.shape:
            raise ConfigError(
                f"{path} must have {len(self.weights)} weights, one for each feature of an "
                f"endpoint, got {len(saved.weights)}: it was learnt with other settings of sizes "
                "and weights"
            )
        self.config, self.decisions = saved.config, saved.decisions
        self.weights[:] = saved.weights

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights, atomically.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        policy = self._policy(self.config.group_size)
        policy.decisions = self.decisions
        policy.save(path)

    def check(self, count: int) -> None:
        """Refuse more endpoints than it can choose among."""
        if count > _MOST:
            raise ConfigError(
                f"endpoints must be at most {_MOST} for the policy online, got {count}"
            )

    def bind(self, fleet: Fleet) -> None:
        """Choose among another fleet's endpoints."""
        count = len(fleet.endpoints)
        self._memory = fleet.simulator.memory
        self._features = np.zeros((1, count, len(self.weights)))
        self._rewards = np.zeros(count)
        self._policy(max(count, self.config.group_size)).warm_up()

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """2 for the endpoint that was drawn, and the probabilities of the others."""
        places = np.flatnonzero(allowed)
        scores = allowed.astype(np.float64) - 1.0
        self._drawn = None
        if len(places) < self.config.group_size:
            return scores
        write_all_features(observation[None], self._memory.parameters, self._features)
        estimate_rewards(*self._memory, self._rewards)
        policy = self._policy(len(places))
        policy.decisions = self.decisions
        choice = policy.choose(self._features[0, places])
        self.decisions += 1
        self._drawn = choice, places, self._rewards[places]
        scores[places] = policy.arrays.pi
        scores[places[choice.executed]] = 2.0
        return scores

    def sent(self, n: int) -> _Memo | None:
        """Keep the choice if it was executed; else learn now, from estimates alone."""
        if self._drawn is None:
            return None
        choice, places, rewards = self._drawn
        self._drawn = None
        estimates = rewards[choice.group].tolist()
        if places[choice.executed] == n:
            return _Memo(choice, estimates[1:])
        self._learn(choice, estimates)
        return None

    def learn(self, memo: _Memo, ok: bool, latency_ms: float) -> None:
        """Learn from the reward of `LoadBalancer-v0`, with an error as a certain one."""
        p = self._memory.parameters[0]
        reward = -latency_ms / p["latency_scale_ms"] - p["error_penalty"] * (not ok)
        self._learn(memo.choice, [float(reward), *memo.estimates])

    def log_moved(self) -> None:
        """Nothing is remembered of the log."""

    def _learn(self, choice: Choice, rewards: list[float]) -> None:
        self._policy(len(choice.features)).learn(choice, rewards)

    def _policy(self, count: int) -> OnlinePolicy:
        """The policy for a number of endpoints; all have the same weights."""
        if count not in self._policies:
            policy = OnlinePolicy(count, len(self.weights), self.config)
            policy.arrays = policy.arrays._replace(weights=self.weights)
            self._policies[count] = policy
        return self._policies[count]


@kernel
def write_all_features(
    observations: np.ndarray, parameters: np.ndarray, features: np.ndarray
) -> None:
    """Write the features of all endpoints, shape (1, N, F), from an observation (1, D)."""
    write_features(observations, parameters, features)


@kernel
def estimate_rewards(
    episodes: np.ndarray,
    servers: np.ndarray,
    views: np.ndarray,
    requests: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    outcomes: np.ndarray,
    rewards: np.ndarray,
) -> None:
    """Write what each endpoint would give to the waiting request by estimate, shape (N,)."""
    memory = Memory(
        episodes,
        servers,
        views,
        requests,
        arrivals,
        faults,
        metrics,
        constants,
        parameters,
        outcomes,
    )
    for n in range(rewards.shape[0]):
        rewards[n] = estimated_reward(memory, n)
