"""Battleship: B games under the same rules.

Shapes: B games, M chosen games, A cells, S ships, P placements.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
from typing_extensions import override

from grpo_gym.envs.batch_simulator import BatchSimulator, Infos, Rule
from grpo_gym.envs.battleship.density import count_kernel
from grpo_gym.envs.battleship.dynamics import ends_kernel, shoot_kernel, start_kernel
from grpo_gym.envs.battleship.observation import (
    compact_kernel,
    count_planes,
    observation_shape,
    planes_kernel,
    relative_kernel,
)
from grpo_gym.envs.battleship.placements import draw_boards, find_placements, list_layouts
from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.battleship.records import EPISODE, UNKNOWN
from grpo_gym.envs.battleship.state_rules import game_rules
from grpo_gym.envs.parameters import kernel_parameters
from grpo_gym.settings import ConfigError

_UNLIMITED = np.iinfo(np.int64).max


class BattleshipSimulator(BatchSimulator):
    """State and rules of B games; games that are reset with equal seeds have the same board.

    Attributes:
        config: The settings.
        placements: All placements of each ship.
        episodes: `EPISODE` records, shape (B,).
        layouts: The placement of each ship, hidden from the player, shape (B, S), int32.
        ship_at: The ship at each cell or -1, also hidden, shape (B, A), int8.
        seen: What the player knows of each cell, shape (B, A), int8.
        left: Cells of each ship not yet hit, shape (B, S), int8.
    """

    state_names = ("episodes", "layouts", "ship_at", "seen", "left")

    def __init__(self, config: BattleshipConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`.

        Raises:
            ConfigError: If the fleet does not fit the board.
        """
        super().__init__(num_envs, EPISODE)
        self.config = config
        self.placements = find_placements(config)
        ships = len(config.fleet)
        self.layouts = np.zeros((num_envs, ships), np.int32)
        self.ship_at = np.zeros((num_envs, config.cells), np.int8)
        self.seen = np.zeros((num_envs, config.cells), np.int8)
        self.left = np.zeros((num_envs, ships), np.int8)
        self._games = tuple(getattr(self, name) for name in self.state_names)
        self.rules = kernel_parameters(config, ship_cells=config.ship_cells)
        lengths = config.lengths if config.announce_sunk else ()
        self._length_of = np.array([lengths.index(n) for n in config.fleet if lengths], np.int64)
        self.observation_shape = observation_shape(config)
        self._words = np.zeros((4, self.placements.covered.shape[1]), np.uint64)

    @override
    def reset(self, members: np.ndarray | None = None, layouts: np.ndarray | None = None) -> None:
        """Draw the next boards of the given games (default: all) and start them.

        Args:
            members: Shape (M,), int64.
            layouts: Boards to play instead, as the placement of each ship, shape (M, S), int32.
        """
        members = self._all if members is None else members
        seeds = self._begin_episodes(members)
        self.layouts[members] = self._draw(seeds) if layouts is None else layouts
        start_kernel(members, self.placements.cells, *self._games)

    @override
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
        skip = self._no_skip if skip is None else skip
        shoot_kernel(actions, skip, self.rules, self.placements.cells, *self._games)
        return self.observe()

    @override
    def observe(self) -> np.ndarray:
        config = self.config
        out = np.empty((self.num_envs, *self.observation_shape), np.float32)
        rows = out.reshape(self.num_envs, -1)
        if config.observation == "compact":
            compact_kernel(self.seen, rows)
            return out
        width = 1 if config.observation == "flat" else config.cells
        planes_kernel(self.seen, self.left, self._length_of, width, rows)
        if config.observation == "planes_density":
            end = count_planes(config) * config.cells
            counts, hit_counts, _ = self.densities()
            relative_kernel(counts, rows[:, end : end + config.cells])
            relative_kernel(hit_counts, rows[:, end + config.cells :])
        return out

    def densities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Placements that fit and cover each cell; see `density.count_kernel`.

        Returns:
            All of them, those that cover an open hit, and these weighted; each (B, A), float64.
        """
        shape = (self.num_envs, self.config.cells)
        results = np.empty(shape), np.empty(shape), np.empty(shape)
        count_kernel(self.rules, self.seen, self.left, self.placements, self._words, *results)
        return results

    def unknown(self) -> np.ndarray:
        """Cells not shot at, shape (B, A), bool."""
        mask: np.ndarray = self.seen == UNKNOWN
        return mask

    @override
    def rewards(self) -> np.ndarray:
        return self.episodes["reward"].copy()

    @override
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        won, out_of_shots = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        ends_kernel(self.episodes, self.config.cells, won, out_of_shots)
        return won, out_of_shots

    @override
    def state_infos(self) -> Infos:
        return {"action_mask": self.unknown().view(np.int8)} if self.config.mask_repeats else {}

    @override
    def step_infos(self, actions: np.ndarray) -> Infos:
        return {name: self.episodes[name] for name in ("hit", "repeated", "sunk_length")}

    @override
    def state_rules(self, state: Mapping[str, np.ndarray]) -> Iterator[Rule]:
        return game_rules(state, self.config, self.placements)

    @property
    def can_list_layouts(self) -> bool:
        """Whether there are few enough legal boards to list them all."""
        return self._layouts is not None

    def listed_layouts(self) -> np.ndarray:
        """All legal boards, as the placement of each ship, shape (boards, S), int32.

        Raises:
            ConfigError: If there are too many to list.
        """
        if self._layouts is None:
            raise ConfigError(
                f"board_size {self.config.board_size} and fleet {self.config.fleet} have too many "
                "boards to list them all: use a smaller board"
            )
        return self._layouts

    @cached_property
    def _layouts(self) -> np.ndarray | None:
        return list_layouts(self.placements)

    def _draw(self, seeds: np.ndarray) -> np.ndarray:
        distinct, group = np.unique(seeds, return_inverse=True)
        boards = np.empty((len(distinct), self.layouts.shape[1]), np.int32)
        draw_boards(distinct, self.placements, _UNLIMITED, self._words[0], boards)
        return boards[group]
