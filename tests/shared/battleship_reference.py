"""Battleship in plain Python: slow, and written without a look at the simulator.

Ships are sets of cells, and what fits is found by trying everything.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from grpo_gym.envs.battleship.presets import BattleshipConfig

Cells = frozenset[int]
Board = tuple[Cells, ...]


@cache
def ship_positions(config: BattleshipConfig, length: int) -> tuple[Cells, ...]:
    """All places of a ship: those across, then those down, each row by row."""
    rows, columns = config.board_size
    found = []
    for down, across in ((0, 1), (1, 0)):
        for row, column in itertools.product(range(rows), range(columns)):
            last_row, last_column = row + down * (length - 1), column + across * (length - 1)
            inside = last_row < rows and last_column < columns
            if config.placement == "microgrpo":  # both coordinates from [0, n - length]
                inside = row <= rows - length and column <= columns - length
            if inside:
                step = down * columns + across
                found.append(frozenset(row * columns + column + i * step for i in range(length)))
    return tuple(found if length > 1 else found[: len(found) // 2])


@cache
def around(board_size: tuple[int, int], cells: Cells) -> Cells:
    """These cells and all that touch them, diagonally too."""
    rows, columns = board_size
    return frozenset(
        row * columns + column
        for row, column in itertools.product(range(rows), range(columns))
        if any(
            abs(row - cell // columns) <= 1 and abs(column - cell % columns) <= 1 for cell in cells
        )
    )


def is_legal(config: BattleshipConfig, board: Sequence[Cells]) -> bool:
    """Whether ships keep out of each other's cells, or away from each other."""
    for one, other in itertools.combinations(board, 2):
        if one & (other if config.allow_touch else around(config.board_size, other)):
            return False
    return True


def all_boards(config: BattleshipConfig) -> list[Board]:
    """Every legal board, in the order of its first ship's places, then of its second's, ..."""
    each = [ship_positions(config, length) for length in config.fleet]
    return [board for board in itertools.product(*each) if is_legal(config, board)]


def random_board(
    config: BattleshipConfig, generator: random.Random, tries: int = 100_000
) -> Board | None:
    """A legal board, or None if these tries found none."""
    each = [ship_positions(config, length) for length in config.fleet]
    for _ in range(tries):
        board = tuple(generator.choice(positions) for positions in each)
        if is_legal(config, board):
            return board
    return None


def numbered(config: BattleshipConfig, board: Board) -> np.ndarray:
    """The board as `reset` takes it: ship numbers from 1, and 0 for water."""
    picture = np.zeros(config.cells, np.int64)
    for number, ship in enumerate(board, start=1):
        picture[sorted(ship)] = number
    return picture.reshape(config.board_size)


def ships_of(config: BattleshipConfig, ship_at: np.ndarray) -> Board:
    """The ships of a game from the simulator's picture of it, shape (cells,)."""
    return tuple(
        frozenset(np.flatnonzero(ship_at == ship).tolist()) for ship in range(len(config.fleet))
    )


