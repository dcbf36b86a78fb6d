"""Figures of a comparison: learning curves of a task, and final returns over several tasks.

Shapes: S runs of one algorithm, P points of a curve.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.plot_style import (
    LINE_COLOUR,
    MEDIUM,
    SMALL,
    WIDTH,
    add_caption,
    add_title,
    as_png,
    colour_of,
    plain_numbers,
    short_number,
    tidy,
)
from grpo_gym.trainers.comparison.records import Axis, TrainingResult
from grpo_gym.trainers.comparison.task_results import RANDOM, TaskResults
from grpo_gym.trainers.named_policies import privileged_names

_POINTS = 101
_BEST_BASELINES = 3
_LOG_FROM = 5.0
"""Ratio of the slowest to the fastest algorithm above which seconds are on a logarithmic axis."""
_SETTLED = 0.2
"""Fraction of training whose returns do not affect the vertical axis."""
_LABEL_WIDTH = 0.0084
"""Width of a letter, relative to the figure's."""
_ROW_GAP = 0.75
"""Inches between two rows of the overview."""
_LABEL_GAP = 0.052
"""Minimum distance of two labels, relative to the axis."""


def draw_task(results: TaskResults, threshold: float | None) -> bytes:
    """Learning curves by environment steps and by seconds; a PNG file, 1600 pixels wide.

    The threshold is a line of its own, if there is one.
    """
    figure = Figure(figsize=(WIDTH, 6.0))
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.075, right=0.83, bottom=0.19, top=0.79, wspace=0.06)
    seconds = [np.median([run.cpu_seconds for run in runs]) for runs in results.trainings.values()]
    log_seconds = bool(max(seconds) > _LOG_FROM * min(seconds) > 0.0)
    levels = shown_baselines(results)
    if threshold is not None:
        levels["threshold"] = threshold
    low, high = vertical_limits(results, levels)
    by_steps.set_ylim(low, high)
    axis: Axis
    for axes, axis, log in ((by_steps, "steps", False), (by_seconds, "cpu_seconds", log_seconds)):
        for algorithm, runs in results.trainings.items():
            _draw_curve(axes, algorithm, runs, axis, log)
        for name, level in levels.items():
            if level >= low:
                style = ":" if name == "threshold" else "--"
                axes.axhline(level, color=LINE_COLOUR, linestyle=style, linewidth=1.1, zorder=1)
        tidy(axes)
    _label_levels(by_seconds, levels)
    by_steps.set_xlabel("environment steps", fontsize=MEDIUM)
    by_steps.set_xlim(left=0.0)
    by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
    label = "seconds of training on one core"
    if log_seconds:
        by_seconds.set_xscale("log")
        by_seconds.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        by_seconds.xaxis.set_major_formatter("{x:g}")
        by_seconds.xaxis.set_minor_formatter(NullFormatter())
        label += " (logarithmic)"
    else:
        by_seconds.set_xlim(left=0.0)
    by_seconds.set_xlabel(label, fontsize=MEDIUM)
    by_steps.set_ylabel("mean return of an episode", fontsize=MEDIUM)
    plain_numbers(by_steps.yaxis, (low, high))
    add_title(figure, f"{results.name}: return while training", list(results.trainings), 6.0)
    add_caption(figure, _curve_caption(results))
    return as_png(figure)


def draw_overview(tasks: Sequence[TaskResults]) -> bytes:
    """Final returns of every algorithm, one row per task; a PNG file, 1600 pixels wide."""
    algorithms = list(dict.fromkeys(name for results in tasks for name in results.trainings))
    inches = [0.35 + 0.32 * len(results.trainings) for results in tasks]
    height = 2.9 + sum(inches) + _ROW_GAP * (len(tasks) - 1)
    figure = Figure(figsize=(WIDTH, height))
    rows = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=inches)[:, 0]
    labels = [_row_label(results) for results in tasks]
    figure.subplots_adjust(
        left=_LABEL_WIDTH * max(len(line) for name in labels for line in name.split("\n")) + 0.025,
        right=0.96,
        bottom=1.5 / height,
        top=1.0 - 1.4 / height,
        hspace=_ROW_GAP * len(tasks) / sum(inches),
    )
    for axes, results in zip(rows, tasks, strict=True):
        _draw_row(axes, results, algorithms)
    rows[-1].set_xlabel(
        "interquartile mean of the return after training (further right is better)",
        fontsize=MEDIUM,
        labelpad=10,
    )
    add_title(figure, "Return after training", algorithms, height)
    add_caption(
        figure,
        "Point: interquartile mean over training seeds; bar: its 95 % stratified bootstrap "
        "interval; dotted: the best baseline.\nEach row has a scale of its own.",
    )
    return as_png(figure)


def shown_baselines(results: TaskResults) -> dict[str, float]:
    """Mean returns of the best baselines that see what policies see, best first, and of random."""
    privileged = privileged_names(results.task.env)
    means = {name: final.mean_return for name, final in results.baselines.items()}
    fair = [name for name in means if name not in privileged and name != RANDOM]
    best = sorted(fair, key=lambda name: -means[name])
    names = best[:_BEST_BASELINES] + ([RANDOM] if RANDOM in means else [])
    return {name: means[name] for name in names}


