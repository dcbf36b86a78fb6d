"""`AutoScaler-v0` for many clusters at once."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.autoscaler.env import TASK, AutoScalerEnv
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig, make_config
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class AutoScalerVectorEnv(NativeVectorEnv):
    """Many `AutoScalerEnv` in one array program; see there for the task."""

    task = TASK
    config: AutoScalerConfig
    simulator: AutoScalerSimulator
    metadata = AutoScalerEnv.metadata | NativeVectorEnv.metadata

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "diurnal",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build B = `num_envs` environments.

        The preset and the overrides are those of `AutoScalerEnv`; `NativeVectorEnv` describes the
        other arguments.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        config = make_config(preset, **overrides)
        super().__init__(config, num_envs, render_mode, autoreset_mode, max_episode_steps)

    def action_masks(self) -> np.ndarray:
        """Safe actions, shape (B, A), bool; of "multi" all components side by side."""
        return self.simulator.action_masks().astype(np.bool_)