@dataclass
class Game:
    """One game, from the point of view of the one who set up the board."""

    config: BattleshipConfig
    board: Board
    shots: list[int] = field(default_factory=list)
    """All of them, with repeats."""

    @cached_property
    def ship_cells(self) -> Cells:
        return frozenset().union(*self.board)

    @property
    def hits(self) -> Cells:
        return self.ship_cells & frozenset(self.shots)

    @property
    def misses(self) -> Cells:
        return frozenset(self.shots) - self.ship_cells

    @property
    def wrecks(self) -> list[int]:
        """Ships all of whose cells were hit."""
        return [ship for ship, cells in enumerate(self.board) if cells <= frozenset(self.shots)]

    @property
    def announced(self) -> list[int]:
        """Ships that the player was told are sunk."""
        return self.wrecks if self.config.announce_sunk else []

    @property
    def sunk_cells(self) -> Cells:
        return frozenset().union(*(self.board[ship] for ship in self.announced))

    @property
    def won(self) -> bool:
        return len(self.wrecks) == len(self.board)

    @property
    def cut(self) -> bool:
        return not self.won and len(self.shots) >= self.config.cells

    @property
    def unknown(self) -> np.ndarray:
        return np.array([cell not in self.shots for cell in range(self.config.cells)])

    def shoot(self, cell: int) -> tuple[float, dict[str, object]]:
        """The reward, and what the infos say of this shot."""
        config, repeated = self.config, cell in self.shots
        afloat_before = len(self.board) - len(self.wrecks)
        self.shots.append(cell)
        hit = cell in self.ship_cells and not repeated
        sunk = 0
        if hit and len(self.board) - len(self.wrecks) < afloat_before and config.announce_sunk:
            (sunk,) = (len(ship) for ship in self.board if cell in ship)
        water = config.cells - len(self.ship_cells)
        reward = 0.0
        if config.reward == "shots":
            reward = -1.0
        elif config.reward == "hits" and not repeated:
            reward = 1.0 / len(self.ship_cells) if hit else -1.0 / water
        elif config.reward == "score" and hit and self.won:
            reward = 1.0 - len(self.misses) / (water + 1)
        reward += config.hit_bonus * hit
        if repeated:
            reward -= config.repeat_penalty
        return reward, {"hit": hit, "repeated": repeated, "sunk_length": sunk}

    def images(self) -> np.ndarray:
        """Unknown, missed, hit and sunk cells, shape (3 or 4, cells)."""
        kinds = [self.misses, self.hits - self.sunk_cells]
        if self.config.announce_sunk:
            kinds.append(self.sunk_cells)
        images = np.zeros((1 + len(kinds), self.config.cells))
        images[0] = self.unknown
        for image, cells in zip(images[1:], kinds, strict=True):
            image[sorted(cells)] = 1.0
        return images

    def afloat(self) -> np.ndarray:
        """Share of the ships of each length that are not sunk, shortest first."""
        fleet = self.config.fleet
        if not self.config.announce_sunk:
            return np.zeros(0)
        left = [len(ship) for number, ship in enumerate(self.board) if number not in self.wrecks]
        return np.array([left.count(n) / fleet.count(n) for n in sorted(set(fleet))])

    def fitting(self) -> list[Cells]:
        """Places of each ship that may be afloat which contradict nothing that was seen."""
        config, hits, wet = self.config, self.hits, self.misses | self.sunk_cells
        found = []
        for ship, length in enumerate(config.fleet):
            if ship in self.announced:
                continue
            for cells in ship_positions(config, length):
                apart = config.allow_touch or not (around(config.board_size, cells) - cells) & hits
                if apart and not cells & wet:
                    found.append(cells)
        return found

    def densities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fitting places over each unknown cell; those with open hits; these by 100^hits."""
        counts, with_hits, weights = np.zeros((3, self.config.cells))
        open_hits, known = self.hits - self.sunk_cells, frozenset(self.shots)
        for cells in self.fitting():
            covered = len(cells & open_hits)
            for cell in cells - known:
                counts[cell] += 1
                with_hits[cell] += covered > 0
                weights[cell] += 100.0**covered if covered else 0.0
        return counts, with_hits, weights

    def observation(self) -> np.ndarray:
        config, images = self.config, self.images()
        if config.observation == "compact":
            return (images[2:].sum(axis=0) - images[1]).reshape(config.board_size)
        if config.observation == "flat":
            return np.concatenate([images.reshape(-1), self.afloat()])
        layers = [*images, *(np.full(config.cells, share) for share in self.afloat())]
        if config.observation == "planes_density":
            for density in self.densities()[:2]:
                layers.append(density / max(density.max(), 1.0))
        return np.stack(layers).reshape(-1, *config.board_size)

    def answers_like(self, other: Board) -> bool:
        """Whether these shots at another board would have been answered in the same words."""
        mine, theirs = Game(self.config, self.board), Game(self.config, other)
        for cell in self.shots:
            if mine.shoot(cell)[1] != theirs.shoot(cell)[1]:
                return False
            if mine.sunk_cells != theirs.sunk_cells:
                return False
        return True

    def posterior(self, boards: Sequence[Board]) -> np.ndarray:
        """Share of the boards that could be this one in which each cell is a ship's."""
        possible = [board for board in boards if self.answers_like(board)]
        shares = np.zeros(self.config.cells)
        for board in possible:
            shares[sorted(frozenset().union(*board))] += 1.0
        return shares / len(possible)
