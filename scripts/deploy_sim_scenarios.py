"""What scripts/deploy_sim.py simulates: a cluster, and policies with something wrong with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from grpo_gym.deployment import Constraint, Context
from grpo_gym.envs.autoscaler.baselines import make_baseline
from grpo_gym.envs.autoscaler.observation import METRIC_RANGES
from grpo_gym.envs.autoscaler.records import METRICS, SCALING

ENV = "AutoScaler-v0"
STEPS_PER_HOUR = 60
MAINTAIN, ONE_MORE, ONE_LESS = (SCALING.index(change) for change in (0, 1, -1))
BROKEN = [METRICS.index(name) for name in ("cpu_percent", "p50_latency_ms", "p99_latency_ms")]
"""The sensors that break, as positions in what the policy sees."""
P99, PENDING = METRICS.index("p99_latency_ms"), len(METRICS)
"""Where latency and replicas that start up are seen."""
NOTHING_MEASURED = -1.0
"""How a metric of zero is observed."""

Observation = Mapping[str, Any]
Behaviour = Callable[[Observation], int]


class Cluster:
    """A cluster over some days, its clock, and what it came to.

    Attributes:
        env: The environment, whose one episode is all the days.
        now_s: Simulated seconds since the start.
        observation: What guard, policy and fallback are shown: `current_metrics` as the
            environment has them, `action_mask`, and `replicas`, those that start up included.
        rewards: Of the steps so far.
        dollars: Paid and lost in each of them.
        demand: In each of them, requests/s.
        replicas: In each of them.
    """

    def __init__(self, seed: int, steps: int) -> None:
        """Begin at midnight of the first day."""
        self.env = gym.make(ENV, episode_steps=steps, disable_env_checker=True)
        self.now_s = 0.0
        self.rewards: list[float] = []
        self.dollars: list[float] = []
        self.demand: list[float] = []
        self.replicas: list[int] = []
        self._look(*self.env.reset(seed=seed))

    @property
    def hour(self) -> float:
        """Simulated hours since the start."""
        return self.now_s / 3600.0

    def step(self, action: int) -> None:
        """Let a minute pass under an action."""
        features, reward, _, _, info = self.env.step(action)
        self._look(features, info)
        self.now_s += 3600.0 / STEPS_PER_HOUR
        self.rewards.append(float(reward))
        self.dollars.append(info["cost_dollars"] + info["penalty_dollars"])
        self.demand.append(info["demand"])
        self.replicas.append(self.observation["replicas"])

    def _look(self, features: np.ndarray, info: Mapping[str, Any]) -> None:
        self.observation: Observation = {
            "current_metrics": features,
            "action_mask": info["action_mask"],
            "replicas": info["replicas"] + info["pending"],
        }


class Autoscaler:
    """A baseline that remembers by itself: it runs beside the guard, and outlives it."""

    def __init__(self, name: str, cluster: Cluster, **settings: Any) -> None:
        """Bind a baseline to a cluster."""
        self._baseline = make_baseline(name, cluster.env, **settings)
        self._state: Any = None

    def __call__(self, observation: Observation) -> int:
        """The change that the baseline wants."""
        action, self._state = self._baseline.predict(observation, self._state)
        return int(action)


@dataclass(frozen=True)
class Scenario:
    """What is wrong with a policy, and from when on."""

    description: str
    """In a few words."""
    behaviour: Callable[[Behaviour, Cluster], Behaviour]
    """What it then does, made of the good policy."""
    when: Literal["from the start", "later", "never"]
    """Later: at `trouble_hour`."""
    constraints: tuple[Constraint, ...] = ()
    """Beside the usual ones."""

    def trouble_hour(self, later: float) -> float | None:
        """From when on the policy is bad, hours since the start; None: never.

        Args:
            later: What "later" means, hours since the start.
        """
        return {"from the start": 0.0, "later": later, "never": None}[self.when]


def as_it_is(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Nothing is wrong."""
    return good


def reversed_signs(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Replicas are removed where they should be added, and added where removed."""
    return lambda observation: len(SCALING) - 1 - good(observation)


def wasteful(good: Behaviour, cluster: Cluster) -> Behaviour:
    """An autoscaler that keeps replicas half as busy as the fallback does."""
    return Autoscaler("hpa", cluster, target_percent=40.0)


def any_legal(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Any legal change."""
    return Autoscaler("random", cluster)


def always_remove(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Four replicas less, every minute."""
    return lambda observation: SCALING.index(-4)


def failing(good: Behaviour, cluster: Cluster) -> Behaviour:
    """No answer at all."""

    def fail(observation: Observation) -> int:
        raise TimeoutError("the policy's server does not answer")

    return fail


def zero_sensors(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Use and latencies are seen as zero."""
    return lambda observation: good(_with_sensors(observation, NOTHING_MEASURED))


def frozen_sensors(good: Behaviour, cluster: Cluster) -> Behaviour:
    """Use and latencies are seen as they were when this began."""
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
    """The change of replicas that an action stands for."""
    return float(SCALING[action])


@dataclass(frozen=True)
class AddWhileSlow:
    """A rule of one's own: while latency is bad and nothing starts up, add what may be added."""

    name: str = "add_while_slow"
    """In records."""
    p99_latency_ms: float = 1_000.0
    """What is bad."""

    def __call__(self, observation: Observation, action: int, context: Context) -> bool:
        """Whether the action is allowed; it reads the guard's sensors, not the policy's."""
        metrics = observation["current_metrics"]
        low, high = METRIC_RANGES["p99_latency_ms"]
        latency_ms = low + (float(metrics[P99]) + 1.0) / 2.0 * (high - low)
        is_slow = latency_ms > self.p99_latency_ms and metrics[PENDING] <= NOTHING_MEASURED
        may_add = bool(observation["action_mask"][MAINTAIN + 1 :].any())
        return not (is_slow and may_add) or replicas_added(action) > 0.0


SCENARIOS = {
    "good": Scenario("the trained policy", as_it_is, "never"),
    "reversed": Scenario("more and fewer mixed up", reversed_signs, "from the start"),
    "random": Scenario("random legal changes", any_legal, "from the start"),
    "wasteful": Scenario("replicas half as busy", wasteful, "from the start"),
    "removes": Scenario("always removes four", always_remove, "later"),
    "zero sensors": Scenario("use and latency read as zero", zero_sensors, "later"),
    "zero sensors, one rule more": Scenario(
        "and it must add while p99 is above 1 s", zero_sensors, "later", (AddWhileSlow(),)
    ),
    "frozen sensors": Scenario("use and latency frozen", frozen_sensors, "later"),
    "fails": Scenario("the policy raises", failing, "later"),
}
"""Each by its name."""
