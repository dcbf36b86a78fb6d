"""A game in the terminal: the board and heat maps side by side, in colour.

Shapes: A cells.
"""

from collections.abc import Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN, WATER
from grpo_gym.envs.battleship.rendering import status
from grpo_gym.envs.battleship.simulator import BattleshipSimulator

SIGNS = {
    UNKNOWN: (" · ", "grey50"),
    MISS: (" o ", "deep_sky_blue1"),
    HIT: (" x ", "bold white on red3"),
    SUNK: (" # ", "bold white on dark_red"),
}
LEGEND = "· unknown   o miss   x hit   # sunk   S ship not found"


def show(
    simulator: BattleshipSimulator,
    history: list[int],
    heat_maps: Mapping[str, np.ndarray],
    reveal: bool = False,
) -> RenderableType:
    """Draw the board as the player knows it, and heat maps beside it.

    Args:
        simulator: One game.
        history: Cells shot at, in order.
        heat_maps: Shares of cells by title, each shape (A,); the largest is marked.
        reveal: Whether to show the ships that were not found.
    """
    panels = {"what is known": _board(simulator, history, reveal)}
    panels |= {title: _heat(simulator, values) for title, values in heat_maps.items()}
    row = Table.grid(padding=(0, 3))
    row.add_row(*(Group(Text(title, "bold"), grid) for title, grid in panels.items()))
    return Group(row, Text(LEGEND, "grey50"), Text(status(simulator, history, 0)))


def _board(simulator: BattleshipSimulator, history: list[int], reveal: bool) -> Text:
    seen, ships = simulator.seen[0], simulator.ship_at[0]
    cells = []
    for cell, what in enumerate(seen.tolist()):
        sign, style = SIGNS[what]
        if reveal and what == UNKNOWN and ships[cell] != WATER:
            sign, style = " S ", "bold yellow"
        if history and cell == history[-1]:
            style += " underline"
        cells.append((sign, style))
    return _grid(cells, simulator.config.board_size[1])


def _heat(simulator: BattleshipSimulator, values: np.ndarray) -> Text:
    values = np.where(simulator.unknown()[0], values, 0.0)
    highest, best = values.max(), int(values.argmax())
    cells = []
    for cell, value in enumerate(values.tolist()):
        strength = value / highest if highest > 0.0 else 0.0
        shade = round(235 - 200 * strength)
        ink = "black" if strength < 0.5 else "white"
        style = f"{ink} on rgb({shade},{shade},255)"
        marked = cell == best and highest > 0.0
        cells.append((f">{100 * value:2.0f}" if marked else f"{100 * value:3.0f}", style))
    return _grid(cells, simulator.config.board_size[1])


def _grid(cells: list[tuple[str, str]], columns: int) -> Text:
    """Lay out cells in rows, with the numbers of rows and columns around them."""
    text = Text("   " + "".join(f"{column:3}" for column in range(columns)) + "\n", "grey50")
    for first in range(0, len(cells), columns):
        text.append(f"{first // columns:2} ", "grey50")
        for sign, style in cells[first : first + columns]:
            text.append(sign, style)
        text.append("\n")
    return text
