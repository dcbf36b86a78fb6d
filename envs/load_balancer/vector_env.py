"""`LoadBalancer-v0` for many environments at once."""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.batch_simulator import Infos
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.env import TASK, LoadBalancerEnv
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class LoadBalancerVectorEnv(NativeVectorEnv):
    """Many `LoadBalancerEnv` in one array program; see there for the task.

    `infos` is "basic" unless given, and then steps report nothing about the servers.
    """

    task = TASK
    config: LoadBalancerConfig
    simulator: LoadBalancerSimulator
    default_settings = {"infos": "basic"}  # noqa: RUF012
    metadata = LoadBalancerEnv.metadata | NativeVectorEnv.metadata

    def action_masks(self) -> np.ndarray:
        """Servers that there are, shape (B, N), bool."""
        return self.simulator.present

    @override
    def _state_infos_of_step(self) -> Infos:
        full = self.config.infos == "full"
        return self.simulator.state_infos() if full else self.simulator.masks()
