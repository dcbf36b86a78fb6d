"""Frames of a load-balancing episode, as text and as an image: what is sent where, and why.

Both show one `View`. A server's health and queue are the truth; its latency and errors are what
the balancer sees. The image's size depends only on the number of servers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.dynamics import fault_at
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator as Simulator

Event = tuple[int, float, bool]
"""A routed request: its server, its response time (ms), and whether it failed."""
Draw = ImageDraw.ImageDraw

RECENT, CHARTED, CHARTED_ANSI = 50, 150, 88
"""Requests in the picture of where the traffic goes, and in the charts of response times."""
BLOCKS, COLUMNS = 12, 98
"""Requests in flight that are drawn one by one (the number goes on); width of the text."""
WIDTH, MARGIN, HEADER, CHART = 800, 20, 118, 190
"""Width of the image and its margin; heights of what is above and below the servers (px)."""

PAPER, TRACK, LINE, TINT = "#ffffff", "#eef0f3", "#dee1e6", "#e4effc"
INK, GREY, SLATE, ACCENT, RED = "#1c2028", "#5c636f", "#465878", "#005cb8", "#cc1428"
HEALTH = {"healthy": "#0c704c", "recovering": "#006296", "degraded": "#ba4a00"}
HEALTH |= {"slow": "#8a6200", "erroring": "#962482", "down": "#b01020"}
"""Dark enough for white text; the words carry the same meaning."""


def time_text(ms: float) -> str:
    """A time with its unit, in three digits."""
    if not math.isfinite(ms):
        return "-"
    if ms < 999.5:
        return f"{round(ms, 2):.3g} ms"
    return f"{ms / 1e3:.3g} s" if ms < 999_500 else f"{ms / 1e3:,.0f} s"


class ServerView:
    """What a frame says of server n."""

    def __init__(self, simulator: Simulator, history: Sequence[Event], member: int, n: int) -> None:
        config, seen = simulator.config, simulator.metrics[member, n]
        now_ms, observed_ms = simulator.episodes["now_ms"][member], seen["observed_at_ms"]
        base_ms = float(simulator.constants["base_latency_ms"][n])
        self.name = f"server {n}"
        self.speed = time_text(base_ms)
        if config.dynamics == "queue":
            extra = f" +{self.speed}" if base_ms > 0.0 else ""
            self.speed = f"{config.service_rates[n]:.3g}x{extra}"
        self.health, self.effect = _health(simulator, member, n)
        self.in_flight = int(simulator.servers["in_flight"][member, n])
        self.seen_in_flight = int(seen["in_flight"])
        self.latency, self.errors, self.age = "-", "-", "nothing yet"
        if observed_ms >= 0.0:
            if seen["peak_latency_ms"] > 0.0:  # else it has refused all
                self.latency = time_text(float(seen["latency_ms"]))
            self.errors = f"{seen['error_rate']:.1%}"
            self.age = f"{time_text(now_ms - observed_ms)} ago" if now_ms > observed_ms else "now"
        routed = [event[0] == n for event in history[-RECENT:]]
        self.share = sum(routed) / max(len(routed), 1)
        self.latest = ""  # what came of the last request, if it went here
        if routed and routed[-1]:
            outcome = "FAILED" if history[-1][2] else "ok"
            self.latest = f"{time_text(history[-1][1])}, {outcome}"


class View:
    """What a frame says of one environment, which routed `history` in this episode."""

    def __init__(self, simulator: Simulator, history: Sequence[Event], member: int = 0) -> None:
        config, episode = simulator.config, simulator.episodes[member]
        step, errors, count = int(episode["step"]), int(episode["errors"]), config.num_servers
        self.history = history[-2 * CHARTED :]
        self.servers = [ServerView(simulator, self.history, member, n) for n in range(count)]
        self.progress = step / config.episode_length
        self.mean_ms = float(episode["response_total_ms"]) / step if step else math.nan
        queues = config.dynamics == "queue"
        self.title = f"Load balancer: {count} server{'s' * (count > 1)}, "
        self.title += "one queue each" if queues else "load that decays, no queues"
        self.speed_label = "speed" if queues else "base latency"
        latest = [f"{server.name}: {server.latest}" for server in self.servers if server.latest]
        self.facts = {
            "requests routed": f"{step:,} of {config.episode_length:,}",
            "simulated time": time_text(float(episode["now_ms"])),
            "mean response": time_text(self.mean_ms),
            "failed": f"{errors / step:.1%} ({errors:,})" if step else "-",
            "last request": latest[0] if latest else "-" if step else "none yet",
        }
        work_ms = queues * config.size_mean * count / sum(config.service_rates)
        usual_ms = work_ms + simulator.constants["base_latency_ms"].max()
        shown_ms = [event[1] for event in self.history] or [usual_ms]
        # The chart's axis, in powers of ten: two at least; the fastest 5 % may lie below.
        low, high = np.log10(np.maximum(np.percentile(shown_ms, [5, 100]), 0.01))
        self.low = math.floor(low)
        self.high = max(math.ceil(high), self.low + 2)

    def height(self, ms: float) -> float:
        """Where a response time lies on the chart's logarithmic axis, from 0 to 1."""
        height = (math.log10(max(ms, 1e-9)) - self.low) / (self.high - self.low)
        return min(max(height, 0.0), 1.0)


