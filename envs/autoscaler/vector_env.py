"""`AutoScaler-v0` for many clusters at once."""

import numpy as np

from grpo_gym.envs.autoscaler.env import TASK, AutoScalerEnv
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class AutoScalerVectorEnv(NativeVectorEnv):
    """Many `AutoScalerEnv` in one array program; see there for the task."""

    task = TASK
    config: AutoScalerConfig
    simulator: AutoScalerSimulator
    metadata = AutoScalerEnv.metadata | NativeVectorEnv.metadata

    def action_masks(self) -> np.ndarray:
        """Safe actions, shape (B, A), bool; of "multi" all components side by side."""
        return self.simulator.action_masks().astype(np.bool_)
