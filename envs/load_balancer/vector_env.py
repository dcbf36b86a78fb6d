"""`LoadBalancer-v0` for many environments at once."""

import numpy as np

from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.env import TASK, LoadBalancerEnv
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class LoadBalancerVectorEnv(NativeVectorEnv):
    """Many `LoadBalancerEnv` in one array program; see there for the task.

    `infos` is "basic" unless given.
    """

    task = TASK
    config: LoadBalancerConfig
    simulator: LoadBalancerSimulator
    default_settings = {"infos": "basic"}  # noqa: RUF012
    metadata = LoadBalancerEnv.metadata | NativeVectorEnv.metadata

    def action_masks(self) -> np.ndarray:
        """Servers that there are, shape (B, N), bool."""
        return self.simulator.present
