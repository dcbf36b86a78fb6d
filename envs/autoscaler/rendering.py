"""Frames of an episode, as text and as an image: was there enough of the service, and at what cost.

Both show the steps so far, each as a `Moment`. The image's size is always the same.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator as Simulator

Draw = ImageDraw.ImageDraw
Spans = Sequence[tuple[float, float]]
"""From where to where each step reaches (px)."""

WIDTH, HEIGHT, HEADER, LEFT, RIGHT = 800, 640, 96, 70, 780
"""Size of the image, height of its head, and where the charts begin and end (px)."""
COLUMNS, CHARTED_ANSI = 98, 86
"""Width of the text and of its charts."""
SCALE = 2
"""How many times larger the image is drawn, for smooth lines."""

PAPER, LINE, INK, GREY = "#ffffff", "#dee1e6", "#1c2028", "#5c636f"
ROOM, SLATE, ACCENT, AMBER, RED = "#dce3ec", "#465878", "#005cb8", "#e09b2d", "#cc1428"
BARS = " ▁▂▃▄▅▆▇█"
_TICK_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120, 180, 360, 720, 1440, 2880)
_MINUTES_A_DAY = 1440
_ROUND = [factor * 10.0**power for power in range(-3, 9) for factor in (1.0, 2.0, 5.0)]


class Moment(NamedTuple):
    """What a picture shows of a step.

    Latencies are in ms, demand and capacity (of the own region) in requests/s, and `clock` are
    the steps since midnight of the first day.
    """

    step: int
    clock: int
    demand: float
    capacity: float
    p50_latency_ms: float
    p99_latency_ms: float
    violation: bool
    error_percent: float
    replicas: int
    pending: int
    cost_dollars: float
    lost: float


def moment(simulator: Simulator, member: int = 0) -> Moment:
    """The last step of an environment; after a reset what was measured before, for nothing."""
    outcome, episode = simulator.outcomes[member], simulator.episodes[member]
    replica = replica_capacity(simulator.clusters[member], simulator.parameters[0])
    return Moment(
        step=int(episode["step"]),
        clock=int(simulator.starts[episode["trace_row"]] + episode["step"]),
        demand=float(outcome["demand"]),
        capacity=float(outcome["replicas"] * replica),
        p50_latency_ms=float(outcome["p50_latency_ms"]),
        p99_latency_ms=float(outcome["p99_latency_ms"]),
        violation=bool(outcome["violation"]),
        error_percent=float(outcome["error_percent"]),
        replicas=int(outcome["replicas"]),
        pending=int(outcome["pending"]),
        cost_dollars=float(outcome["cost_dollars"]),
        lost=float(outcome["lost"]),
    )


def clock_text(clock: int, step_seconds: float) -> str:
    """The time of day, and which day it is from the second one on."""
    minutes = int(clock * step_seconds // 60.0)
    if minutes == _MINUTES_A_DAY:
        return "24:00"
    day, minute = divmod(minutes, _MINUTES_A_DAY)
    text = f"{minute // 60:02d}:{minute % 60:02d}"
    return text if day == 0 else f"day {day + 1}, {text}"


def facts(config: AutoScalerConfig, history: Sequence[Moment]) -> dict[str, str]:
    """The episode in words: quantity and value."""
    now = history[-1]
    steps = [past for past in history if past.step > 0]
    broken = sum(past.violation for past in steps) / max(len(steps), 1)
    cost = sum(past.cost_dollars for past in steps)
    use = now.demand / now.capacity if now.capacity > 0.0 else math.inf
    pending = f" + {now.pending} starting" if now.pending else ""
    return {
        "time": clock_text(now.clock, config.step_seconds),
        "demand": f"{now.demand:,.0f}/s",
        "capacity": f"{now.capacity:,.0f}/s ({use:.0%} used)",
        "replicas": f"{now.replicas}{pending}",
        "p99": latency_text(now.p99_latency_ms),
        "errors": f"{now.error_percent:.3g} %",
        "p99 broken": f"{broken:.1%} of steps",
        "cost so far": f"${cost:,.0f}",
    }


def latency_text(ms: float) -> str:
    """A latency with its unit, in three digits."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1000.0:.3g} s"


def render_ansi(simulator: Simulator, history: Sequence[Moment], member: int = 0) -> str:
    """One environment as plain text, at most 98 columns wide.

    Args:
        simulator: The simulator.
        history: The steps of this episode so far, newest last.
        member: Which environment.
    """
    config = simulator.config
    shown = list(history) or [moment(simulator, member)]
    texts = [f"{name} {value}" for name, value in facts(config, shown).items()]
    rule = "─" * COLUMNS
    recent = shown[-CHARTED_ANSI:]
    promise = math.log10(config.sla_p99_ms / 10.0)
    rows = {
        "demand": [past.demand for past in recent],
        "capacity": [past.capacity for past in recent],
        "p99": [math.log10(max(past.p99_latency_ms, 10.0) / 10.0) for past in recent],
    }
    highest = max(*rows["demand"], *rows["capacity"], 1.0)
    scales = {"demand": highest, "capacity": highest, "p99": max(3.0, promise)}
    charts = [f"{name:>9} {_bars(values, scales[name])}" for name, values in rows.items()]
    broken = "".join("x" if past.violation else " " for past in recent)
    lines = [
        title(config, shown[-1]),
        " │ ".join(texts[:4]),
        " │ ".join(texts[4:]),
        rule,
        *charts,
        f"{'broken':>9} {broken}",
        f"{'':9} the last {len(recent)} steps, newest right; p99 from 10 ms to 10 s, logarithmic",
    ]
    return "\n".join(line.rstrip()[:COLUMNS] for line in lines) + "\n"


