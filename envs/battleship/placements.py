"""Where ships can lie, and random boards, all legal ones equally likely.

A board is drawn by placing every ship independently, and again from the start unless all of them
keep clear of each other: rejecting ship by ship would favour some boards.

Shapes: S ships, P placements of all ships one after the other, L cells of the longest ship, W
words of 64 cells, A cells, M boards.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.randomness import mix, stream_key
from grpo_gym.settings import ConfigError

MAX_LAYOUTS = 2_000_000
"""The largest number of boards that are listed one by one."""
_ATTEMPTS = 20_000_000
_BOARDS = 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)


class Placements(NamedTuple):
    """All placements of each ship; kernels take it as a whole.

    Attributes:
        first: Index of each ship's first placement, then P, shape (S + 1,), int64.
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
        ConfigError: If none of many random boards is legal.
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
    """Pack cells, shape (..., A), bool, into words of 64, shape (..., W), uint64."""
    words = -(-cells.shape[-1] // 64)
    padded = np.zeros((*cells.shape[:-1], 64 * words), np.bool_)
    padded[..., : cells.shape[-1]] = cells
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def list_layouts(placements: Placements) -> np.ndarray | None:
    """List all legal boards, as the placement of each ship, in lexical order.

    Returns:
        Shape (M, S), int32; None if there are more than `MAX_LAYOUTS`.
    """
    layouts = np.zeros((1, 0), np.int32)
    closed = np.zeros((1, placements.closed.shape[1]), np.uint64)
    for begin, end in pairwise(placements.first):
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
    """Mark the given cells and the eight around each, shape (M, rows, columns), bool."""
    _, rows, columns = boards.shape
    padded = np.zeros((len(boards), rows + 2, columns + 2), np.bool_)
    for down in range(3):
        for right in range(3):
            padded[:, down : down + rows, right : right + columns] |= boards
    return padded[:, 1:-1, 1:-1]


@kernel
def draw_boards(
    seeds: np.ndarray, placements: Placements, attempts: int, taken: np.ndarray, out: np.ndarray
) -> int:
    """Draw a legal board for each seed.

    Args:
        seeds: Shape (M,), uint64.
        placements: All placements.
        attempts: Give up on a board after this many draws of all ships.
        taken: Working memory, shape (W,), uint64.
        out: Output: the placement of each ship, shape (M, S), int32.

    Returns:
        The number of boards drawn: M unless it gave up.
    """
    for m in range(seeds.shape[0]):
        key, counter = stream_key(seeds[m], _BOARDS), np.uint64(0)
        legal, tries = False, 0
        while not legal:
            if tries == attempts:
                return m
            counter, legal = _place_all(key, counter, placements, taken, out[m])
            tries += 1
    return seeds.shape[0]


@inlined
def _place_all(
    key: np.uint64, counter: np.uint64, placements: Placements, taken: np.ndarray, out: np.ndarray
) -> tuple[np.uint64, bool]:
    """Place ship by ship until one is in the way of another.

    Returns:
        The counter after the last random number, and whether the board is legal.
    """
    taken[:] = np.uint64(0)
    for ship in placements.order:
        first = placements.first[ship]
        count = np.uint64(placements.first[ship + 1] - first)
        product = np.uint64(0)
        # Draw again where the low half is too small: the rest holds all multiples of count
        # equally often (Lemire, ACM TOMACS 2019).
        while True:
            counter += np.uint64(1)
            product = (mix(key + _GOLDEN * counter) >> np.uint64(32)) * count
            if (product & _LOW) >= np.uint64(4294967296) % count:
                break
        placement = first + np.int64(product >> np.uint64(32))
        if overlaps(placements.covered, placement, taken):
            return counter, False
        for word in range(taken.shape[0]):
            taken[word] |= placements.closed[placement, word]
        out[ship] = placement
    return counter, True


@inlined
def overlaps(covered: np.ndarray, placement: int, taken: np.ndarray) -> bool:
    """Whether a placement covers a cell that is taken, given as bits, shape (W,), uint64."""
    common = np.uint64(0)
    for word in range(taken.shape[0]):
        common |= covered[placement, word] & taken[word]
    return common != np.uint64(0)


def _placements_of(config: BattleshipConfig, length: int) -> np.ndarray:
    """List the cells of each placement of a ship, shape (placements, length), across first."""
    rows, columns = config.board_size
    # microGRPO draws both coordinates of a ship's first cell from 0 to side - length.
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
    if draw_boards(np.zeros(1, np.uint64), placements, _ATTEMPTS, taken, out) == 0:
        raise ConfigError(
            f"fleet must fit on the board, got {config.fleet} on {config.board_size} with "
            f"allow_touch={config.allow_touch}: none of {_ATTEMPTS:,} random boards was legal"
        )
