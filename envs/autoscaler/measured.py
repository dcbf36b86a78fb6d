"""A real cluster as `AutoScaler-v0` shows one: its measurements stand where simulated ones would.

Observations, masks, actions, rewards and baselines are those of the environment, by its own code.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.actions import change_kernel
from grpo_gym.envs.autoscaler.dynamics import account
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import METRICS
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.kernels import kernel
from grpo_gym.settings import ConfigError

ACTIONS = ("scaling", "replicas", "target")
"""Kinds of actions that change nothing but the number of replicas."""
LARGEST_PLAUSIBLE = {
    "cpu_percent": 1e4,
    "memory_percent": 1e4,
    "network_mbit_per_s": 1e9,
    "disk_io_per_s": 1e9,
    "p50_latency_ms": 1e7,
    "p99_latency_ms": 1e7,
    "requests_per_s": 1e9,
    "error_percent": 100.0,
    "queue_depth": 1e9,
    "replicas": 1e5,
    "running": 1e5,
    "pending": 1e5,
}
"""What is measured in each step, and beyond which value no service is: the metrics of
`records.METRIC_RANGES`; the replicas that serve now, where the metric `replicas` is those that
served during the step; and the replicas that are ordered and do not serve yet."""
MEASUREMENTS = tuple(LARGEST_PLAUSIBLE)
_ROUNDING = 1.0 + 1e-9


def check_measurements(
    measured: Mapping[str, float], largest: Mapping[str, float] = LARGEST_PLAUSIBLE
) -> None:
    """Refuse measurements that no service can have.

    Args:
        measured: `MEASUREMENTS` by name.
        largest: The largest plausible value of each.

    Raises:
        ValueError: If one is missing, is not from 0 to the largest (so also if it is NaN), or if
            there are no replicas.
    """
    for name in MEASUREMENTS:
        value = measured.get(name, math.nan)
        if not 0.0 <= value <= largest[name] * _ROUNDING:
            raise ValueError(f"{name} must be from 0 to {largest[name]:g}, got {value:g}")
    if measured["running"] + measured["pending"] < 1.0:
        raise ValueError("running + pending must be at least 1: no replica is ordered")


class MeasuredCluster:
    """One cluster that is measured, and nothing of it simulated.

    Baselines are bound to it as to an environment.

    Attributes:
        config: The settings; recordings of demand are left out.
        simulator: Holds the measurements. It is never stepped.
    """

    def __init__(self, config: AutoScalerConfig) -> None:
        """Allocate, before the first measurement.

        Raises:
            ConfigError: If actions change more than the number of replicas.
        """
        if config.action not in ACTIONS:
            raise ConfigError(
                f"action must be one of {', '.join(ACTIONS)} for a measured cluster, got "
                f"{config.action!r}: nothing here changes batch sizes or moves traffic"
            )
        self.config = replace(config, demand_csv=None, demand_column=None)
        self.simulator = AutoScalerSimulator(self.config, 1)
        # The settings of the replicas become those of the cluster; nothing else of it stays.
        self.simulator.seed(np.zeros(1, np.uint64))
        self.simulator.reset()
        self._steps = 0

    @property
    def total(self) -> int:
        """Replicas that serve or start up."""
        cluster = self.simulator.clusters[0]
        return int(cluster["running"] + cluster["pending"])

    def measure(self, measured: Mapping[str, float], step: int, cooldown: int = 0) -> float:
        """Take the measurements of one step.

        Args:
            measured: `MEASUREMENTS` in their units.
            step: Steps from midnight of a Monday to this one.
            cooldown: Steps until the number of replicas may change again, where the settings have
                constraints.

        Returns:
            The reward of the step. Requests with errors count as lost.

        Raises:
            ValueError: If the measurements are not plausible; nothing has changed then.
        """
        check_measurements(measured)
        simulator = self.simulator
        for name in METRICS:
            simulator.metrics[name] = measured[name]
        simulator.clusters["running"] = round(measured["running"])
        simulator.clusters["pending"] = round(measured["pending"])
        simulator.clusters["cooldown"] = cooldown
        simulator.episodes["step"] = self._steps
        simulator.starts[:] = step - self._steps
        simulator.remember(np.arange(1))
        self._steps += 1
        _account(simulator.clusters, simulator.metrics, simulator.outcomes, simulator.parameters)
        return float(simulator.rewards()[0])

    def observation(self) -> Any:
        """The observation of the environment, float32: an array, or a dictionary of arrays."""
        observed = self.simulator.observe()
        if isinstance(observed, Mapping):
            return {name: part[0] for name, part in observed.items()}
        return observed[0]

    def action_mask(self) -> np.ndarray:
        """Safe actions, shape (A,), bool."""
        return self.simulator.action_masks()[0].astype(np.bool_)

    def change(self, action: int) -> int:
        """The replicas that an action adds, within the limits of the settings."""
        simulator, added = self.simulator, np.empty(1, np.int64)
        change_kernel(
            np.array([action]), simulator.metrics, simulator.clusters, simulator.parameters, added
        )
        return int(added[0])

    def load(self, requests_per_s: float) -> float:
        """Requests over those that one replica can serve."""
        capacity = replica_capacity(self.simulator.clusters[0], self.simulator.parameters[0])
        return requests_per_s / capacity

    def forget(self) -> None:
        """Begin the history of metrics anew with the next measurement."""
        self._steps = 0


@kernel
def _account(
    clusters: np.ndarray, metrics: np.ndarray, outcomes: np.ndarray, parameters: np.ndarray
) -> None:
    """Write costs and rewards of measured steps; the cost of the step before is in the clusters."""
    p = parameters[0]
    for b in range(clusters.shape[0]):
        outcome = outcomes[b]
        outcome.arrivals = metrics[b].requests_per_s * p.step_seconds
        outcome.lost = outcome.arrivals * min(1.0, 0.01 * metrics[b].error_percent)
        outcome.served = outcome.arrivals - outcome.lost
        outcome.overflow = 0.0
        outcome.violation = metrics[b].p99_latency_ms > p.sla_p99_ms
        account(clusters[b].dollars_per_hour, clusters[b], metrics[b], outcome, p)
