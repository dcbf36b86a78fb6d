"""`Battleship-v0` for one game: the batch simulator with B = 1."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.envs.arguments import check_options
from grpo_gym.envs.battleship.boards import chosen_layouts
from grpo_gym.envs.battleship.presets import make_config
from grpo_gym.envs.battleship.rendering import render_ansi, render_rgb
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.battleship.spaces import action_space, observation_space
from grpo_gym.envs.native_env import NativeEnv


class BattleshipEnv(NativeEnv[np.ndarray, np.int64]):
    """Sink a hidden fleet in as few shots as possible.

    ## Description
    Ships lie in straight lines on a board that the player does not see. Each step is a shot at a
    cell, which is answered by miss or hit, and unless `announce_sunk` is off, by the ship that
    it sank. The board is drawn at reset, all legal ones being equally likely, and no shot changes
    it: games with equal seeds have equal boards.

    ## Action Space
    `Discrete(rows * columns)`: the cell to shoot at, row by row: cell = row * columns + column.

    ## Observation Space
    Of `planes` (default), `Box(0, 1, (4 + N, rows, columns), float32)` with N the number of
    different lengths of ships:

    | Num       | Image                                                              |
    |-----------|--------------------------------------------------------------------|
    | 0         | cells not shot at                                                  |
    | 1         | misses                                                             |
    | 2         | hits of ships not known to be sunk                                 |
    | 3         | cells of sunk ships                                                |
    | 4 ...     | the share of ships of each length still afloat, shortest first     |

    With `announce_sunk=False` the last two kinds are missing: (3, rows, columns).
    `planes_density` adds two images: the number of placements of the ships afloat that cover a
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

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self, preset: str = "classic-10x10", render_mode: str | None = None, **overrides: Any
    ) -> None:
        """Build the environment; see the class for the arguments.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        self.config = make_config(preset, **overrides)
        self.simulator = BattleshipSimulator(self.config, num_envs=1)
        super().__init__(
            self.simulator, observation_space(self.config), action_space(self.config), render_mode
        )
        self.heat_map: np.ndarray | None = None
        """What pictures show beside the board, shape (cells,): such as a policy's probabilities."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a new board, that of `seed` or the next one of the current seed, or set it up.

        Raises:
            ConfigError: If an option is unknown, or its board is not legal.
        """
        check_options(options, known=("board", "layout"))
        given = options or {}
        layouts = chosen_layouts(self.simulator, given.get("board"), given.get("layout"), 1)
        self._begin(seed, layouts=layouts)
        self.heat_map = None
        return self.simulator.observe()[0], self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Shoot at a cell.

        Raises:
            gymnasium.error.InvalidAction: If there is no such cell.
            gymnasium.error.ResetNeeded: If called before the first reset.
        """
        self._need_reset("step")
        cell = self._choice(action, "cell")
        observation = self.simulator.step(np.array([cell], np.int64))[0]
        episode = self.simulator.episodes[0]
        info = self._info()
        info["hit"] = bool(episode["hit"])
        info["repeated"] = bool(episode["repeated"])
        info["sunk_length"] = int(episode["sunk_length"])
        won = bool(self.simulator.won()[0])
        cut = not won and bool(episode["step"] >= self.config.cells)
        self._history.append(cell)
        return observation, float(episode["reward"]), won, cut, info

    def set_state(self, state: Mapping[str, np.ndarray]) -> Any:
        """Continue from a snapshot; see `NativeEnv.set_state`."""
        self.heat_map = None
        return super().set_state(state)

    def action_masks(self) -> np.ndarray:
        """Cells not shot at, shape (cells,), bool, as sb3-contrib's MaskablePPO asks for them."""
        return self.simulator.unknown()[0]

    def render(self) -> Any:
        """A frame: text for "ansi", an array of shape (height, width, 3), uint8, for "rgb_array".

        Raises:
            gymnasium.error.ResetNeeded: If called before the first reset.
        """
        self._need_reset("render")
        if self.render_mode == "ansi":
            return render_ansi(self.simulator, self._history)
        if self.render_mode == "rgb_array":
            return render_rgb(self.simulator, self._history, heat_map=self.heat_map)
        gym.logger.warn('render() draws nothing without render_mode="ansi" or "rgb_array"')
        return None

    def _info(self) -> dict[str, Any]:
        if not self.config.mask_repeats:
            return {}
        return {"action_mask": self.action_masks().astype(np.int8)}
