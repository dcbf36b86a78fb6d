"""What autoscaling baselines share: settings, and the way from a number of replicas to an action.

Shapes: B clusters, A choices.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from grpo_gym.envs.autoscaler.actions import ALL_TRAFFIC, EXACT, NO_CONFIGURATION, encode
from grpo_gym.envs.autoscaler.records import SCALING, TARGETS_PERCENT
from grpo_gym.envs.autoscaler.service import replica_capacities
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.baseline import Baseline
from grpo_gym.settings import Number

State = tuple[np.ndarray, ...]

Target = Annotated[Number, Field(gt=0, le=100)]
"""Use of the processors to aim at, %."""


class Scaler(Baseline):
    """A rule for the number of replicas."""

    simulator_class = AutoScalerSimulator
    deterministic = True

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed, **settings)
        config = self.simulator.config
        self._kind = config.action
        if self._kind in ("replicas", "target"):
            self._actions = np.arange(self.simulator.num_choices)
        else:
            choices = [[s, NO_CONFIGURATION, ALL_TRAFFIC] for s in range(len(SCALING))]
            self._actions = encode(self._kind, choices)
        # The next change is possible after the cool-down, and its replicas serve later still.
        between = max(1, config.cooldown_steps) if config.constraints else 1
        self.horizon = config.start_up_steps + between

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        replicas, state = self.wanted(state)
        return self._towards(replicas), state

    def wanted(self, state: State) -> tuple[np.ndarray, State]:
        """Return the number of replicas wanted, shape (B,), and the new state."""
        raise NotImplementedError

    def total(self) -> np.ndarray:
        """Replicas that serve or start up, shape (B,), int64."""
        clusters = self.simulator.clusters
        return np.add(clusters["running"], clusters["pending"])

    def enough(self, demand: np.ndarray, target_percent: float) -> np.ndarray:
        """Fewest replicas that serve a demand (requests/s) at this utilisation, shape (B,)."""
        capacities = np.empty(self.simulator.num_envs)
        replica_capacities(self.simulator.clusters, self.simulator.parameters, capacities)
        return np.ceil(100.0 * demand / (target_percent * capacities) - EXACT)

    def _towards(self, replicas: np.ndarray) -> np.ndarray:
        """The legal action whose result is nearest; of two the one with more replicas."""
        masks = self.simulator.action_masks()
        masks = masks[:, : len(SCALING)] if self._kind == "multi" else masks[:, self._actions]
        excess = self._results() - replicas[:, None]
        distance = np.where(masks == 1, np.abs(excess) - 0.5 * (excess > 0), np.inf)
        return self._actions[distance.argmin(axis=1)]

    def _results(self) -> np.ndarray:
        """Replicas that each choice leads to, shape (1, A) or (B, A)."""
        config = self.simulator.config
        if self._kind == "replicas":
            return np.arange(config.min_replicas, config.max_replicas + 1)[None, :]
        if self._kind == "target":
            requests = self.simulator.metrics["requests_per_s"]
            needed = [self.enough(requests, percent) for percent in TARGETS_PERCENT]
            return np.clip(np.stack(needed, axis=1), config.min_replicas, config.max_replicas)
        return self.total()[:, None] + np.array(SCALING)
