"""Pictures of an episode so far, as text and as an image: demand, capacity, latency and cost.

Both show every step as a `Frame`. The image's size is fixed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grpo_gym.envs.autoscaler import charts
from grpo_gym.envs.autoscaler.charts import GREY, INK, LINE, Canvas, Panel
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator as Simulator

WIDTH, HEIGHT, LEFT, RIGHT = 800, 640, 70, 780
"""Size of the image, and horizontal extent of its charts (px)."""
RATES, LATENCIES, REPLICAS, COSTS = (122, 228), (266, 386), (424, 504), (542, 606)
"""Vertical extents of the charts (px)."""
COLUMNS, CHARTED_ANSI = 98, 86
"""Width of the text and of its charts."""

ROOM, SLATE, ACCENT, AMBER = "#dce3ec", "#465878", "#005cb8", "#e09b2d"
RED, PINK = "#cc1428", "#f6c6cc"
BARS = " ▁▂▃▄▅▆▇█"
_TICK_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120, 180, 360, 720, 1440, 2880)
_MINUTES_A_DAY = 1440


class Frame(NamedTuple):
    """What pictures show of one step.

    Latencies are in ms, demand and capacity (of the own region) in requests/s; `clock` counts
    steps since midnight of the first day.
    """

    step: int
    clock: int
    capacity: float
    demand: float
    p50_latency_ms: float
    p99_latency_ms: float
    violation: bool
    error_percent: float
    replicas: int
    pending: int
    cost_dollars: float


def current_frame(simulator: Simulator, member: int = 0) -> Frame:
    """Read the last step of an environment.

    After a reset, these are the measurements before the first step, which cost nothing.
    """
    outcome, episode = simulator.outcomes[member], simulator.episodes[member]
    replica = replica_capacity(simulator.clusters[member], simulator.parameters[0])
    measured = set(Frame._fields) & set(outcome.dtype.names)
    return Frame(
        step=int(episode["step"]),
        clock=int(simulator.starts[episode["trace_row"]] + episode["step"]),
        capacity=float(outcome["replicas"] * replica),
        **{name: outcome[name].item() for name in measured},
    )


def clock_text(clock: int, step_seconds: float) -> str:
    """Format a time of day, from the second day on with the number of the day."""
    minutes = int(clock * step_seconds // 60.0)
    if minutes == _MINUTES_A_DAY:
        return "24:00"
    day, minute = divmod(minutes, _MINUTES_A_DAY)
    text = f"{minute // 60:02d}:{minute % 60:02d}"
    return f"day {day + 1}, {text}" if day else text


def latency_text(ms: float) -> str:
    """Format a latency with its unit, to three digits."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1000.0:.3g} s"


def facts(config: AutoScalerConfig, frames: Sequence[Frame]) -> dict[str, str]:
    """Summarise an episode as quantities and their values."""
    now = frames[-1]
    steps = [frame for frame in frames if frame.step > 0]
    broken = sum(frame.violation for frame in steps) / max(len(steps), 1)
    cost = sum(frame.cost_dollars for frame in steps)
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


def render_ansi(simulator: Simulator, history: Sequence[Frame]) -> str:
    """Draw the first environment as plain text, at most 98 columns wide.

    `history` is the steps of this episode so far, newest last.
    """
    config = simulator.config
    frames = list(history) or [current_frame(simulator)]
    texts = [f"{name} {value}" for name, value in facts(config, frames).items()]
    recent = frames[-CHARTED_ANSI:]
    demand, capacity = [f.demand for f in recent], [f.capacity for f in recent]
    latency = [math.log10(max(f.p99_latency_ms, 10.0) / 10.0) for f in recent]
    highest_rate = max(*demand, *capacity, 1.0)
    highest_latency = max(3.0, math.log10(config.sla_p99_ms / 10.0))
    lines = [
        _title(config, frames[-1]),
        " │ ".join(texts[:4]),
        " │ ".join(texts[4:]),
        "─" * COLUMNS,
        f"   demand {_bars(demand, highest_rate)}",
        f" capacity {_bars(capacity, highest_rate)}",
        f"      p99 {_bars(latency, highest_latency)}",
        f"   broken {''.join('x' if frame.violation else ' ' for frame in recent)}",
        f"{'':9} the last {len(recent)} steps, newest right; p99 from 10 ms to 10 s, logarithmic",
    ]
    return "\n".join(line.rstrip()[:COLUMNS] for line in lines) + "\n"


def _title(config: AutoScalerConfig, now: Frame) -> str:
    return f"Autoscaler: {now.step:,} of {config.episode_steps:,} steps"


def _bars(values: Sequence[float], highest: float) -> str:
    top = len(BARS) - 1
    return "".join(BARS[min(math.ceil(top * value / highest), top)] for value in values)


