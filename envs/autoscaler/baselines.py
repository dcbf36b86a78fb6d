"""The autoscalers that users would otherwise run, with a trained model's `predict`.

Each says how many replicas it wants. Actions of the kind "replicas" say just that; of the other
kinds, and under constraints, the legal action that comes nearest is taken, and configuration and
traffic stay as they are. All but `clairvoyant` see only what is measured.

Shapes: B clusters, A choices.
"""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.actions import (
    ALL_TRAFFIC,
    COMPONENTS,
    EXACT,
    NO_CONFIGURATION,
    encode,
)
from grpo_gym.envs.autoscaler.forecasting import Forecaster, HoltWinters, SeasonalNaive
from grpo_gym.envs.autoscaler.records import SCALING, TARGETS_PERCENT
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.baseline import Baseline
from grpo_gym.envs.kernels import kernel
from grpo_gym.settings.config import ConfigError, suggest

State = tuple[np.ndarray, ...]

_ABSOLUTE = ("replicas", "target")
"""Kinds of actions that do not say a change."""


class Scaler(Baseline):
    """A way to choose the number of replicas."""

    simulator_class = AutoScalerSimulator
    deterministic = True

    def __init__(self, env: Any, seed: int = 0) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed)
        config = self.simulator.config
        self._kind = config.action
        self._changes = np.array(SCALING)
        if self._kind not in _ABSOLUTE:
            choices = [[s, NO_CONFIGURATION, ALL_TRAFFIC] for s in range(len(SCALING))]
            self._actions = encode(self._kind, choices)
        # The next decision that counts is a cool-down away, and its replicas serve later still.
        between = max(1, config.cooldown_steps) if config.constraints else 1
        self._horizon = config.start_up_steps + between

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State | None]:
        """Choose an action for each environment; see `Baseline.predict`.

        With "multi" actions have shape (3,) or (B, 3).
        """
        if isinstance(observation, Mapping):
            observation = observation["current_metrics"]
        return super().predict(observation, state, episode_start, deterministic)

    def choose(self, state: State) -> tuple[np.ndarray, State]:
        """See `Baseline.choose`: what comes nearest to the replicas `wanted`."""
        replicas, state = self.wanted(state)
        return self._towards(replicas), state

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """How many replicas there should be, shape (B,), and the new state."""
        raise NotImplementedError

    def _towards(self, replicas: np.ndarray) -> np.ndarray:
        """The legal action that leads nearest to so many replicas; of two the larger number."""
        masks = self.simulator.action_masks()
        if self._kind == "multi":
            masks = masks[:, : len(SCALING)]
        elif self._kind not in _ABSOLUTE:
            masks = masks[:, self._actions]
        excess = self._results(masks.shape[1]) - replicas[:, None]
        distance = np.where(masks == 1, np.abs(excess) - 0.5 * (excess > 0), np.inf)
        chosen = distance.argmin(axis=1)
        return chosen if self._kind in _ABSOLUTE else self._actions[chosen]

    def _results(self, choices: int) -> np.ndarray:
        """Replicas that each choice leads to, shape (1, A) or (B, A)."""
        if self._kind == "replicas":
            return self.simulator.config.min_replicas + np.arange(choices)[None, :]
        if self._kind == "target":
            requests = self.simulator.metrics["requests_per_s"]
            needed = [self._enough(requests, percent) for percent in TARGETS_PERCENT]
            config = self.simulator.config
            return np.clip(np.stack(needed, axis=1), config.min_replicas, config.max_replicas)
        return self._total()[:, None] + self._changes

    def _total(self) -> np.ndarray:
        """Replicas, those that start up included, shape (B,)."""
        clusters = self.simulator.clusters
        total: np.ndarray = clusters["running"] + clusters["pending"]
        return total

    def _enough(self, demand: np.ndarray, target_percent: float) -> np.ndarray:
        """Replicas that a demand (requests/s) uses to this share, shape (B,)."""
        capacities = np.empty(self.simulator.num_envs)
        _capacities(self.simulator.clusters, self.simulator.parameters, capacities)
        return np.ceil(100.0 * demand / (target_percent * capacities) - EXACT)


class Random(Scaler):
    """Any legal action, of all components."""

    name = "random"
    deterministic = False

    def choose(self, state: State) -> tuple[np.ndarray, State]:
        """See `Baseline.choose`."""
        masks = self.simulator.action_masks()
        scores = np.where(masks == 1, self._noise(masks.shape[1]), 0.0)
        if self._kind != "multi":
            return scores.argmax(axis=1), state
        parts = np.split(scores, np.cumsum(COMPONENTS)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1), state


