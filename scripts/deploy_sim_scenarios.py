"""The simulated cluster of scripts/deploy_sim.py, and the faults of its policies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from grpo_gym.deployment import Constraint, Context, Cooldown, MaximumChange, MinimumReplicas
from grpo_gym.envs.autoscaler.baselines import make_baseline
from grpo_gym.envs.autoscaler.records import METRIC_RANGES, METRICS, SCALING

ENV = "AutoScaler-v0"
STEPS_PER_HOUR = 60
MAINTAIN = SCALING.index(0)
ALTERNATIVES = tuple(SCALING.index(change) for change in (0, 1, -1))
BROKEN = [METRICS.index(name) for name in ("cpu_percent", "p50_latency_ms", "p99_latency_ms")]
"""Positions of the sensors that break, in the policy's observation."""
P99, PENDING = METRICS.index("p99_latency_ms"), len(METRICS)
"""Positions of the latency and of the replicas that start up."""
NOTHING_MEASURED = -1.0
"""Observation of a metric that is zero."""

Observation = Mapping[str, Any]
Behaviour = Callable[[Observation], int]


class Cluster:
    """A cluster over several days, with a clock and records.

    Attributes:
        env: The environment; its one episode is all the days.
        now_s: Simulated seconds since the start.
        observation: Of guard, policy and fallback: `current_metrics` as the environment has them,
            `action_mask`, and `replicas`, including those that start up.
        rewards: Of each step so far; likewise the next three.
        dollars: Cost and penalty.
        demand: Requests/s.
        replicas: At the end of the step.
    """

    def __init__(self, seed: int, steps: int) -> None:
        """Start at midnight of the first day."""
        self.env = gym.make(ENV, episode_steps=steps, disable_env_checker=True)
        self.now_s = 0.0
        self.rewards: list[float] = []
        self.dollars: list[float] = []
        self.demand: list[float] = []
        self.replicas: list[int] = []
        self._observe(*self.env.reset(seed=seed))

    @property
    def hour(self) -> float:
        """Simulated hours since the start."""
        return self.now_s / 3600.0

    def step(self, action: int) -> None:
        """Simulate one minute."""
        features, reward, _, _, info = self.env.step(action)
        self._observe(features, info)
        self.now_s += 3600.0 / STEPS_PER_HOUR
        self.rewards.append(float(reward))
        self.dollars.append(info["cost_dollars"] + info["penalty_dollars"])
        self.demand.append(info["demand"])
        self.replicas.append(self.observation["replicas"])

    def _observe(self, features: np.ndarray, info: Mapping[str, Any]) -> None:
        self.observation: Observation = {
            "current_metrics": features,
            "action_mask": info["action_mask"],
            "replicas": info["replicas"] + info["pending"],
        }


def autoscaler(name: str, cluster: Cluster, **settings: Any) -> Behaviour:
    """A baseline with its own state, which survives a restart of the guard."""
    baseline = make_baseline(name, cluster.env, **settings)
    state: Any = None

    def act(observation: Observation) -> int:
        nonlocal state
        action, state = baseline.predict(observation, state)
        return int(action)

    return act


@dataclass(frozen=True)
class Scenario:
    """A fault of the policy, and its time."""

    description: str
    """In a few words."""
    behaviour: Callable[[Behaviour, Cluster], Behaviour]
    """Makes the bad policy from the good one."""
    when: Literal["from the start", "later", "never"]
    """Later: at `trouble_hour`."""
    constraints: tuple[Constraint, ...] = ()
    """In addition to the usual ones."""


def reversed_signs(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Add replicas instead of removing them, and vice versa."""
    return lambda observation: len(SCALING) - 1 - good(observation)


def failing(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Raise an error instead of choosing an action."""

    def fail(observation: Observation) -> int:
        raise TimeoutError("the policy's server does not answer")

    return fail


def zero_sensors(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Observe utilisation and latencies as zero."""
    return lambda observation: good(_with_sensors(observation, NOTHING_MEASURED))


def frozen_sensors(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Observe utilisation and latencies as they were at first."""
    frozen: list[np.ndarray] = []

    def act(observation: Observation) -> int:
        if not frozen:
            frozen.append(observation["current_metrics"][BROKEN])
        return good(_with_sensors(observation, frozen[0]))

    return act


def _with_sensors(observation: Observation, values: np.ndarray | float) -> Observation:
    metrics = observation["current_metrics"].copy()
    metrics[BROKEN] = values
    return {**observation, "current_metrics": metrics}


def replicas_added(action: int) -> float:
    """The change of replicas that an action encodes."""
    return float(SCALING[action])


CONSTRAINTS = tuple(
    rule(change=replicas_added) for rule in (MaximumChange, MinimumReplicas, Cooldown)
)
"""The usual ones."""


@dataclass(frozen=True)
class AddWhileSlow:
    """While latency is high and no replica is starting, the policy must add replicas if it can."""

    name: str = "add_while_slow"
    """In records."""
    p99_latency_ms: float = 1_000.0
    """Latency above which it is bad."""

    def __call__(self, observation: Observation, action: int, context: Context) -> bool:
        """Whether the action is allowed, according to the guard's sensors, not the policy's."""
        metrics = observation["current_metrics"]
        low, high = METRIC_RANGES["p99_latency_ms"]
        latency_ms = low + (float(metrics[P99]) + 1.0) / 2.0 * (high - low)
        is_slow = latency_ms > self.p99_latency_ms and metrics[PENDING] <= NOTHING_MEASURED
        may_add = bool(observation["action_mask"][MAINTAIN + 1 :].any())
        return not (is_slow and may_add) or replicas_added(action) > 0.0


SCENARIOS = {
    "good": Scenario("the trained policy", lambda good, cluster: good, "never"),
    "reversed": Scenario("more and fewer mixed up", reversed_signs, "from the start"),
    "random": Scenario(
        "random legal changes",
        lambda good, cluster: autoscaler("random", cluster),
        "from the start",
    ),
    "wasteful": Scenario(
        "replicas half as busy",
        lambda good, cluster: autoscaler("hpa", cluster, target_percent=40.0),
        "from the start",
    ),
    "removes": Scenario(
        "always removes four",
        lambda good, cluster: lambda observation: SCALING.index(-4),
        "later",
    ),
    "zero sensors": Scenario("use and latency read as zero", zero_sensors, "later"),
    "zero sensors, one rule more": Scenario(
        "and it must add while p99 is above 1 s", zero_sensors, "later", (AddWhileSlow(),)
    ),
    "frozen sensors": Scenario("use and latency frozen", frozen_sensors, "later"),
    "fails": Scenario("the policy raises", failing, "later"),
}
