"""`Battleship-v0` for one game."""

import gymnasium as gym
import numpy as np
from typing_extensions import override

from grpo_gym.envs.battleship.boards import chosen_layouts
from grpo_gym.envs.battleship.observation import observation_shape
from grpo_gym.envs.battleship.presets import BattleshipConfig, make_config
from grpo_gym.envs.battleship.rendering import render_ansi, render_rgb
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.native_env import NativeEnv
from grpo_gym.envs.native_task import NativeTask


def _observation_space(config: BattleshipConfig) -> gym.spaces.Box:
    low = -1.0 if config.observation == "compact" else 0.0
    return gym.spaces.Box(low, 1.0, observation_shape(config), np.float32)


def _action_space(config: BattleshipConfig) -> gym.spaces.Discrete:
    return gym.spaces.Discrete(config.cells)


def _event(simulator: BattleshipSimulator, b: int, cell: np.int64) -> int:
    return int(cell)


TASK = NativeTask(
    make_config=make_config,
    simulator=BattleshipSimulator,
    observation_space=_observation_space,
    action_space=_action_space,
    action_name="cell",
    event=_event,
    render_ansi=render_ansi,
    render_rgb=render_rgb,
    reset_options=("board", "layout"),
    reset_arguments=chosen_layouts,
)


class BattleshipEnv(NativeEnv[np.ndarray, np.int64]):
    """Sink a hidden fleet in as few shots as possible.

    ## Description
    Ships lie in straight lines on a board that the player does not see. Each step is a shot at a
    cell; the answer is miss or hit and, unless `announce_sunk` is off, the ship that it sank. The
    board is drawn at reset from all legal ones with equal probability: games with equal seeds have
    equal boards.

    ## Action Space
    `Discrete(rows * columns)`: the cell to shoot at, row by row: cell = row * columns + column.

    ## Observation Space
    Of `planes` (default), `Box(0, 1, (4 + N, rows, columns), float32)` with N the number of
    different lengths of ships:

    | Num       | Channel                                                            |
    |-----------|--------------------------------------------------------------------|
    | 0         | cells not shot at                                                  |
    | 1         | misses                                                             |
    | 2         | hits of ships not known to be sunk                                 |
    | 3         | cells of sunk ships                                                |
    | 4 ...     | the share of ships of each length still afloat, shortest first     |

    With `announce_sunk=False` the last two kinds are missing: (3, rows, columns).
    `planes_density` adds two planes: the number of placements of the ships afloat that cover a
    cell given what is seen, and of those that cover an open hit, each over its largest.
    `compact`: `Box(-1, 1, (rows, columns))` of 0 (unknown), -1 (miss), 1 (hit).
    `flat`: the kinds of cells one after the other, then one number for each length afloat.

    ## Rewards
    - `score`: 0, and with the last hit 1 - misses / (cells - ship cells + 1).
    - `shots`: -1 a shot.
    - `hits`: 1 / ship cells for a hit, -1 / water cells for a miss: 1 for a game without misses.

    A hit is worth `hit_bonus` more (default 0). A shot at a known cell changes nothing and costs
    `repeat_penalty` on top.

    ## Starting State
    Nothing known. `reset(options={"board": ...})` sets up a board, shape (rows, columns), of ship
    numbers from 1 in the order of the fleet and 0 for water; `{"layout": n}` takes number n of the
    list of all legal boards, where they can be listed.

    ## Episode End
    Termination when every ship is sunk; truncation after as many shots as there are cells.

    ## Information
    After each step and reset, unless `mask_repeats` is off: `action_mask` (int8, shape (cells,)),
    cells not shot at. After each step: `hit`, `repeated`, and `sunk_length`, the length of the
    ship that this shot sank, if that is announced, else 0.

    ## Arguments
    `preset` names a board (`classic-10x10`, the same with other observations
    `classic-10x10-density`, `microgrpo-5x5`, `uniform-5x5`, `no-touch-10x10`, `russian-10x10`);
    every other keyword overrides one field of
    `grpo_gym.envs.battleship.presets.BattleshipConfig`:
    ```python
    gym.make("Battleship-v0", board_size=(8, 6), fleet=(3, 2, 2), allow_touch=False)
    ```

    ## Version History
    - v0: first version.
    """

    task = TASK
    config: BattleshipConfig
    simulator: BattleshipSimulator
    metadata = NativeEnv.metadata | {"render_fps": 4}
    heat_map: np.ndarray | None = None
    """Shown beside the board, such as a policy's probabilities, shape (cells,); or None."""

    def action_masks(self) -> np.ndarray:
        """Cells not shot at, shape (cells,), bool; sb3-contrib's MaskablePPO calls this."""
        return self.simulator.unknown()[0]

    @override
    def _render_rgb(self) -> np.ndarray:
        return render_rgb(self.simulator, self._history, heat_map=self.heat_map)

    @override
    def _forget_pictures(self) -> None:
        super()._forget_pictures()
        self.heat_map = None