def _health(simulator: Simulator, member: int, n: int) -> tuple[str, str]:
    """The true health of a server now, and what that does to it."""
    config, row = simulator.config, simulator.episodes["trace_row"][member]
    now_ms, ramp_ms = simulator.episodes["now_ms"][member], config.recovery_ramp_ms
    severity, kind, end_ms = fault_at(simulator.faults, row, n, 0, now_ms, ramp_ms)
    if severity == 0.0:
        return "healthy", ""
    name = trace.FAULT_KINDS[kind]
    if now_ms >= end_ms:
        return "recovering", f"from {name}, {severity:.0%} left"
    slow, errors = f"{config.slow_factor:.3g}x slower", f"{config.fault_error_rate:.1%} errors"
    effects = {"degraded": f"{slow}, {errors}", "slow": slow, "erroring": errors}
    return name, effects.get(name, "refuses requests")


def render_ansi(simulator: Simulator, history: Sequence[Event]) -> str:
    """The first environment as plain text, at most 100 columns wide.

    Args:
        simulator: The simulator.
        history: The requests routed in this episode, newest last.
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
    """One environment as an image.

    Args:
        simulator: The simulator.
        history: The requests that environment routed in this episode, newest last.
        member: Which environment.

    Returns:
        A fresh array, shape (height, 800, 3), uint8; the height is even and depends only on the
        number of servers.
    """
    view, count = View(simulator, history, member), simulator.config.num_servers
    row = 46 if count <= 6 else 36 if count <= 12 else 22
    image = Image.new("RGB", (WIDTH, HEADER + row * count + CHART), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, view)
    for n in range(count):
        _draw_server(draw, view, n, HEADER + row * n, row)
    _draw_chart(draw, view, HEADER + row * count)
    return np.array(image)


@lru_cache(maxsize=4096)
def _glyphs(text: str, size: int) -> Image.Image:
    """A text as a mask; drawn large and reduced, as hinting spoils the spacing of small print."""
    font = ImageFont.load_default(size=4 * size)
    mask = Image.new("L", (math.ceil(font.getlength(text) / 4) * 4 + 4, 6 * size))
    ImageDraw.Draw(mask).text((0, 3 * size), text, 255, font, "lm")
    return mask.reduce(4)


@lru_cache
def _marker(failed: bool, newest: bool) -> Image.Image:
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
    """The whole episode in numbers, its progress, and the headings of the servers' columns."""
    _write(draw, MARGIN, 22, view.title, size=18)
    for x, (label, value) in zip((MARGIN, 170, 300, 430, 560), view.facts.items(), strict=True):
        _write(draw, x, 48, label, GREY, 11)
        _write(draw, x, 66, value, RED if value.endswith("FAILED") else INK, 16)
    draw.rectangle((MARGIN, 82, WIDTH - MARGIN - 1, 85), LINE)
    if view.progress > 0.0:
        draw.rectangle((MARGIN, 82, MARGIN + (WIDTH - 2 * MARGIN) * view.progress - 1, 85), ACCENT)
    headings = {34: f"server, {view.speed_label}", 142: "true health", 284: "requests in flight"}
    headings |= {
        -500: "latency seen",
        -570: "errors seen",
        -772: f"share of last {RECENT} requests",
    }
    for x, heading in headings.items():
        _write(draw, x, HEADER - 12, heading, GREY, 11)