def vertical_limits(results: TaskResults, levels: Mapping[str, float]) -> tuple[float, float]:
    """Limits that show where algorithms differ, not how badly they began.

    They include all returns after the first fifth of training, and the levels not far below them.
    """
    counted = []
    for run in results.all_trainings:
        steps = run.times("steps")
        counted += [*run.curve_returns[steps >= _SETTLED * steps[-1]], run.final.mean_return]
    span = max(counted) - min(counted) or abs(counted[0]) or 1.0
    counted += [level for level in levels.values() if level >= min(counted) - 0.5 * span]
    low, high = min(counted), max(counted)
    span = high - low or span
    return low - 0.05 * span, high + 0.05 * span


def band(runs: Sequence[TrainingResult], axis: Axis, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Interquartile mean of the runs' curves on a grid, and its interval's ends, (P,) each."""
    curves = [np.interp(grid, run.times(axis), run.curve_returns) for run in runs]
    return statistics.interquartile_band(np.array(curves))


def common_grid(runs: Sequence[TrainingResult], axis: Axis, log: bool) -> np.ndarray:
    """Points within reach of all runs, shape (P,); on a logarithmic axis they exclude 0."""
    last = min(run.times(axis)[-1] for run in runs)
    if not log:
        return np.linspace(0.0, last, _POINTS)
    first = min(times[times > 0.0].min() for times in (run.times(axis) for run in runs))
    return np.geomspace(min(first, last), last, _POINTS)


def _draw_curve(
    axes: Axes, algorithm: str, runs: Sequence[TrainingResult], axis: Axis, log: bool
) -> None:
    grid = common_grid(runs, axis, log)
    middle, low, high = band(runs, axis, grid)
    colour = colour_of(algorithm)
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0.0)
    axes.plot(grid, middle, color=colour, linewidth=2.4, zorder=3)
    axes.plot(grid[-1], middle[-1], "o", color=colour, markersize=7, zorder=4, clip_on=False)


def _label_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Name the horizontal lines in the right margin, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    shown = {name: (level - low) / (high - low) for name, level in levels.items() if level >= low}
    style: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "axes fraction",
        "fontsize": SMALL,
        "color": LINE_COLOUR,
        "annotation_clip": False,
    }
    line = {"arrowstyle": "-", "color": LINE_COLOUR, "lw": 0.8}
    for name, place in spread(shown, _LABEL_GAP).items():
        axes.annotate(
            name, (1.0, shown[name]), (1.035, place), va="center", arrowprops=line, **style
        )
    below = [f"{name}: {short_number(level)}" for name, level in levels.items() if level < low]
    if below:
        text = "\n".join(["below:", *below])
        axes.annotate(text, (1.0, 0.0), (1.035, -0.02), va="top", **style)


def spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights for labels in [0, 1], close to those wanted but at least a gap apart."""
    places: dict[str, float] = {}
    lowest = 0.0
    for name in sorted(heights, key=lambda name: heights[name]):
        places[name] = max(heights[name], lowest)
        lowest = places[name] + gap
    highest = 1.0
    for name in reversed(places):
        places[name] = min(places[name], highest)
        highest = places[name] - gap
    return places


def _draw_row(axes: Axes, results: TaskResults, algorithms: Sequence[str]) -> None:
    """Final returns of one task."""
    present = [name for name in algorithms if name in results.trainings]
    for row, algorithm in enumerate(present):
        estimate = results.final_iqms[algorithm]
        colour = colour_of(algorithm)
        if estimate.has_interval:
            style: dict[str, Any] = {"linewidth": 7, "alpha": 0.35, "solid_capstyle": "butt"}
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, **style)
        axes.plot(estimate.value, row, "o", color=colour, markersize=9)
    best, level = next(iter(shown_baselines(results).items()), (RANDOM, 0.0))
    if best != RANDOM:
        axes.axvline(level, color=LINE_COLOUR, linestyle=":", linewidth=1.5)
        axes.annotate(
            best, (level, 1.0), xytext=(0, 3), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", fontsize=SMALL, color=LINE_COLOUR,
        )  # fmt: skip
    axes.set_ylim(len(present) - 0.4, -0.6)
    axes.set_yticks([])
    axes.margins(x=0.08)
    low, high = axes.dataLim.intervalx
    if low == high:  # all alike, perhaps the best there is: no room for what cannot be
        axes.set_xlim(high - 0.1 * (abs(high) or 1.0), high + 0.005 * (abs(high) or 1.0))
    axes.set_ylabel(
        _row_label(results), rotation=0, ha="right", va="center",
        fontsize=MEDIUM, labelpad=12,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(7))
    plain_numbers(axes.xaxis, axes.get_xlim())
    tidy(axes)


def _row_label(results: TaskResults) -> str:
    return results.name.replace(" ", "\n", 1)


def _curve_caption(results: TaskResults) -> str:
    counts = sorted({len(runs) for runs in results.trainings.values()})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    episodes = results.task.curve_episodes
    return (
        f"Line: interquartile mean over {seeds} training seeds; band: its 95 % stratified "
        f"bootstrap interval.\nEach point is played on the same {episodes:,} episodes, which no "
        "training has seen. Dashed: baselines."
    )
