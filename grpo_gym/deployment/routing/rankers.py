"""Policies as the core asks them: a score for each endpoint.

Shapes: N endpoints, D features, A actions of a network, H frames of a history.
"""

from typing import Any, Protocol

import numpy as np
from typing_extensions import override

from grpo_gym.deployment.routing.fleet import Fleet, Layout
from grpo_gym.envs.load_balancer.baselines import BASELINES, make_baseline
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.routers.router import Router
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.rollouts.spaces import stack_frames
from grpo_gym.settings import ConfigError

ENV_ID = "LoadBalancer-v0"
_ABSENT = -1.0


class Ranker(Protocol):
    """What the core needs of a policy. It asks for one request at a time.

    Attributes:
        layout: The observation that it reads.
        needs_service_time: Whether it can say nothing before the mean service time is known.
    """

    layout: Layout
    needs_service_time: bool

    def check(self, count: int) -> None:
        """Refuse a number of endpoints.

        Raises:
            ConfigError: If it cannot rank so many, or so few.
        """

    def bind(self, fleet: Fleet) -> None:
        """Rank the endpoints of another fleet from now on."""

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Scores of endpoints for the waiting request, shape (N,); the largest is best.

        Args:
            observation: Of the fleet, shape (D,), float32.
            allowed: Which may be chosen, shape (N,), bool.
        """

    def sent(self, n: int) -> Any:
        """The request that was ranked last goes to endpoint n; what is given back `learn` gets."""

    def learn(self, memo: Any, ok: bool, latency_ms: float) -> None:
        """Learn from how a request ended; `memo` is what `sent` returned, if not None."""

    def log_moved(self) -> None:
        """Requests have moved in the log of the fleet."""


class _Fixed:
    """A policy that does not learn, for any number of endpoints."""

    def check(self, count: int) -> None:
        """Any number is fine."""

    def sent(self, n: int) -> Any:
        """Nothing is learnt."""
        return None

    def learn(self, memo: Any, ok: bool, latency_ms: float) -> None:
        """Nothing is learnt."""

    def log_moved(self) -> None:
        """Nothing is remembered of the log."""


class NetworkRanker(_Fixed):
    """A trained network."""

    needs_service_time = True

    def __init__(self, policy: NumpyPolicy, source: str) -> None:
        """Take a network that was trained in `LoadBalancer-v0`.

        Args:
            policy: The network.
            source: Where it is from, for errors.

        Raises:
            ConfigError: If it is one of another environment, or of load that decays.
        """
        env_id = policy.card["env_id"]
        if str(env_id).removeprefix("grpo_gym:") != ENV_ID:
            raise ConfigError(f"policy must be one of {ENV_ID}, got one of {env_id}: {source}")
        self._policy = policy
        self._source = source
        self._frames = int(policy.card["options"]["frame_history"])
        self.layout = _layout_of(policy, source)
        self._history: np.ndarray | None = None

    @override
    def check(self, count: int) -> None:
        slots = self.layout.slots
        too_few = 0 < count < (slots or 0) and not self.layout.padded
        if slots is not None and (count > slots or too_few):
            rule = f"at most {slots}" if self.layout.padded else f"exactly {slots}"
            raise ConfigError(
                f"endpoints must be {rule} for {self._source}, got {count}: train the policy "
                "'servers', which takes any number"
            )

    def bind(self, fleet: Fleet) -> None:
        """Forget the history of other endpoints."""
        self._history = None

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Log-probabilities; endpoints that may not be chosen are none for a network of servers."""
        count = len(allowed)
        if self._frames > 1:
            self._history = stack_frames(self._history, observation[None], self._frames, None)
            observation = self._history.reshape(-1)
        if self._policy.kind == "servers":
            if not allowed.all():
                observation = self._without(observation, allowed)
            return self._policy.scores(observation)[:count]
        mask = np.zeros(self.layout.slots or count, np.bool_)
        mask[:count] = allowed
        return self._policy.scores(observation, mask)[:count]

    def _without(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """The observation of a fleet that lacks some endpoints, padded as in the environment."""
        frames = observation.reshape(self._frames, -1).copy()
        count = len(allowed)
        features = frames.shape[1] // count
        rows = frames[:, : features * count].reshape(self._frames, count, features)
        rows[:, ~allowed] = _ABSENT
        return frames.reshape(-1)


def _layout_of(policy: NumpyPolicy, source: str) -> Layout:
    config = make_config(**policy.card["env_kwargs"])
    if config.dynamics != "queue":
        raise ConfigError(
            f'dynamics must be "queue" for real requests, got "{config.dynamics}" in {source}: '
            "choose a policy that was trained with queues"
        )
    return Layout(
        observation=config.observation,
        sizes=config.observe_size,
        weights=config.observe_weights,
        slots=None if policy.kind == "servers" else config.server_slots,
        padded=config.is_padded,
        metrics_weight=config.metrics_weight,
    )


class BaselineRanker(_Fixed):
    """A baseline of the environment, which reads the fleet's simulator."""

    layout = Layout()
    needs_service_time = False

    def __init__(self, name: str) -> None:
        """Take a baseline by its name.

        Raises:
            ConfigError: If it reads what nobody can know of real endpoints.
        """
        if BASELINES[name].privileged:
            raise ConfigError(
                f"policy must observe only what a balancer can know, and {name!r} reads the "
                "simulator: choose another baseline"
            )
        self._name = name
        self._router: Router
        self._memory: tuple[np.ndarray, ...] | None

    def bind(self, fleet: Fleet) -> None:
        """Start anew: what a baseline remembers of endpoints goes by their places."""
        self._fleet = fleet
        self._router = make_baseline(self._name, fleet)
        fleet.simulator.allowed[:] = True  # Envoy's schedule begins with all servers there are
        self._memory = self._router.initial_state()

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """1 for the chosen endpoint; minus the requests in flight for the others."""
        scores = -self._fleet.servers["in_flight"].astype(np.float64)
        action, self._memory = self._router.predict(observation, self._memory)
        if allowed[action]:
            scores[action] = 1.0
        return scores

    @override
    def log_moved(self) -> None:
        """Read the log from its start again; answers that were heard are not heard twice."""
        if self._memory is not None:
            self._memory = self._router.rewind(self._memory)
