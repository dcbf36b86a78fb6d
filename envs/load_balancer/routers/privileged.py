"""Rules with information that no balancer has: bounds for those that must do without.

Shapes: B environments, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.load_balancer.routers.router import Router


class LeastTimeLeft(Router):
    """The server that will be idle first."""

    name = "least_time_left"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        return np.maximum(self.simulator.servers["free_at_ms"] - self.now_ms[:, None], 0.0)


class LeastWork(LeastTimeLeft):
    """The server with the least unfinished work, measured in request sizes.

    Source: Harchol-Balter, Performance Modeling and Design of Computer Systems (2013), chapter 24.
    """

    name = "least_work"

    @override
    def costs(self) -> np.ndarray:
        return super().costs() * self.simulator.rates


class EarliestCompletion(Router):
    """The server that would answer this request first, given its size and the servers' faults.

    Source: "minimum completion time" in Maheswaran et al. (J. Parallel Distrib. Comput. 59, 1999).
    """

    name = "earliest_completion"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        return self.simulator.counterfactuals()["response_time_ms"]


class Oracle(Router):
    """The server with the best reward for this request, given its size, faults and errors."""

    name = "oracle"
    privileged = True

    @override
    def costs(self) -> np.ndarray:
        return -self.simulator.counterfactuals()["reward"]
