"""Frames of a load-balancing episode, as text and as an image: what is sent where, and why.

Both frames show one `View`. A server's health and queue are the truth, its latency and errors
what the balancer sees of it. The image's size depends only on the number of servers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_gym.envs.load_balancer import trace as world
from grpo_gym.envs.load_balancer.dynamics import fault_at
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

Event = tuple[int, float, bool]
"""A routed request: its server, its response time (ms), and whether it failed."""
Colour = tuple[int, int, int]

RECENT = 50
"""Requests in the picture of where the traffic goes."""
CHARTED, CHARTED_ANSI = 150, 88
"""Requests in the chart of response times."""
BLOCKS = 12
"""Requests in flight that are drawn one by one; the number beside them goes on."""
COLUMNS = 98
"""Width of the text, in characters."""
WIDTH, MARGIN, HEADER, CHART = 800, 20, 118, 168
"""Width of the image and its margin; heights of what is above and below the servers (px)."""

PAPER, PANEL, LINE, TICK = (255, 255, 255), (246, 247, 249), (222, 225, 230), (240, 241, 244)
INK, GREY, ACCENT, TINT = (28, 32, 40), (98, 105, 117), (0, 92, 184), (228, 239, 252)
BLOCK, OK, FAILED = (84, 98, 120), (70, 88, 120), (204, 20, 40)
HEALTH: dict[str, Colour] = {
    "healthy": (12, 112, 76),
    "degraded": (186, 74, 0),
    "slow": (138, 98, 0),
    "erroring": (150, 36, 130),
    "down": (176, 16, 32),
    "recovering": (0, 98, 150),
}
"""Dark enough for white text; the words carry the same meaning."""


@dataclass(frozen=True)
class ServerView:
    """What a frame says of one server; `effect` is what its fault does to it."""

    name: str
    speed: str
    health: str
    effect: str
    in_flight: int
    seen_in_flight: int
    latency: str
    errors: str
    age: str
    share: float


@dataclass(frozen=True)
class View:
    """What a frame says; times in ms, requests newest last."""

    title: str
    speed_label: str
    facts: tuple[tuple[str, str], ...]
    progress: float
    mean_ms: float
    last: Event | None
    recent: Sequence[Event]
    charted: Sequence[Event]
    decades: tuple[int, int]
    """The chart's axis runs from 10**low to 10**high ms."""
    servers: tuple[ServerView, ...]


def view_of(simulator: LoadBalancerSimulator, history: Sequence[Event], member: int = 0) -> View:
    """What there is to say of one environment.

    Args:
        simulator: Its simulator.
        history: The requests it routed in this episode, newest last.
        member: Its index.
    """
    config, episode = simulator.config, simulator.episodes[member]
    step, errors, count = int(episode["step"]), int(episode["errors"]), config.num_servers
    mean_ms = float(episode["response_total_ms"]) / step if step else math.nan
    queues = config.dynamics == "queue"
    recent, last = history[-RECENT:], history[-1] if history else None
    title = f"Load balancer: {count} server{'s' * (count > 1)}, "
    return View(
        title=title + ("one queue each" if queues else "load that decays, no queues"),
        speed_label="speed" if queues else "base",
        facts=(
            ("requests routed", f"{step:,} of {config.episode_length:,}"),
            ("simulated time", time_text(float(episode["now_ms"]))),
            ("mean response", time_text(mean_ms)),
            ("failed", f"{errors / step:.1%} ({errors:,})" if step else "-"),
            ("last request", f"server {last[0]}: {outcome_text(last)}" if last else "none yet"),
        ),
        progress=step / config.episode_length,
        mean_ms=mean_ms,
        last=last,
        recent=recent,
        charted=history[-CHARTED:],
        decades=_decades(simulator, [event[1] for event in history[-2 * CHARTED :]]),
        servers=tuple(_server_view(simulator, recent, member, n) for n in range(count)),
    )


def time_text(ms: float) -> str:
    """A time with its unit, in about three digits."""
    if not math.isfinite(ms):
        return "-"
    if ms < 999.5:
        return f"{ms:.{2 if ms < 0.995 else 1 if ms < 99.95 else 0}f} ms"
    return f"{ms / 1e3:.2f} s" if ms < 99_995 else f"{ms / 1e3:,.0f} s"


def outcome_text(event: Event) -> str:
    """What came of a request: its response time and whether it failed."""
    return f"{time_text(event[1])}, {'FAILED' if event[2] else 'ok'}"


