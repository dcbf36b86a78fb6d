"""`Battleship-v0` for many games at once."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.battleship.env import TASK, BattleshipEnv
from grpo_gym.envs.battleship.presets import BattleshipConfig, make_config
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class BattleshipVectorEnv(NativeVectorEnv):
    """Many `BattleshipEnv` in one array program; see there for the game.

    The reset options `board`, shape (rows, columns) or one per reset environment, and `layout`, a
    number or one per reset environment, set up boards.
    """

    task = TASK
    config: BattleshipConfig
    simulator: BattleshipSimulator
    metadata = BattleshipEnv.metadata | NativeVectorEnv.metadata

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "classic-10x10",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build B = `num_envs` environments.

        The preset and the overrides are those of `BattleshipEnv`; `NativeVectorEnv` describes the
        other arguments.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        config = make_config(preset, **overrides)
        super().__init__(config, num_envs, render_mode, autoreset_mode, max_episode_steps)

    def action_masks(self) -> np.ndarray:
        """Cells not shot at, shape (B, cells), bool."""
        return self.simulator.unknown()

    def count_initial_states(self) -> int:
        """Number of legal boards, which `reset(options={"layout": ...})` numbers from 0.

        Raises:
            ConfigError: If there are too many to list.
        """
        return len(self.simulator.listed_layouts())
