"""Autoscalers in common use, with a trained model's `predict`, to compare policies with.

Each one wants a number of replicas. Actions of the kind "replicas" set it directly. For the other
kinds, and under constraints, a baseline takes the legal action that leads nearest to it, and leaves
configuration and traffic alone. All but `clairvoyant` see only measurements.

Shapes: B clusters, A choices.
"""

import math
from functools import cached_property

import numpy as np
from typing_extensions import override

from grpo_gym.envs.autoscaler.actions import COMPONENTS, EXACT
from grpo_gym.envs.autoscaler.forecasting import Forecaster, HoltWinters, SeasonalNaive
from grpo_gym.envs.autoscaler.scaler import Scaler, State, Target
from grpo_gym.envs.baseline import baseline_maker
from grpo_gym.settings import Count, Fraction


class Random(Scaler):
    """Any legal action, of all components."""

    name = "random"
    deterministic = False

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        masks = self.simulator.action_masks()
        scores = np.where(masks == 1, self._noise(masks.shape[1]), 0.0)
        if self._kind != "multi":
            return scores.argmax(axis=1), state
        parts = np.split(scores, np.cumsum(COMPONENTS)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1), state


class Static(Scaler):
    """Always the same number of replicas."""

    name = "static"
    replicas: Count = 50

    @override
    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        return np.full(self.simulator.num_envs, self.replicas), state


class Threshold(Scaler):
    """AWS' step scaling: by 10 % when use is 10 points off the target, by 30 % from 20 on.

    The number to add or remove is rounded down, but at least 1. Replicas that start up count
    towards what a step adds, and nothing is removed until they serve.

    Source: Amazon EC2 Auto Scaling user guide, step scaling policies: the steps of its example
    (target 50 %).
    """

    name = "threshold"
    target_percent: Target = 50.0

    @override
    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        seen = self.simulator.metrics
        serving, total = seen["replicas"], self.total()
        excess = seen["cpu_percent"] - self.target_percent
        share = np.select([np.abs(excess) >= 20.0, np.abs(excess) >= 10.0], [0.3, 0.1], 0.0)
        size = np.maximum(np.floor(share * serving + EXACT), share > 0.0)
        grown = np.maximum(total, serving + size)
        shrunk = np.where(total > serving, total, total - size)
        return np.where(excess > 0.0, grown, shrunk), state


class Hpa(Scaler):
    """Kubernetes' horizontal pod autoscaler with its default settings.

    It wants replicas * use / target, rounded up, and changes nothing while use is within 10 % of
    the target. When scaling up, replicas without measurements (they start up, or have just come
    up) count as idle. It scales down only to the most that it wanted within the last 300 seconds.
    It scales up by at most 100 % or 4 replicas, whichever is more, in each of its synchronisations
    every 15 seconds: the four of a 60-second step see the same measurements, so together they want
    what the first one wants, and their limits compound.

    Source: Kubernetes documentation, Horizontal Pod Autoscaling: algorithm details, default
    behaviour; and its replica calculator (pkg/controller/podautoscaler).
    """

    name = "hpa"
    target_percent: Target = 70.0
    tolerance = 0.1
    """Relative distance from the target within which nothing changes."""
    window_seconds = 300.0
    """Time for which an earlier number wanted keeps replicas from being removed."""
    sync_seconds = 15.0

    @override
    def initial_state(self) -> State:
        """The numbers wanted in the steps before, shape (B, steps of the window - 1)."""
        steps = math.ceil(self.window_seconds / self.simulator.config.step_seconds)
        return (np.repeat(self.total()[:, None], max(steps - 1, 0), axis=1),)

    @override
    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        desired, total = self.desired(), self.total()
        recent = np.concatenate([state[0], desired[:, None]], axis=1)
        shrunk = np.minimum(total, recent.max(axis=1))
        grown = np.minimum(desired, self.most(total))
        return np.where(desired > total, grown, shrunk), (recent[:, 1:],)

    def desired(self) -> np.ndarray:
        """Replicas that use and target ask for, shape (B,), int64, before window and limit."""
        seen = self.simulator.metrics
        serving, total = seen["replicas"], self.total()
        ratio = seen["cpu_percent"] / self.target_percent
        # Replicas without measurements count as idle when scaling up, and not at all otherwise.
        all_in = np.where(ratio > 1.0, ratio * serving / total, ratio)
        within = np.abs(all_in - 1.0) <= self.tolerance + EXACT
        flips = (ratio > 1.0) & (all_in < 1.0)
        needed = np.ceil(ratio * serving - EXACT).astype(np.int64)
        return np.where(within | flips, total, needed)

    def most(self, total: np.ndarray) -> np.ndarray:
        """The largest numbers of replicas that a step can reach from these."""
        for _ in range(max(1, round(self.simulator.config.step_seconds / self.sync_seconds))):
            total = np.maximum(2 * total, total + 4)
        return total


class Predictive(Scaler):
    """Enough for the highest demand forecast until replicas of the next decision serve."""

    target_percent: Target = 80.0
    at_least_current = False
    """Whether the current demand counts as well."""

    @cached_property
    def forecaster(self) -> Forecaster:
        """Forecasts the demand."""
        raise NotImplementedError

    @override
    def initial_state(self) -> State:
        return self.forecaster.start(self.simulator.num_envs)

    @override
    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        simulator = self.simulator
        starts = simulator.starts[simulator.episodes["trace_row"]]
        phases = (starts + simulator.episodes["step"]) % simulator.config.steps_per_day
        demand = simulator.metrics["requests_per_s"]
        state = self.forecaster.observe(state, demand, phases)
        expected = self.forecaster.ahead(state, phases, self.horizon).max(axis=1)
        if self.at_least_current:
            expected = np.maximum(expected, demand)
        return self.enough(expected, self.target_percent), state


class SeasonalNaiveScaler(Predictive):
    """Expects the demand of a day ago, but at least the current one; see `SeasonalNaive`.

    Source: AWS predictive scaling, which acts beside a reactive policy: the larger number counts.
    """

    name = "seasonal_naive"
    at_least_current = True

    @cached_property
    @override
    def forecaster(self) -> Forecaster:
        return SeasonalNaive(period=self.simulator.config.steps_per_day)


class HoltWintersScaler(Predictive):
    """Expects demand by level, trend and time of day; the settings are those of `HoltWinters`."""

    name = "holt_winters"
    level_weight: Fraction = HoltWinters.level_weight
    trend_weight: Fraction = HoltWinters.trend_weight
    season_weight: Fraction = HoltWinters.season_weight

    @cached_property
    @override
    def forecaster(self) -> Forecaster:
        return HoltWinters(
            period=self.simulator.config.steps_per_day,
            level_weight=self.level_weight,
            trend_weight=self.trend_weight,
            season_weight=self.season_weight,
        )


class Clairvoyant(Scaler):
    """Knows the future demand, and orders in time what it needs."""

    name = "clairvoyant"
    privileged = True
    target_percent: Target = 85.0

    @override
    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        demand = self.simulator.demand_ahead(self.horizon).max(axis=1).astype(np.float64)
        return self.enough(demand, self.target_percent), state


def _variant(base: type[Scaler], setting: str, value: float) -> type[Scaler]:
    """A baseline with another default, which its name tells."""
    members = {"name": f"{base.name}_{value:g}", setting: value, "__doc__": base.__doc__}
    return type(f"{base.__name__}{value:g}", (base,), members)


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
BASELINES: dict[str, type[Scaler]] = {scaler.name: scaler for scaler in _SCALERS}
make_baseline = baseline_maker(BASELINES)