def _draw_server(draw: Draw, view: View, n: int, top: int, row: int) -> None:
    """The row of one server, with a second line of small print if there is room."""
    server, colour = view.servers[n], HEALTH[view.servers[n].health]
    tall = row >= 36
    y = top + row // 2 - 7 * tall
    loud = RED if server.latest.endswith("FAILED") else ACCENT
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    if server.latest:
        draw.rectangle((MARGIN, top + 1, WIDTH - MARGIN - 1, top + row - 1), TINT)
        draw.rectangle((MARGIN, top + 1, MARGIN + 4, top + row - 1), loud)
    _write(draw, 34, y, server.name)
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
        _write(draw, -128, y, server.speed, GREY, 11)
        return
    _write(draw, 34, y + 16, f"{view.speed_label} {server.speed}", GREY, 11)
    _write(draw, 142, y + 16, server.effect, colour, 11)
    if server.in_flight != server.seen_in_flight:
        _write(draw, 316, y + 16, f"balancer sees {server.seen_in_flight:,}", GREY, 11)
    _write(draw, -500, y + 16, server.age, GREY, 11)
    _write(draw, -772, y + 16, server.latest, loud, 11)


def _draw_traffic(draw: Draw, view: View, n: int, y: int) -> None:
    """The last requests, newest right: a tick where this server got them, tall if it failed."""
    _write(draw, -614, y, f"{view.servers[n].share:.0%}" if view.history else "-")
    draw.rectangle((772 - 3 * RECENT, y - 6, 771, y + 5), TRACK)
    for age, (server, _, failed) in enumerate(reversed(view.history[-RECENT:])):
        if server == n:
            x, more = 769 - 3 * age, 2 * failed
            colour = RED if failed else SLATE if age else ACCENT
            draw.rectangle((x, y - 6 - more, x + 1, y + 5 + more), colour)


def _draw_chart(draw: Draw, view: View, top: int) -> None:
    """Response times of the last requests on a logarithmic axis."""
    left, right, upper, lower = 88, WIDTH - MARGIN - 8, top + 40, top + CHART - 28
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    _write(draw, MARGIN, top + 18, f"response times of the last {CHARTED} requests", INK, 12)
    draw.bitmap((504, top + 12), _marker(False, False), SLATE)
    draw.bitmap((554, top + 12), _marker(True, False), RED)
    draw.line((628, top + 18, 644, top + 18), ACCENT)
    for x, label in ((520, "ok"), (570, "failed"), (652, "mean of the episode")):
        _write(draw, x, top + 18, label, GREY, 11)
    for decade in range(view.low, view.high + 1):
        y = round(lower - (lower - upper) * view.height(10.0**decade))
        draw.line((left, y, right, y), LINE)
        _write(draw, 8 - left, y, time_text(10.0**decade), GREY, 11)
    if 10.0**view.low <= view.mean_ms <= 10.0**view.high:
        y = round(lower - (lower - upper) * view.height(view.mean_ms))
        draw.line((left, y, right, y), ACCENT)
    step = (right - left - 8) / (CHARTED - 1)
    for age, (_, ms, failed) in enumerate(reversed(view.history[-CHARTED:])):
        x, y = round(right - 4 - step * age), round(lower - (lower - upper) * view.height(ms))
        colour = RED if failed else SLATE if age else ACCENT
        draw.bitmap((x - 6, y - 6), _marker(bool(failed), age == 0), colour)
    _write(draw, left, lower + 14, f"{CHARTED} requests ago", GREY, 11)
    _write(draw, -right, lower + 14, "latest", GREY, 11)
