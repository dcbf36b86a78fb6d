"""Pictures of a load-balancing episode, as text and as an image; both show one `View`.

The image's size depends only on the number of servers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator as Simulator
from grpo_gym.envs.load_balancer.view import CHARTED, RECENT, Event, View, time_text

Draw = ImageDraw.ImageDraw

BLOCKS, COLUMNS, CHARTED_ANSI = 12, 98, 88
"""Requests in flight that are drawn one by one; width of the text; requests in its chart."""
WIDTH, MARGIN, HEADER, CHART = 800, 20, 118, 190
"""Width of the image and its margin; heights of the parts above and below the servers (px)."""

PAPER, TRACK, LINE, TINT = "#ffffff", "#eef0f3", "#dee1e6", "#e4effc"
INK, GREY, SLATE, ACCENT, RED = "#1c2028", "#5c636f", "#465878", "#005cb8", "#cc1428"
HEALTH = {"healthy": "#0c704c", "recovering": "#006296", "degraded": "#ba4a00"}
HEALTH |= {"slow": "#8a6200", "erroring": "#962482", "down": "#b01020"}
"""Dark enough for white text. The words carry the same meaning."""


def render_ansi(simulator: Simulator, history: Sequence[Event]) -> str:
    """Draw the first environment as plain text, at most 98 columns wide.

    Args:
        simulator: The simulator.
        history: Requests routed in this episode, newest last.
    """
    view = View(simulator, history)
    head = ["  server", view.speed_label, "health", "   # in flight", "latency", "errors"]
    rows = [[*head, f"share of last {RECENT}"]]
    for s in view.servers:
        blocks = "█" * min(s.in_flight, BLOCKS) + "+" * (s.in_flight > BLOCKS)
        share = f"{s.share:>4.0%} {'█' * round(16 * s.share)}" if view.history else "   -"
        cells = [f"{'▶' if s.latest else ' '} {s.name}", s.speed, s.health]
        rows.append([*cells, f"{s.in_flight:>4} {blocks}", s.latency, s.errors, share])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [f"{'>' if i in (1, 4, 5) else '<'}{width}" for i, width in enumerate(widths)]
    table = ["  ".join(map(format, row, aligned)) for row in rows]
    facts = [f"{label} {value}" for label, value in view.facts.items()]
    rule = "─" * COLUMNS
    lines = [view.title, " │ ".join(facts[:3]), " │ ".join(facts[3:]), rule]
    lines += [table[0], rule, *table[1:], rule]
    lines += [f"response times of the last {CHARTED_ANSI} requests, newest right (• ok, x failed)"]
    return "\n".join(line.rstrip()[:COLUMNS] for line in [*lines, *_text_chart(view)])


def _text_chart(view: View) -> list[str]:
    spacing = max(1, 6 // (view.high - view.low))
    top = spacing * (view.high - view.low)
    grid = [[" "] * CHARTED_ANSI for _ in range(top + 1)]
    for age, (_, ms, failed) in enumerate(reversed(view.history[-CHARTED_ANSI:])):
        grid[top - round(top * view.height(ms))][-1 - age] = "x" if failed else "•"
    for line, row in enumerate(grid):
        tick = time_text(10.0 ** (view.high - line // spacing)) if line % spacing == 0 else ""
        row.insert(0, f"{tick:>8}{'┤' if tick else '│'}")
    return ["".join(row) for row in grid]


def render_rgb(simulator: Simulator, history: Sequence[Event], member: int = 0) -> np.ndarray:
    """Draw one environment as an image.

    Args:
        simulator: The simulator.
        history: Requests that this environment routed in this episode, newest last.
        member: The index of the environment.

    Returns:
        A fresh array, shape (height, 800, 3), uint8; the height is even and depends only on the
        number of servers that there is room for.
    """
    view, count = View(simulator, history, member), simulator.config.server_slots
    row = 46 if count <= 6 else 36 if count <= 12 else 22
    image = Image.new("RGB", (WIDTH, HEADER + row * count + CHART), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, view)
    for n in range(len(view.servers)):
        _draw_server(draw, view, n, row)
    _draw_chart(draw, view, HEADER + row * count)
    return np.array(image)


@lru_cache(maxsize=4096)
def _glyphs(text: str, size: int) -> Image.Image:
    """A text as a mask, drawn large and reduced: hinting spoils the spacing of small print."""
    font = ImageFont.load_default(size=4 * size)
    mask = Image.new("L", (math.ceil(font.getlength(text) / 4) * 4 + 4, 6 * size))
    ImageDraw.Draw(mask).text((0, 3 * size), text, 255, font, "lm")
    return mask.reduce(4)


@lru_cache
def _marker(failed: bool, newest: bool = False) -> Image.Image:
    """A disc or a cross, with a ring around the newest, as an antialiased mask."""
    mask = Image.new("L", (104, 104))
    draw = ImageDraw.Draw(mask)
    if failed:
        draw.line((26, 26, 77, 77), 255, 14)
        draw.line((26, 77, 77, 26), 255, 14)
    else:
        draw.ellipse((28, 28, 75, 75), 255)
    draw.ellipse((0, 0, 103, 103), None, 255 * newest, 12)
    return mask.reduce(8)


def _write(draw: Draw, x: int, y: int, text: str, colour: str = INK, size: int = 13) -> None:
    """Write to the right of x or, if x is negative, to the left of -x, centred on y."""
    mask = _glyphs(text, size)
    draw.bitmap((x if x >= 0 else 1 - x - mask.width, y - mask.height // 2), mask, colour)


def _draw_header(draw: Draw, view: View) -> None:
    _write(draw, MARGIN, 22, view.title, size=18)
    for x, (label, value) in zip((MARGIN, 170, 300, 430, 560), view.facts.items(), strict=True):
        _write(draw, x, 48, label, GREY, 11)
        _write(draw, x, 66, value, RED if value.endswith("FAILED") else INK, 16)
    draw.rectangle((MARGIN, 82, WIDTH - MARGIN - 1, 85), LINE)
    done = (WIDTH - 2 * MARGIN) * view.progress
    if done >= 1.0:
        draw.rectangle((MARGIN, 82, MARGIN + done - 1, 85), ACCENT)
    for x, heading in (
        (34, f"server, {view.speed_label}"),
        (142, "true health"),
        (284, "requests in flight"),
        (-500, "latency seen"),
        (-570, "errors seen"),
        (-772, f"share of last {RECENT} requests"),
    ):
        _write(draw, x, HEADER - 12, heading, GREY, 11)


def _draw_server(draw: Draw, view: View, n: int, row: int) -> None:
    """Draw the row of one server, with a second line of small print if it is high enough."""
    server, colour = view.servers[n], HEALTH[view.servers[n].health]
    top, tall = HEADER + row * n, row >= 36
    y = top + row // 2 - 7 * tall
    loud = RED if server.latest.endswith("FAILED") else ACCENT
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    if server.latest:
        draw.rectangle((MARGIN, top + 1, WIDTH - MARGIN - 1, top + row - 1), TINT)
        draw.rectangle((MARGIN, top + 1, MARGIN + 4, top + row - 1), loud)
    _write(draw, 34, y, server.name if tall else str(n))
    if server.health != "healthy":
        draw.rounded_rectangle((136, y - 8, 212, y + 8), 3, colour)
    _write(draw, 142, y, server.health, colour if server.health == "healthy" else PAPER, 12)
    _write(draw, -308, y, f"{server.in_flight:,}")
    for x in range(316, 316 + 9 * min(server.in_flight, BLOCKS), 9):
        draw.rectangle((x, y - 6, x + 6, y + 5), SLATE)
    _write(draw, 316 + 9 * BLOCKS, y, "+" * (server.in_flight > BLOCKS))
    _write(draw, -500, y, server.latency)
    _write(draw, -570, y, server.errors)
    _draw_traffic(draw, view, n, y)
    if not tall:
        _write(draw, -128, y, server.rate, GREY, 11)
        return
    label = f"{view.speed_label} " * (len(server.speed) <= 14)  # as long as there is room
    _write(draw, 34, y + 16, label + server.speed, GREY, 11)
    _write(draw, 142, y + 16, server.effect, colour, 11)
    if server.in_flight != server.seen_in_flight:
        _write(draw, 316, y + 16, f"balancer sees {server.seen_in_flight:,}", GREY, 11)
    _write(draw, -500, y + 16, server.age, GREY, 11)
    _write(draw, -772, y + 16, server.latest, loud, 11)


def _draw_traffic(draw: Draw, view: View, n: int, y: int) -> None:
    """Draw a tick for each recent request that this server got, newest right, tall if it failed."""
    _write(draw, -614, y, f"{view.servers[n].share:.0%}" if view.history else "-")
    draw.rectangle((772 - 3 * RECENT, y - 6, 771, y + 5), TRACK)
    for age, (server, _, failed) in enumerate(reversed(view.history[-RECENT:])):
        if server == n:
            x, more = 769 - 3 * age, 2 * failed
            colour = RED if failed else SLATE if age else ACCENT
            draw.rectangle((x, y - 6 - more, x + 1, y + 5 + more), colour)


def _draw_chart(draw: Draw, view: View, top: int) -> None:
    """Draw the response times of the last requests on a logarithmic axis."""
    left, right, upper, lower = 88, WIDTH - MARGIN - 8, top + 40, top + CHART - 28
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    _write(draw, MARGIN, top + 18, f"response times of the last {CHARTED} requests", INK, 12)
    draw.bitmap((504, top + 12), _marker(failed=False), SLATE)
    draw.bitmap((554, top + 12), _marker(failed=True), RED)
    draw.line((628, top + 18, 644, top + 18), ACCENT)
    for x, label in ((520, "ok"), (570, "failed"), (652, "mean of the episode")):
        _write(draw, x, top + 18, label, GREY, 11)

    def y_of(ms: float) -> int:
        return round(lower - (lower - upper) * view.height(ms))

    for decade in range(view.low, view.high + 1):
        y = y_of(10.0**decade)
        draw.line((left, y, right, y), LINE)
        _write(draw, 8 - left, y, time_text(10.0**decade), GREY, 11)
    if 10.0**view.low <= view.mean_ms <= 10.0**view.high:
        draw.line((left, y_of(view.mean_ms), right, y_of(view.mean_ms)), ACCENT)
    step = (right - left - 8) / (CHARTED - 1)
    for age, (_, ms, failed) in enumerate(reversed(view.history[-CHARTED:])):
        colour = RED if failed else SLATE if age else ACCENT
        place = round(right - 4 - step * age) - 6, y_of(ms) - 6
        draw.bitmap(place, _marker(bool(failed), newest=age == 0), colour)
    _write(draw, left, lower + 14, f"{CHARTED} requests ago", GREY, 11)
    _write(draw, -right, lower + 14, "latest", GREY, 11)