def render_rgb(simulator: Simulator, history: Sequence[Frame], member: int = 0) -> np.ndarray:
    """Draw one environment as an image, shape (640, 800, 3), uint8.

    `history` is the steps of its episode so far, newest last.
    """
    frames = list(history) or [current_frame(simulator, member)]
    canvas = Canvas(WIDTH, HEIGHT)
    _draw_header(canvas, simulator.config, frames)
    _draw_time_axis(canvas, simulator.config, frames[0])
    _draw_charts(canvas, simulator.config, frames)
    return canvas.pixels()


def _draw_header(canvas: Canvas, config: AutoScalerConfig, frames: Sequence[Frame]) -> None:
    now = frames[-1]
    canvas.text(20, 20, _title(config, now), INK, 18)
    places = (20, 114, 194, 344, 472, 548, 620, 780)
    for x, (name, value) in zip(places, facts(config, frames).items(), strict=True):
        anchor = "rm" if x == places[-1] else "lm"
        canvas.text(x, 46, name, GREY, 11, anchor)
        canvas.text(x, 64, value, RED if name == "p99" and now.violation else INK, 14, anchor)
    canvas.box(20, 80, 780, 83, LINE)
    if now.step > 0:
        canvas.box(20, 80, 20 + 760 * (now.step / config.episode_steps), 83, ACCENT)


def _draw_time_axis(canvas: Canvas, config: AutoScalerConfig, first: Frame) -> None:
    """Draw lines at round times through all charts, and the times below them."""
    start = first.clock - first.step
    per_minute = 60.0 / config.step_seconds
    minutes = config.episode_steps / per_minute
    spacing = next((m for m in _TICK_MINUTES if minutes / m <= 9), _TICK_MINUTES[-1])
    begin = math.ceil(start / per_minute / spacing)
    end = math.floor((start + config.episode_steps) / per_minute / spacing)
    for number in range(begin, end + 1):
        clock = number * spacing * per_minute
        x = _x(config, clock - start)
        for top, bottom in (RATES, LATENCIES, REPLICAS, COSTS):
            canvas.line([(x, top), (x, bottom)], LINE, 1)
        text = clock_text(math.ceil(clock), config.step_seconds)
        if spacing >= _MINUTES_A_DAY:
            text = f"day {number * spacing // _MINUTES_A_DAY + 1}"
        canvas.text(x, 620, text, GREY, 11, "mm")


def _draw_charts(canvas: Canvas, config: AutoScalerConfig, frames: Sequence[Frame]) -> None:
    spans = [(_x(config, frame.step - 1), _x(config, frame.step)) for frame in frames]
    demand, capacity = [f.demand for f in frames], [f.capacity for f in frames]
    ticks = charts.linear_ticks(max(demand + capacity), 4)
    rates = Panel(canvas, LEFT, RIGHT, *RATES, ticks, spans)
    legend = {"demand": ACCENT, "capacity": ROOM, "beyond capacity": RED}
    rates.axis("requests a second", legend, "{:,.6g}".format)
    rates.bars([(0.0, f.capacity, f.demand) for f in frames], ROOM, RED)
    rates.line(demand, ACCENT)

    sla = config.sla_p99_ms
    p50, p99 = [f.p50_latency_ms for f in frames], [f.p99_latency_ms for f in frames]
    ticks = charts.logarithmic_ticks(min(*p50, 20.0), max(*p99, sla, 2_000.0))
    latencies = Panel(canvas, LEFT, RIGHT, *LATENCIES, ticks, spans)
    promise = f"promised {latency_text(sla)}"
    legend = {"median": SLATE, "99th percentile": ACCENT, promise: RED}
    latencies.axis("latency of a step (logarithmic)", legend, latency_text)
    latencies.bars([(sla, latency) for latency in p99], PINK)
    latencies.level(sla, RED, 2)
    latencies.line(p50, SLATE)
    latencies.line(p99, ACCENT)

    counts = [(0, f.replicas, f.replicas + f.pending) for f in frames]
    ticks = charts.linear_ticks(max(total for _, _, total in counts), 3)
    replicas = Panel(canvas, LEFT, RIGHT, *REPLICAS, ticks, spans)
    replicas.axis("replicas", {"serving": SLATE, "starting up": AMBER}, "{:,.6g}".format)
    replicas.bars(counts, SLATE, AMBER)

    costs = np.cumsum([f.cost_dollars for f in frames]).tolist()
    total = Panel(canvas, LEFT, RIGHT, *COSTS, charts.linear_ticks(max(costs[-1], 1.0), 3), spans)
    total.axis("cost so far", {"dollars": SLATE}, "${:,.6g}".format)
    total.line(costs, SLATE, 4)


def _x(config: AutoScalerConfig, step: float) -> float:
    """Place the end of a step on the horizontal axis (px), which spans the whole episode."""
    return LEFT + (RIGHT - LEFT) * max(step, 0.0) / config.episode_steps