def _server_view(
    simulator: LoadBalancerSimulator, recent: Sequence[Event], member: int, n: int
) -> ServerView:
    config, now = simulator.config, float(simulator.episodes["now_ms"][member])
    seen, constants = simulator.metrics[member, n], simulator.constants[n]
    base_ms = float(constants["base_latency_ms"])
    speed = time_text(base_ms)
    if config.dynamics == "queue":
        speed = f"{constants['rate']:.3g}x" + (f" +{speed}" if base_ms > 0.0 else "")
    health, effect = _health(simulator, member, n)
    known = seen["observed_at_ms"] >= 0.0
    return ServerView(
        name=f"server {n}",
        speed=speed,
        health=health,
        effect=effect,
        in_flight=int(simulator.servers["in_flight"][member, n]),
        seen_in_flight=int(seen["in_flight"]),
        latency=time_text(float(seen["latency_ms"])) if known else "-",
        errors=f"{seen['error_rate']:.1%}" if known else "-",
        age=f"{time_text(now - float(seen['observed_at_ms']))} ago" if known else "not heard of",
        share=sum(event[0] == n for event in recent) / max(len(recent), 1),
    )


def _health(simulator: LoadBalancerSimulator, member: int, n: int) -> tuple[str, str]:
    """The true health of a server now, and what that does to it."""
    config, episode = simulator.config, simulator.episodes[member]
    severity, kind, _ = fault_at(
        simulator.faults, episode["trace_row"], n, 0, episode["now_ms"], config.recovery_ramp_ms
    )
    if severity == 0.0:
        return "healthy", ""
    name = world.FAULT_KINDS[kind]
    if severity < 1.0:
        return "recovering", f"from {name}, {severity:.0%} left"
    slow, errors = f"{config.slow_factor:.3g}x slower", f"{config.fault_error_rate:.3g}"
    errors = f"{100 * config.fault_error_rate:.3g}% errors"
    effects = {"degraded": f"{slow}, {errors}", "slow": slow, "erroring": errors}
    return name, effects.get(name, "refuses requests")


def _decades(simulator: LoadBalancerSimulator, responses_ms: list[float]) -> tuple[int, int]:
    """Powers of ten around response times, two at least; the fastest 2 % may lie below."""
    config = simulator.config
    if not responses_ms and config.dynamics == "queue":
        responses_ms = [config.size_mean * config.num_servers / sum(config.service_rates)]
    elif not responses_ms:
        responses_ms = simulator.constants["base_latency_ms"].tolist()
    low, high = np.percentile(np.maximum(responses_ms, 1e-3), [2, 100])
    first = math.floor(math.log10(low))
    return first, max(math.ceil(math.log10(high)), first + 2)


def _height(ms: float, decades: tuple[int, int]) -> float:
    """Where a response time lies on the chart's logarithmic axis, from 0 to 1."""
    low, high = decades
    return min(max((math.log10(max(ms, 1e-9)) - low) / (high - low), 0.0), 1.0)


def _tick(decade: int) -> str:
    return f"{10.0**decade:g} ms" if decade < 3 else f"{10 ** (decade - 3):,} s"


