"""`Battleship-v0` for many games at once."""

import numpy as np

from grpo_gym.envs.battleship.env import TASK, BattleshipEnv
from grpo_gym.envs.battleship.presets import BattleshipConfig
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

    def action_masks(self) -> np.ndarray:
        """Cells not shot at, shape (B, cells), bool."""
        return self.simulator.unknown()

    def count_initial_states(self) -> int:
        """Number of legal boards, which `reset(options={"layout": ...})` numbers from 0.

        Raises:
            ConfigError: If there are too many to list.
        """
        return len(self.simulator.listed_layouts())