class Static(Scaler):
    """Always the same number of replicas."""

    name = "static"
    replicas = 50
    """Unless told otherwise."""

    def __init__(self, env: Any, seed: int = 0, *, replicas: int | None = None) -> None:
        """Bind to an environment.

        Args:
            env: See `Baseline`.
            seed: See `Baseline`.
            replicas: How many; None: as many as the class says.

        Raises:
            ConfigError: Also if there are none.
        """
        super().__init__(env, seed)
        self.replicas = self.replicas if replicas is None else replicas
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, (int, np.integer)):
            raise ConfigError(f"replicas must be an integer, got {replicas!r}")
        if self.replicas < 1:
            raise ConfigError(f"replicas must be >= 1, got {replicas}")

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """See `Scaler.wanted`."""
        return np.full(self.simulator.num_envs, self.replicas), state


class Targeting(Scaler):
    """What is told how busy replicas should be.

    Attributes:
        target_percent: Use of processors to aim at, %.
    """

    target_percent: float

    def __init__(self, env: Any, seed: int = 0, *, target_percent: float | None = None) -> None:
        """Bind to an environment.

        Args:
            env: See `Baseline`.
            seed: See `Baseline`.
            target_percent: Use of processors to aim at, in (0, 100]; None: the class's own.

        Raises:
            ConfigError: Also if the target is out of its range.
        """
        super().__init__(env, seed)
        given = self.target_percent if target_percent is None else target_percent
        if isinstance(given, bool) or not 0.0 < given <= 100.0:
            raise ConfigError(f"target_percent must be above 0 and at most 100, got {given}")
        self.target_percent = float(given)


class Threshold(Targeting):
    """Step scaling as at AWS: by 10 % when use is 10 points off the target, by 30 % from 20 on.

    Part of a replica is a whole one, above that it is cut off. Replicas that start up count
    towards what a step adds, and nothing is removed while there are some.

    Source: Amazon EC2 Auto Scaling user guide, step scaling policies: the steps of its example
    (target 50 %).
    """

    name = "threshold"
    target_percent = 50.0

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """See `Scaler.wanted`."""
        seen = self.simulator.metrics
        serving, total = seen["replicas"], self._total()
        excess = seen["cpu_percent"] - self.target_percent
        share = np.select([np.abs(excess) >= 20.0, np.abs(excess) >= 10.0], [0.3, 0.1], 0.0)
        size = np.maximum(np.floor(share * serving + EXACT), share > 0.0)
        grown = np.maximum(total, serving + size)
        shrunk = np.where(total > serving, total, total - size)
        return np.where(excess > 0.0, grown, shrunk), state


class Hpa(Targeting):
    """Kubernetes' horizontal pod autoscaler with the defaults of its rules.

    It wants replicas * use / target, rounded up, and leaves all as it is while use is within 10 %
    of the target. On the way up, replicas without measurements (they start up, or have just come
    up) count as idle in that comparison. It goes down only to the most that it wanted within 300
    seconds, and up by at most 100 % or 4 replicas, if that is more, in each of its synchronisations
    every 15 seconds: in a step of 60 seconds they are four, which see the same measurements, so
    that together they want what the first one wants, and their limits compound.

    Source: Kubernetes documentation, Horizontal Pod Autoscaling: algorithm details, default
    behaviour; and its replica calculator (pkg/controller/podautoscaler).
    """

    name = "hpa"
    target_percent = 70.0
    tolerance = 0.1
    """Relative distance from the target that is put up with."""
    window_seconds = 300.0
    """How long back a wish keeps the number from falling below it."""
    sync_seconds = 15.0

    def initial_state(self) -> State:
        """What was wanted in the steps before, shape (B, steps of the window - 1)."""
        steps = math.ceil(self.window_seconds / self.simulator.config.step_seconds)
        return (np.repeat(self._total()[:, None], max(steps - 1, 0), axis=1),)

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """See `Scaler.wanted`."""
        (before,) = state
        desired, total = self.desired(), self._total()
        recent = np.concatenate([before, desired[:, None]], axis=1)
        highest = recent.max(axis=1)
        shrunk = np.minimum(total, highest)
        grown = np.minimum(desired, self.most(total))
        return np.where(desired > total, grown, shrunk), (recent[:, 1:],)

    def desired(self) -> np.ndarray:
        """What use and target ask for, shape (B,), int64, before window and limit."""
        seen = self.simulator.metrics
        serving, total = seen["replicas"], self._total()
        ratio = seen["cpu_percent"] / self.target_percent
        # Those that have no measurements yet are idle when there is more to do, else left out.
        all_in = np.where(ratio > 1.0, ratio * serving / total, ratio)
        bearable = (np.abs(all_in - 1.0) <= self.tolerance + EXACT) | (
            (ratio > 1.0) & (all_in < 1.0)
        )
        needed = np.ceil(ratio * serving - EXACT).astype(np.int64)
        return np.where(bearable, total, needed)

    def most(self, total: np.ndarray) -> np.ndarray:
        """What so many replicas may become within a step."""
        for _ in range(max(1, round(self.simulator.config.step_seconds / self.sync_seconds))):
            total = np.maximum(2 * total, total + 4)
        return total


