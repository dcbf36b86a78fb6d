"""Boards chosen by the user: from the options of `reset` to the placement of each ship.

Shapes: S ships, M boards, A cells, P placements of a ship.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_gym.envs.battleship.placements import as_bits
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.settings import ConfigError


def chosen_layouts(
    simulator: BattleshipSimulator, options: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """Find the placement of each ship on the boards that the options of `reset` name.

    Args:
        simulator: Its rules determine which boards are legal.
        options: `board`: ships by number, from 1 in the order of the fleet, and 0 for water, shape
            (rows, columns) or (M, rows, columns); or `layout`: indices in the list of all boards,
            shape () or (M,).
        count: M.

    Returns:
        `layouts` for the simulator's `reset`: shape (M, S), int32; None if neither was given.

    Raises:
        ConfigError: If both are given, or a board is not legal.
    """
    board, layout = options.get("board"), options.get("layout")
    if board is not None and layout is not None:
        raise ConfigError("reset takes either board or layout, got both")
    if board is not None:
        return {"layouts": _from_boards(simulator, np.asarray(board), count)}
    if layout is None:
        return {"layouts": None}
    listed = simulator.listed_layouts()
    numbers = np.asarray(layout)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (count,)):
        raise ConfigError(f"layout must be an integer, or {count} of them, got {layout!r}")
    if ((numbers < 0) | (numbers >= len(listed))).any():
        raise ConfigError(f"layout must be from 0 to {len(listed) - 1}, got {layout!r}")
    return {"layouts": listed[np.broadcast_to(numbers, (count,))]}


def _from_boards(simulator: BattleshipSimulator, boards: np.ndarray, count: int) -> np.ndarray:
    config, placements = simulator.config, simulator.placements
    shape, ships = config.board_size, len(config.fleet)
    if boards.shape not in (shape, (count, *shape)) or boards.dtype.kind not in "iu":
        raise ConfigError(
            f"board must be integers of shape {shape}, or {(count, *shape)}, got {boards.dtype} "
            f"of shape {boards.shape}"
        )
    if boards.min() < 0 or boards.max() > ships:
        raise ConfigError(
            f"board must hold 0 and the ships 1 to {ships}, got {boards.min()} to {boards.max()}"
        )
    boards = np.broadcast_to(boards, (count, *shape)).reshape(count, config.cells)
    layouts = np.zeros((count, ships), np.int32)
    closed = np.zeros((count, placements.closed.shape[1]), np.uint64)
    for ship, length in enumerate(config.fleet):
        begin, end = placements.first[ship], placements.first[ship + 1]
        own = as_bits(boards == ship + 1)
        same = (placements.covered[begin:end] == own[:, None]).all(axis=2)  # (M, P)
        if not same.any(axis=1).all():
            wrong = np.flatnonzero(boards[same.any(axis=1).argmin()] == ship + 1)
            raise ConfigError(
                f"board must have ship {ship + 1} in {length} cells in a row, where it may lie, "
                f"got the cells {wrong.tolist()}"
            )
        if (own & closed).any():
            raise ConfigError(
                f"board must keep its ships apart, but ship {ship + 1} touches another"
            )
        layouts[:, ship] = begin + same.argmax(axis=1)
        closed |= placements.closed[layouts[:, ship]]
    return layouts
