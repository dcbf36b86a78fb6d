"""Pictures of a game, as text and as an image.

The image shows the board as the player knows it, and beside it a heat map: a policy's
probabilities if they are given, otherwise how many placements of the ships afloat cover each cell.

Shapes: A cells.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN, WATER
from grpo_gym.envs.battleship.simulator import BattleshipSimulator

Draw = ImageDraw.ImageDraw

WIDTH, MARGIN, HEADER, GAP, HEADLINE = 840, 24, 92, 36, 300
"""Width of the image, its margin, height above the boards, gap between them, width of the headline
(px)."""
HEAT_LEFT = MARGIN + (WIDTH - 2 * MARGIN + GAP) // 2
"""Left edge of the heat map (px)."""
PAPER, INK, GREY, LINE = "#ffffff", "#1c2028", "#5c636f", "#c4ccd6"
SEA, WATER_SHOT, FIRE, WRECK, HULL = "#e4effc", "#b9cfe8", "#e0402c", "#7d1420", "#465878"
ACCENT = "#005cb8"
COLD, HOT = np.array([244.0, 247.0, 251.0]), np.array([0.0, 74.0, 150.0])
"""Ends of the heat map's colour scale."""
SIGNS = {UNKNOWN: "·", MISS: "o", HIT: "x", SUNK: "#"}


def heat(simulator: BattleshipSimulator, member: int, heat_map: np.ndarray | None) -> np.ndarray:
    """Scale a heat map, given or of the placements that fit, to a sum of 1: shape (A,), float64."""
    values = heat_map
    if values is None:
        counts, _, weights = (values[member] for values in simulator.densities())
        values = weights if weights.any() else counts
    values = np.where(simulator.seen[member] == UNKNOWN, values, 0.0)
    total = values.sum()
    return values / total if total > 0.0 else values


def render_ansi(simulator: BattleshipSimulator, history: Sequence[int], member: int = 0) -> str:
    """Draw the board as text: `·` unknown, `o` miss, `x` hit, `#` sunk."""
    rows, columns = simulator.config.board_size
    seen = simulator.seen[member].reshape(rows, columns)
    lines = ["   " + " ".join(f"{column:>2}" for column in range(columns))]
    for row, cells in enumerate(seen.tolist()):
        lines.append(f"{row:>2} " + " ".join(f"{SIGNS[cell]:>2}" for cell in cells))
    return "\n".join([*lines, status(simulator, history, member)]) + "\n"


def status(simulator: BattleshipSimulator, history: Sequence[int], member: int) -> str:
    """Summarise the game so far in one line."""
    episode = simulator.episodes[member]
    text = f"shots {int(episode['step'])}, hits {int(episode['hits'])}"
    if history:
        row, column = divmod(history[-1], simulator.config.board_size[1])
        text += f", last at ({row}, {column}): {_answer(episode)}"
    return text + (", all sunk" if episode["afloat"] == 0 else "")


def render_rgb(
    simulator: BattleshipSimulator,
    history: Sequence[int],
    member: int = 0,
    heat_map: np.ndarray | None = None,
) -> np.ndarray:
    """Draw one game as an image, whose size depends only on the board's.

    Args:
        simulator: The games.
        history: Cells shot at, in order.
        member: The index of the game.
        heat_map: The heat map, shape (A,), or None for the placements that fit.

    Returns:
        Shape (height, width, 3), uint8.
    """
    rows, columns = simulator.config.board_size
    side = min((WIDTH - 2 * MARGIN - GAP) // (2 * columns), 38)
    height = HEADER + rows * side + MARGIN + 24
    image = Image.new("RGB", (WIDTH, height + height % 2), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, simulator, history, member)
    _draw_board(draw, simulator, history, member, side)
    shares = heat(simulator, member, heat_map)
    title = "placements that fit" if heat_map is None else "the policy's next shot"
    _draw_heat(draw, shares.reshape(rows, columns), HEAT_LEFT, side, title)
    return np.asarray(image)


def _draw_header(
    draw: Draw, simulator: BattleshipSimulator, history: Sequence[int], member: int
) -> None:
    config, left = simulator.config, simulator.left[member]
    rows, columns = config.board_size
    draw.text((MARGIN, 14), f"Battleship, {rows} x {columns}", INK, _font(20))
    draw.text((MARGIN, 42), status(simulator, history, member), GREY, _font(14))
    x = float(WIDTH - MARGIN)
    room = WIDTH - 2 * MARGIN - HEADLINE
    unit = min(11.0, room / (sum(config.fleet) + len(config.fleet)))
    for ship, length in reversed(list(enumerate(config.fleet))):
        width = unit * length
        gone = config.announce_sunk and left[ship] == 0
        draw.rectangle((x - width, 20, x - 0.25 * unit, 30), WRECK if gone else HULL)
        x -= width + 0.73 * unit
    draw.text((x, 25), "fleet", GREY, _font(13), anchor="rm")


def _draw_board(
    draw: Draw, simulator: BattleshipSimulator, history: Sequence[int], member: int, side: int
) -> None:
    rows, columns = simulator.config.board_size
    seen, ships = simulator.seen[member], simulator.ship_at[member]
    episode = simulator.episodes[member]
    over = episode["afloat"] == 0 or episode["step"] >= rows * columns
    draw.text((MARGIN, HEADER - 20), "what is known", GREY, _font(13))
    for cell in range(rows * columns):
        box = _box(cell, columns, MARGIN, side)
        what = int(seen[cell])
        if over and what == HIT and simulator.left[member, ships[cell]] == 0:
            what = SUNK  # even if it was not announced
        fill = {UNKNOWN: SEA, MISS: WATER_SHOT, HIT: FIRE, SUNK: WRECK}[what]
        draw.rectangle(box, fill, LINE)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if what == MISS:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), HULL)
        elif what in (HIT, SUNK):
            reach = side * 0.22
            draw.line((x - reach, y - reach, x + reach, y + reach), PAPER, 3)
            draw.line((x - reach, y + reach, x + reach, y - reach), PAPER, 3)
        elif ships[cell] != WATER and over:
            draw.rectangle(box, HULL)
    if history:
        draw.rectangle(_box(history[-1], columns, MARGIN, side), None, ACCENT, 3)


def _draw_heat(draw: Draw, shares: np.ndarray, left: int, side: int, title: str) -> None:
    rows, columns = shares.shape
    highest = float(shares.max())
    text = f"{title}; darkest {highest:.1%}" if highest > 0.0 else title
    draw.text((left, HEADER - 20), text, GREY, _font(13))
    best = int(shares.argmax())
    for cell, share in enumerate(shares.reshape(-1).tolist()):
        strength = share / highest if highest > 0.0 else 0.0
        colour = tuple((COLD + strength * (HOT - COLD)).astype(int).tolist())
        draw.rectangle(_box(cell, columns, left, side), colour, LINE)
    if highest > 0.0:
        draw.rectangle(_box(best, columns, left, side), None, FIRE, 3)
    draw.text((left, HEADER + rows * side + 8), "red frame: the largest", GREY, _font(12))


def _box(cell: int, columns: int, left: int, side: int) -> tuple[int, int, int, int]:
    row, column = divmod(cell, columns)
    x, y = left + column * side, HEADER + row * side
    return x, y, x + side, y + side


def _answer(episode: np.void) -> str:
    if episode["repeated"]:
        return "known before"
    if episode["sunk_length"]:
        return f"sank a ship of {int(episode['sunk_length'])}"
    return "hit" if episode["hit"] else "miss"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