def render_ansi(simulator: LoadBalancerSimulator, history: Sequence[Event]) -> str:
    """The first environment as plain text, at most 100 columns wide.

    Args:
        simulator: The simulator.
        history: The requests routed in this episode, newest last.
    """
    view = view_of(simulator, history)
    head = ("  server", view.speed_label, "health", "   # in flight", "latency", "errors")
    servers = range(len(view.servers))
    rows = [(*head, f"share of last {RECENT}"), *(_cells(view, n) for n in servers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [f"{'>' if i in (1, 4, 5) else '<'}{width}" for i, width in enumerate(widths)]
    table = ["  ".join(map(format, row, aligned)) for row in rows]
    facts = [f"{label} {value}" for label, value in view.facts]
    rule = "─" * COLUMNS
    lines = [view.title, " │ ".join(facts[:-1]), facts[-1], rule, table[0], rule, *table[1:], rule]
    lines += [f"response time of the last {CHARTED_ANSI} requests, newest right (• ok, x failed)"]
    return "\n".join(line.rstrip()[:COLUMNS] for line in [*lines, *_text_chart(view)])


def _cells(view: View, n: int) -> tuple[str, ...]:
    server = view.servers[n]
    mark = "▶" if view.last is not None and view.last[0] == n else " "
    blocks = "█" * min(server.in_flight, BLOCKS) + "+" * (server.in_flight > BLOCKS)
    return (
        f"{mark} {server.name}",
        server.speed,
        server.health,
        f"{server.in_flight:>4} {blocks}",
        server.latency,
        server.errors,
        f"{server.share:>4.0%} {'█' * round(16 * server.share)}" if view.recent else "   -",
    )


def _text_chart(view: View) -> list[str]:
    low, high = view.decades
    lines_per_decade = max(1, 6 // (high - low))
    top = lines_per_decade * (high - low)
    grid = [[" "] * CHARTED_ANSI for _ in range(top + 1)]
    for column, (_, ms, failed) in enumerate(reversed(view.charted[-CHARTED_ANSI:])):
        grid[top - round(top * _height(ms, view.decades))][-1 - column] = "x" if failed else "•"
    ticks = {lines_per_decade * (high - decade): _tick(decade) for decade in range(low, high + 1)}
    return [
        f"{ticks.get(line, ''):>8}{'┤' if line in ticks else '│'}{''.join(row)}"
        for line, row in enumerate(grid)
    ]


def render_rgb(
    simulator: LoadBalancerSimulator, history: Sequence[Event], member: int = 0
) -> np.ndarray:
    """One environment as an image.

    Args:
        simulator: The simulator.
        history: The requests that environment routed in this episode, newest last.
        member: Which environment.

    Returns:
        A fresh array, shape (height, 800, 3), uint8; the height is even and depends only on the
        number of servers.
    """
    view = view_of(simulator, history, member)
    count = len(view.servers)
    row = 46 if count <= 6 else 36 if count <= 12 else 22
    image = Image.new("RGB", (WIDTH, HEADER + row * count + CHART), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, view)
    for n in range(count):
        _draw_server(draw, view, n, HEADER + row * n, row, simulator.config.staleness_ms > 0.0)
    _draw_chart(draw, view, HEADER + row * count)
    return np.array(image)


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: Colour = INK,
    size: int = 13,
    anchor: str = "lm",
) -> None:
    draw.text(at, text, colour, _font(size), anchor)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@lru_cache
def _marker(shape: str, size: int) -> Image.Image:
    """An antialiased disc, ring or cross, as a mask."""
    fine = Image.new("L", (8 * size, 8 * size))
    draw, end = ImageDraw.Draw(fine), 8 * size - 1
    if shape == "cross":
        draw.line((6, 6, end - 6, end - 6), 255, 14)
        draw.line((6, end - 6, end - 6, 6), 255, 14)
    else:
        draw.ellipse((0, 0, end, end), 255 if shape == "disc" else 0, 255, 14)
    return fine.reduce(8)


def _draw_header(draw: ImageDraw.ImageDraw, view: View) -> None:
    _write(draw, (MARGIN, 22), view.title, size=18)
    for x, (label, value) in zip((20, 170, 304, 430, 560), view.facts, strict=True):
        _write(draw, (x, 48), label, GREY, 11)
        failed = label == "last request" and view.last is not None and view.last[2]
        _write(draw, (x, 66), value, FAILED if failed else INK, 16)
    end = MARGIN + (WIDTH - 2 * MARGIN) * view.progress
    draw.rectangle((MARGIN, 82, WIDTH - MARGIN - 1, 85), LINE)
    if view.progress > 0.0:
        draw.rectangle((MARGIN, 82, end - 1, 85), ACCENT)
    for x, anchor, label in (
        (34, "lm", f"server, {view.speed_label}"),
        (138, "lm", "true health"),
        (308, "rm", "in flight"),
        (500, "rm", "latency seen"),
        (570, "rm", "errors seen"),
        (772, "rm", f"share, and last {RECENT} requests"),
    ):
        _write(draw, (x, HEADER - 12), label, GREY, 11, anchor)


def _draw_server(
    draw: ImageDraw.ImageDraw, view: View, n: int, top: int, row: int, stale: bool
) -> None:
    """The row of one server, with a second line of small print if there is room."""
    server = view.servers[n]
    tall = row >= 36
    upper, lower = (top + row // 2 - 7, top + row // 2 + 9) if tall else (top + row // 2,) * 2
    latest = view.last if view.last is not None and view.last[0] == n else None
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    if latest:
        draw.rectangle((MARGIN, top + 1, WIDTH - MARGIN - 1, top + row - 1), TINT)
        draw.rectangle((MARGIN, top + 1, MARGIN + 4, top + row - 1), FAILED if latest[2] else ACCENT)
    _write(draw, (34, upper), server.name)
    colour = HEALTH[server.health]
    if server.health != "healthy":
        draw.rounded_rectangle((136, upper - 8, 212, upper + 7), 3, colour)
    white = server.health != "healthy"
    _write(draw, (142, upper), server.health, PAPER if white else colour, 12)
    _draw_queue(draw, server.in_flight, upper)
    _write(draw, (500, upper), server.latency, anchor="rm")
    _write(draw, (570, upper), server.errors, anchor="rm")
    _draw_traffic(draw, view, n, upper)
    if tall:
        _write(draw, (34, lower), f"{view.speed_label} {server.speed}", GREY, 11)
        _write(draw, (138, lower), server.effect, colour, 11)
        _write(draw, (500, lower), server.age, GREY, 11, "rm")
        if stale and server.in_flight != server.seen_in_flight:
            _write(draw, (314, lower), f"balancer sees {server.seen_in_flight}", GREY, 11)
        if latest:
            _write(draw, (772, lower), outcome_text(latest), FAILED if latest[2] else ACCENT, 11, "rm")
    else:
        _write(draw, (128, upper), server.speed, GREY, 11, "rm")


def _draw_queue(draw: ImageDraw.ImageDraw, in_flight: int, y: int) -> None:
    _write(draw, (308, y), f"{in_flight:,}", anchor="rm")
    for block in range(min(in_flight, BLOCKS)):
        x = 316 + 9 * block
        draw.rectangle((x, y - 6, x + 6, y + 5), BLOCK)
    if in_flight > BLOCKS:
        _write(draw, (316 + 9 * BLOCKS, y), "+", BLOCK)


def _draw_traffic(draw: ImageDraw.ImageDraw, view: View, n: int, y: int) -> None:
    """The last requests as ticks where this server got them, newest right."""
    _write(draw, (614, y), f"{view.servers[n].share:.0%}" if view.recent else "-", anchor="rm")
    left, cell = 772 - 3 * RECENT, 3
    draw.rectangle((left, y - 7, left + cell * RECENT - 1, y + 6), TICK)
    for age, (server, _, failed) in enumerate(reversed(view.recent)):
        if server == n:
            x = left + cell * (RECENT - 1 - age)
            colour = FAILED if failed else ACCENT if age == 0 else OK
            draw.rectangle((x, y - 7, x + 1, y + 6), colour)


def _draw_chart(draw: ImageDraw.ImageDraw, view: View, top: int) -> None:
    """Response times of the last requests on a logarithmic axis."""
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), LINE)
    left, right, upper, lower = 76, WIDTH - MARGIN - 8, top + 36, top + CHART - 24

    def place(ms: float) -> int:
        return round(lower - (lower - upper) * _height(ms, view.decades))

    _write(draw, (MARGIN, top + 18), f"response times of the last {CHARTED} requests", INK, 12)
    low, high = view.decades
    for decade in range(low, high + 1):
        draw.line((left, place(10.0**decade), right, place(10.0**decade)), LINE)
        _write(draw, (left - 8, place(10.0**decade)), _tick(decade), GREY, 11, "rm")
    if math.isfinite(view.mean_ms):
        draw.line((left, place(view.mean_ms), right, place(view.mean_ms)), ACCENT)
    for age, (_, ms, failed) in enumerate(reversed(view.charted)):
        x, y = round(right - 4 - (right - left - 8) * age / (CHARTED - 1)), place(ms)
        shape, size, colour = ("cross", 8, FAILED) if failed else ("disc", 6, OK)
        draw.bitmap((x - size // 2, y - size // 2), _marker(shape, size), colour)
        if age == 0:
            draw.bitmap((x - 6, y - 6), _marker("ring", 12), FAILED if failed else ACCENT)
    for x, shape, size, colour, label in (
        (500, "disc", 6, OK, "answered"),
        (580, "cross", 8, FAILED, "failed"),
    ):
        draw.bitmap((x, top + 18 - size // 2), _marker(shape, size), colour)
        _write(draw, (x + 12, top + 18), label, GREY, 11)
    draw.line((644, top + 18, 660, top + 18), ACCENT)
    _write(draw, (666, top + 18), "mean of the episode", GREY, 11)
    _write(draw, (left, lower + 13), f"{CHARTED} requests ago", GREY, 11)
    _write(draw, (right, lower + 13), "latest", GREY, 11, "rm")