class Predictive(Targeting):
    """Enough for the most that is expected until replicas serve that the next decision orders.

    Attributes:
        forecaster: What expects it.
    """

    target_percent = 80.0
    forecaster: Forecaster

    def initial_state(self) -> State:
        """What the forecaster remembers."""
        return self.forecaster.start(self.simulator.num_envs)

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """See `Scaler.wanted`."""
        simulator = self.simulator
        starts = simulator.starts[simulator.episodes["trace_row"]]
        phases = (starts + simulator.episodes["step"]) % simulator.config.steps_per_day
        demand = simulator.metrics["requests_per_s"]
        state = self.forecaster.observe(state, demand, phases)
        expected = self.forecaster.ahead(state, phases, self._horizon).max(axis=1)
        return self._enough(self.expected(expected, demand), self.target_percent), state

    def expected(self, forecast: np.ndarray, demand: np.ndarray) -> np.ndarray:
        """What to prepare for, requests/s, shape (B,)."""
        return forecast


class SeasonalNaiveScaler(Predictive):
    """Demand will be what it was a day ago, but not less than now; on the first day as now.

    Source: AWS predictive scaling acts beside a reactive policy, and the higher wish counts.
    """

    name = "seasonal_naive"

    def __init__(self, env: Any, seed: int = 0, *, target_percent: float | None = None) -> None:
        """Bind to an environment; see `Targeting`."""
        super().__init__(env, seed, target_percent=target_percent)
        self.forecaster = SeasonalNaive(self.simulator.config.steps_per_day)

    def expected(self, forecast: np.ndarray, demand: np.ndarray) -> np.ndarray:
        """See `Predictive.expected`."""
        return np.maximum(forecast, demand)


class HoltWintersScaler(Predictive):
    """Demand by level, trend and, from the second day on, time of day; see `HoltWinters`."""

    name = "holt_winters"

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        *,
        target_percent: float | None = None,
        level_weight: float = HoltWinters.level_weight,
        trend_weight: float = HoltWinters.trend_weight,
        season_weight: float = HoltWinters.season_weight,
    ) -> None:
        """Bind to an environment; see `Targeting` and `HoltWinters` for the arguments.

        Raises:
            ConfigError: Also if a weight is not in [0, 1].
        """
        super().__init__(env, seed, target_percent=target_percent)
        period = self.simulator.config.steps_per_day
        self.forecaster = HoltWinters(period, level_weight, trend_weight, season_weight)


class Clairvoyant(Targeting):
    """Knows demand, and orders in time what it needs."""

    name = "clairvoyant"
    privileged = True
    target_percent = 85.0

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """See `Scaler.wanted`."""
        demand = self.simulator.demand_ahead(self._horizon).max(axis=1).astype(np.float64)
        return self._enough(demand, self.target_percent), state


def _variant(base: type[Scaler], attribute: str, value: float) -> type[Scaler]:
    """A baseline with another number, which its name tells."""
    members = {"name": f"{base.name}_{value:g}", attribute: value, "__doc__": base.__doc__}
    variant: type[Scaler] = type(f"{base.__name__}{value:g}", (base,), members)
    return variant


_SCALERS: tuple[type[Scaler], ...] = (
    Random,
    Static,
    *(_variant(Static, "replicas", replicas) for replicas in (25, 64, 100)),
    Threshold,
    Hpa,
    *(_variant(Hpa, "target_percent", percent) for percent in (50, 60, 80, 90)),
    SeasonalNaiveScaler,
    HoltWintersScaler,
    Clairvoyant,
)
BASELINES: dict[str, Callable[..., Scaler]] = {scaler.name: scaler for scaler in _SCALERS}


def make_baseline(name: str, env: Any, seed: int = 0, **settings: Any) -> Scaler:
    """A baseline by its name, bound to an environment.

    Args:
        name: From `BASELINES`.
        env: An AutoScaler environment, single or vector.
        seed: Decides random choices.
        **settings: Of that baseline, such as `target_percent=65` of "hpa".

    Raises:
        ConfigError: If there is none of that name, `env` is not an autoscaler, or a setting is
            unknown or out of its range.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}.{suggest(str(name), BASELINES)}")
    known = signature(BASELINES[name]).parameters.keys() - {"env", "seed"}
    for setting in settings.keys() - known:
        raise ConfigError(f"{name} has no setting {setting!r}.{suggest(setting, known)}")
    return BASELINES[name](env, seed, **settings)


@kernel
def _capacities(clusters: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Requests/s that a replica of each cluster can serve, written to shape (B,)."""
    for b in range(out.shape[0]):
        out[b] = replica_capacity(clusters[b], parameters[0])
