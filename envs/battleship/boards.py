"""Boards chosen by the user: from the options of `reset` to the placement of each ship.

Shapes: S ships, M boards.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.settings import ConfigError


def chosen_layouts(
    simulator: BattleshipSimulator, board: Any, layout: Any, count: int
) -> np.ndarray | None:
    """Find the placement of each ship on the boards that the options of `reset` name.

    Args:
        simulator: Its rules determine which boards are legal.
        board: Ships by number, from 1 in the order of the fleet, and 0 for water: shape (rows,
            columns) or (M, rows, columns); or None.
        layout: Indices in the list of all boards, shape () or (M,); or None.
        count: M.

    Returns:
        Shape (M, S), int32; None if neither was given.

    Raises:
        ConfigError: If both are given, or a board is not legal.
    """
    if board is not None and layout is not None:
        raise ConfigError("reset takes either board or layout, got both")
    if board is not None:
        return _from_boards(simulator, np.asarray(board), count)
    if layout is None:
        return None
    listed = simulator.listed_layouts()
    numbers = np.asarray(layout)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (count,)):
        raise ConfigError(f"layout must be an integer, or {count} of them, got {layout!r}")
    if ((numbers < 0) | (numbers >= len(listed))).any():
        raise ConfigError(f"layout must be from 0 to {len(listed) - 1}, got {layout!r}")
    return listed[np.broadcast_to(numbers, (count,))]


def _from_boards(simulator: BattleshipSimulator, boards: np.ndarray, count: int) -> np.ndarray:
    shape = simulator.config.board_size
    if boards.shape not in (shape, (count, *shape)) or boards.dtype.kind not in "iu":
        raise ConfigError(
            f"board must be integers of shape {shape}, or {(count, *shape)}, got {boards.dtype} "
            f"of shape {boards.shape}"
        )
    each = np.broadcast_to(boards, (count, *shape)).reshape(count, -1)
    return np.stack([_one_board(simulator, board) for board in each])


def _one_board(simulator: BattleshipSimulator, board: np.ndarray) -> np.ndarray:
    config, placements = simulator.config, simulator.placements
    if board.min() < 0 or board.max() > len(config.fleet):
        raise ConfigError(
            f"board must hold 0 and the ships 1 to {len(config.fleet)}, got {board.min()} to "
            f"{board.max()}"
        )
    chosen = np.zeros(len(config.fleet), np.int32)
    closed = np.zeros(placements.closed.shape[1], np.uint64)
    for ship, length in enumerate(config.fleet):
        cells = np.flatnonzero(board == ship + 1)
        begin, end = placements.first[ship], placements.first[ship + 1]
        fitting = placements.cells[begin:end, :length]
        same = (fitting == cells).all(axis=1) if len(cells) == length else np.zeros(1, np.bool_)
        if not same.any():
            raise ConfigError(
                f"board must have ship {ship + 1} in {length} cells in a row, where it may lie, "
                f"got the cells {cells.tolist()}"
            )
        chosen[ship] = begin + same.argmax()
        if (placements.covered[chosen[ship]] & closed).any():
            raise ConfigError(
                f"board must keep its ships apart, but ship {ship + 1} touches another"
            )
        closed |= placements.closed[chosen[ship]]
    return chosen
