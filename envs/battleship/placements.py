"""Where ships can lie, and drawing whole boards so that all of them are equally likely.

A board is drawn by placing every ship independently and starting over unless all of them keep
clear of each other: rejecting ship by ship would favour some boards.

Shapes: S ships, P placements of all ships one after the other, L cells of the longest ship, W
words of 64 cells, A cells, M boards.
"""

from dataclasses import dataclass

import numpy as np

from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.randomness import mix, stream_key
from grpo_gym.settings.config import ConfigError

MAX_LAYOUTS = 2_000_000
"""The most boards that are listed one by one."""
_ATTEMPTS = 20_000_000
_BOARDS = 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Placements:
    """All placements of each ship.

    Attributes:
        first: Where a ship's placements begin, shape (S + 1,), int64; its last entry is P.
        order: Ships from the longest to the shortest, shape (S,), int64.
        cells: Cells of each placement, -1 beyond its length, shape (P, L), int16.
        covered: Bits of those cells, shape (P, W), uint64.
        closed: Bits of cells that no other ship may cover, shape (P, W), uint64.
    """

    first: np.ndarray
    order: np.ndarray
    cells: np.ndarray
    covered: np.ndarray
    closed: np.ndarray


def find_placements(config: BattleshipConfig) -> Placements:
    """List all placements of all ships.

    Raises:
        ConfigError: If hardly any draw of all ships is a legal board.
    """
    each = [_placements_of(config, length) for length in config.fleet]
    cells = np.full((sum(map(len, each)), max(config.fleet)), -1, np.int16)
    first = np.cumsum([0, *map(len, each)])
    for begin, one in zip(first, each, strict=False):
        cells[begin : begin + len(one), : one.shape[1]] = one
    covered = np.zeros((len(cells), config.cells), np.bool_)
    for row, placement in enumerate(cells):
        covered[row, placement[placement >= 0]] = True
    closed = covered
    if not config.allow_touch:
        boards = covered.reshape(-1, *config.board_size)
        closed = with_neighbours(boards).reshape(covered.shape)
    placements = Placements(
        first=first,
        order=np.argsort([-length for length in config.fleet], kind="stable"),
        cells=cells,
        covered=as_bits(covered),
        closed=as_bits(closed),
    )
    _check_drawable(placements, config)
    return placements


def as_bits(cells: np.ndarray) -> np.ndarray:
    """Cells (..., A), bool, as words of 64 of them, (..., W), uint64."""
    words = -(-cells.shape[-1] // 64)
    padded = np.zeros((*cells.shape[:-1], 64 * words), np.bool_)
    padded[..., : cells.shape[-1]] = cells
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def list_layouts(placements: Placements) -> np.ndarray | None:
    """All legal boards, as the placement of each ship, in lexical order.

    Returns:
        Shape (M, S), int32; None if there are more than `MAX_LAYOUTS`.
    """
    ships = len(placements.first) - 1
    layouts = np.zeros((1, 0), np.int32)
    closed = np.zeros((1, placements.closed.shape[1]), np.uint64)
    for ship in range(ships):
        begin, end = placements.first[ship], placements.first[ship + 1]
        if len(layouts) * (end - begin) > 50 * MAX_LAYOUTS:
            return None
        overlaps = np.zeros((len(layouts), end - begin), np.bool_)
        for word in range(closed.shape[1]):
            covered = placements.covered[begin:end, word]
            overlaps |= (closed[:, word, None] & covered[None]) != 0
        row, placement = np.nonzero(~overlaps)
        layouts = np.column_stack([layouts[row], (begin + placement).astype(np.int32)])
        closed = closed[row] | placements.closed[begin + placement]
    return layouts if len(layouts) <= MAX_LAYOUTS else None


def with_neighbours(boards: np.ndarray) -> np.ndarray:
    """Cells and all around them, shape (M, rows, columns), bool."""
    _, rows, columns = boards.shape
    padded = np.zeros((len(boards), rows + 2, columns + 2), np.bool_)
    for down in range(3):
        for right in range(3):
            padded[:, down : down + rows, right : right + columns] |= boards
    return padded[:, 1:-1, 1:-1]


@kernel
def draw_boards(
    seeds: np.ndarray,
    first: np.ndarray,
    order: np.ndarray,
    covered: np.ndarray,
    closed: np.ndarray,
    attempts: int,
    taken: np.ndarray,
    out: np.ndarray,
) -> int:
    """Draw a legal board for each seed.

    Args:
        seeds: Shape (M,), uint64.
        first: Of `Placements`, as the next three.
        order: Ships in the order in which they are placed.
        covered: Bits of each placement's cells.
        closed: Bits of the cells it closes to others.
        attempts: Draws of a whole board after which to give up.
        taken: Scratch, shape (W,), uint64.
        out: Written: the placement of each ship, shape (M, S), int32.

    Returns:
        How many boards were drawn, M unless it gave up.
    """
    for m in range(seeds.shape[0]):
        key = stream_key(seeds[m], _BOARDS)
        counter = np.uint64(0)
        legal = False
        for _ in range(attempts):
            taken[:] = np.uint64(0)
            legal = True
            for i in range(order.shape[0]):
                ship = order[i]
                count = first[ship + 1] - first[ship]
                counter += np.uint64(1)
                product = (mix(key + _GOLDEN * counter) >> np.uint64(32)) * np.uint64(count)
                # All multiples of count are equally likely but for the lowest: draw again there
                # (Lemire, ACM TOMACS 2019).
                while (product & _LOW) < np.uint64(count) and (product & _LOW) < (
                    np.uint64(4294967296) % np.uint64(count)
                ):
                    counter += np.uint64(1)
                    product = (mix(key + _GOLDEN * counter) >> np.uint64(32)) * np.uint64(count)
                placement = first[ship] + np.int64(product >> np.uint64(32))
                if _overlaps(covered, placement, taken):
                    legal = False
                    break
                for word in range(taken.shape[0]):
                    taken[word] |= closed[placement, word]
                out[m, ship] = placement
            if legal:
                break
        if not legal:
            return m
    return seeds.shape[0]


@inlined
def _overlaps(covered: np.ndarray, placement: int, taken: np.ndarray) -> bool:
    common = np.uint64(0)
    for word in range(taken.shape[0]):
        common |= covered[placement, word] & taken[word]
    return common != np.uint64(0)


def _placements_of(config: BattleshipConfig, length: int) -> np.ndarray:
    """Cells of each placement of a ship, shape (placements, length), across before down."""
    rows, columns = config.board_size
    # microGRPO draws both corners' coordinates from what the length leaves of a side.
    spare = 0 if config.placement == "uniform" else length - 1
    across = [
        [row * columns + column + i for i in range(length)]
        for row in range(rows - spare)
        for column in range(columns - length + 1)
    ]
    down = [
        [(row + i) * columns + column for i in range(length)]
        for row in range(rows - length + 1)
        for column in range(columns - spare)
    ]
    return np.array(across if length == 1 else across + down, np.int16)


def _check_drawable(placements: Placements, config: BattleshipConfig) -> None:
    out = np.zeros((1, len(config.fleet)), np.int32)
    taken = np.zeros(placements.closed.shape[1], np.uint64)
    drawn = draw_boards(
        np.zeros(1, np.uint64),
        placements.first,
        placements.order,
        placements.covered,
        placements.closed,
        _ATTEMPTS,
        taken,
        out,
    )
    if drawn == 0:
        raise ConfigError(
            f"fleet must fit on the board, got {config.fleet} on {config.board_size} with "
            f"allow_touch={config.allow_touch}: none of {_ATTEMPTS:,} random boards was legal"
        )