def title(config: AutoScalerConfig, now: Moment) -> str:
    """What is shown, and how far it is."""
    return f"Autoscaler: {now.step:,} of {config.episode_steps:,} steps"


def _bars(values: Sequence[float], highest: float) -> str:
    top = len(BARS) - 1
    return "".join(BARS[min(math.ceil(top * value / highest), top)] for value in values)


def render_rgb(simulator: Simulator, history: Sequence[Moment], member: int = 0) -> np.ndarray:
    """One environment as an image.

    Args:
        simulator: The simulator.
        history: The steps of this episode so far, newest last.
        member: Which environment.

    Returns:
        A fresh array, shape (640, 800, 3), uint8.
    """
    config = simulator.config
    shown = list(history) or [moment(simulator, member)]
    image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, config, shown)
    panels = _panels(config, shown)
    _draw_time_axis(draw, config, shown, panels)
    for panel in panels:
        panel.draw_axis(draw)
    spans = [(_across(config, past.step - 1), _across(config, past.step)) for past in shown]
    _draw_demand(draw, panels[0], shown, spans)
    _draw_latency(draw, panels[1], config, shown, spans)
    _draw_replicas(draw, panels[2], shown, spans)
    _draw_cost(draw, panels[3], shown, spans)
    return np.array(image.reduce(SCALE))


class _Panel(NamedTuple):
    """A chart: its place and its vertical axis, which begins at 0 or is logarithmic."""

    top: int
    bottom: int
    heading: str
    legend: tuple[tuple[str, str], ...]
    ticks: tuple[float, ...]
    unit: str
    logarithmic: bool = False

    def y(self, value: float) -> float:
        """Where a value is (px)."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def draw_axis(self, draw: Draw) -> None:
        """Heading, legend and lines of the vertical axis."""
        _write(draw, LEFT, self.top - 13, self.heading, INK, 12)
        x = float(RIGHT)
        for name, colour in reversed(self.legend):
            _write(draw, x, self.top - 13, name, GREY, 11, "rm")
            x -= _font(11).getlength(name) / SCALE + 6
            _box(draw, x - 14, self.top - 15, x, self.top - 11, colour)
            x -= 30
        for tick in self.ticks:
            _line(draw, [(LEFT, self.y(tick)), (RIGHT, self.y(tick))], LINE, 1)
            text = latency_text(tick) if self.logarithmic else f"{self.unit}{tick:,.6g}"
            _write(draw, LEFT - 8, self.y(tick), text, GREY, 11, "rm")


def _panels(config: AutoScalerConfig, shown: Sequence[Moment]) -> list[_Panel]:
    """The four charts from top to bottom."""
    rate = max(max(past.demand, past.capacity) for past in shown)
    replicas = max(past.replicas + past.pending for past in shown)
    cost = sum(past.cost_dollars for past in shown)
    fastest = min(past.p50_latency_ms for past in shown)
    slowest = max(config.sla_p99_ms, *(past.p99_latency_ms for past in shown))
    promise = f"promised {latency_text(config.sla_p99_ms)}"
    return [
        _Panel(
            HEADER + 26, 228, "requests a second",
            (("demand", ACCENT), ("capacity", ROOM), ("beyond capacity", RED)),
            _ticks(rate, 4), "",
        ),
        _Panel(
            266, 386, "latency of a step (logarithmic)",
            (("median", SLATE), ("99th percentile", ACCENT), (promise, RED)),
            _decades(min(fastest, 20.0), max(slowest, 2_000.0)), "", True,
        ),
        _Panel(
            424, 504, "replicas", (("serving", SLATE), ("starting up", AMBER)),
            _ticks(replicas, 3), "",
        ),
        _Panel(542, 606, "cost so far", (("dollars", SLATE),), _ticks(max(cost, 1.0), 3), "$"),
    ]  # fmt: skip


def _draw_header(draw: Draw, config: AutoScalerConfig, shown: Sequence[Moment]) -> None:
    """The episode in numbers, and its progress."""
    _write(draw, 20, 20, title(config, shown[-1]), INK, 18)
    places = (20, 114, 194, 344, 472, 548, 620, 780)
    for x, (name, value) in zip(places, facts(config, shown).items(), strict=True):
        anchor = "rm" if x == places[-1] else "lm"
        broken = name == "p99" and shown[-1].violation
        _write(draw, x, 46, name, GREY, 11, anchor)
        _write(draw, x, 64, value, RED if broken else INK, 14, anchor)
    _box(draw, 20, 80, 780, 83, LINE)
    done = shown[-1].step / config.episode_steps
    if done > 0.0:
        _box(draw, 20, 80, 20 + 760 * done, 83, ACCENT)


def _draw_time_axis(
    draw: Draw, config: AutoScalerConfig, shown: Sequence[Moment], panels: Sequence[_Panel]
) -> None:
    """Lines at round times through all charts, and the times below them."""
    start = shown[0].clock - shown[0].step
    per_minute = 60.0 / config.step_seconds
    minutes = config.episode_steps / per_minute
    spacing = next((m for m in _TICK_MINUTES if minutes / m <= 9), _TICK_MINUTES[-1])
    first = math.ceil(start / per_minute / spacing)
    last = math.floor((start + config.episode_steps) / per_minute / spacing)
    for number in range(first, last + 1):
        clock = number * spacing * per_minute
        x = _across(config, clock - start)
        for panel in panels:
            _line(draw, [(x, panel.top), (x, panel.bottom)], LINE, 1)
        text = clock_text(math.ceil(clock), config.step_seconds)
        if spacing >= _MINUTES_A_DAY:
            text = f"day {number * spacing // _MINUTES_A_DAY + 1}"
        _write(draw, x, 620, text, GREY, 11, "mm")


def _draw_demand(draw: Draw, panel: _Panel, shown: Sequence[Moment], spans: Spans) -> None:
    floor = panel.y(0.0)
    for past, (left, right) in zip(shown, spans, strict=True):
        _box(draw, left, panel.y(past.capacity), right, floor, ROOM)
        if past.demand > past.capacity:
            _box(draw, left, panel.y(past.demand), right, panel.y(past.capacity), RED)
    _line(draw, [(x, panel.y(p.demand)) for (_, x), p in zip(spans, shown, strict=True)], ACCENT, 3)


def _draw_latency(
    draw: Draw,
    panel: _Panel,
    config: AutoScalerConfig,
    shown: Sequence[Moment],
    spans: Spans,
) -> None:
    promised = panel.y(config.sla_p99_ms)
    for past, (left, right) in zip(shown, spans, strict=True):
        if past.violation:
            _box(draw, left, panel.y(past.p99_latency_ms), right, promised, "#f6c6cc")
    _line(draw, [(LEFT, promised), (RIGHT, promised)], RED, 2)
    for name, colour in (("p50_latency_ms", SLATE), ("p99_latency_ms", ACCENT)):
        points = [(x, panel.y(getattr(p, name))) for (_, x), p in zip(spans, shown, strict=True)]
        _line(draw, points, colour, 3)


def _draw_replicas(draw: Draw, panel: _Panel, shown: Sequence[Moment], spans: Spans) -> None:
    for past, (left, right) in zip(shown, spans, strict=True):
        serving = panel.y(past.replicas)
        _box(draw, left, serving, right, panel.y(0.0), SLATE)
        if past.pending:
            _box(draw, left, panel.y(past.replicas + past.pending), right, serving, AMBER)


def _draw_cost(draw: Draw, panel: _Panel, shown: Sequence[Moment], spans: Spans) -> None:
    paid = np.cumsum([past.cost_dollars for past in shown])
    points = [(x, panel.y(cost)) for (_, x), cost in zip(spans, paid.tolist(), strict=True)]
    _line(draw, points, SLATE, 4)


def _across(config: AutoScalerConfig, step: float) -> float:
    """Where the end of a step is (px): the whole episode has its place from the beginning."""
    return LEFT + (RIGHT - LEFT) * max(step, 0.0) / config.episode_steps


def _ticks(highest: float, count: int) -> tuple[float, ...]:
    """Round numbers from 0 to at least the highest, about so many."""
    power = 10.0 ** math.floor(math.log10(max(highest, 1e-9) / count))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power * count >= highest * (1 - 1e-9))
    return tuple(step * number for number in range(math.ceil(highest / step - 1e-9) + 1))


def _decades(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten, between the last round number below and the first above these."""
    first = max(number for number in _ROUND if number <= max(low, _ROUND[0]))
    last = min(number for number in _ROUND if number >= min(high, _ROUND[-1]))
    powers = [number for number in _ROUND[::3] if first < number < last]
    return (first, *powers, last)


def _line(draw: Draw, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    """A line; its width in pixels of the large image."""
    draw.line([(SCALE * x, SCALE * y) for x, y in points], colour, width, joint="curve")


def _box(draw: Draw, left: float, top: float, right: float, bottom: float, colour: str) -> None:
    """A filled rectangle, right and bottom excluded; where it has no width, one pixel."""
    x, end = round(SCALE * left), max(round(SCALE * right) - 1, round(SCALE * left))
    y, low = round(SCALE * top), round(SCALE * bottom) - 1
    if low >= y:
        draw.rectangle((x, y, end, low), colour)


def _write(
    draw: Draw, x: float, y: float, text: str, colour: str, size: int, anchor: str = "lm"
) -> None:
    draw.text((SCALE * x, SCALE * y), text, colour, _font(size), anchor)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SCALE * size)
