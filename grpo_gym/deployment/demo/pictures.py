"""The picture of the demonstration: median, 99th percentile and errors over time.

Needs matplotlib, of the extra `compare`.
"""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from grpo_gym.deployment.demo.config import PHASES, TITLES, TrafficConfig
from grpo_gym.deployment.demo.load import Requests
from grpo_gym.deployment.demo.traffic import Runs

_BINS_PER_PHASE = 4
_COLOURS = ("#999999", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#000000")
"""Distinct for colour-blind readers (Okabe and Ito)."""
_ROWS = ("median, ms", "99th percentile, ms", "errors per s")


def draw(runs: Runs, config: TrafficConfig, file_format: str) -> bytes:
    """Draw all contenders: a column for each path, a line for each policy.

    Returns:
        The content of a file of this format.
    """
    figure = Figure(figsize=(6.4 * len(config.paths), 8.4), layout="constrained")
    panels = figure.subplots(3, len(config.paths), sharex=True, sharey="row", squeeze=False)
    for column, path in enumerate(config.paths):
        panels[0][column].set_title(TITLES[path])
        for number, policy in enumerate(config.policies):
            results = [each for who, each in runs.items() if who == (path, policy)]
            if results and results[0]:
                colour = _COLOURS[number % len(_COLOURS)]
                _draw_lines(panels[:, column], results[0], config, policy, colour)
    for row, name in enumerate(_ROWS):
        panels[row][0].set_ylabel(name)
        for panel in panels[row]:
            _finish(panel, config, row)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8, ncols=4)
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=125)
    return content.getvalue()


def _draw_lines(
    panels: Any, results: Sequence[Requests], config: TrafficConfig, policy: str, colour: str
) -> None:
    width_s = config.phase_seconds / _BINS_PER_PHASE
    edges = np.arange(len(PHASES) * _BINS_PER_PHASE + 1) * width_s
    due_s = np.concatenate([each.due_s for each in results])
    latency_ms = np.concatenate([each.latency_ms for each in results])
    ok = np.concatenate([each.ok for each in results])
    rows: list[list[float]] = [[], [], []]
    for begin_s, end_s in pairwise(edges):
        chosen = (due_s >= begin_s) & (due_s < end_s)
        good = latency_ms[chosen & ok]
        for row, share in ((0, 0.5), (1, 0.99)):
            rows[row].append(float(np.quantile(good, share)) if len(good) else float("nan"))
        rows[2].append(float((chosen & ~ok).sum()) / len(results) / width_s)
    middles = (edges[:-1] + edges[1:]) / 2.0
    for panel, values in zip(panels, rows, strict=True):
        panel.plot(middles, values, color=colour, label=policy, linewidth=1.5)


def _finish(panel: Any, config: TrafficConfig, row: int) -> None:
    if row < 2:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
    for number, phase in enumerate(PHASES):
        begin_s = number * config.phase_seconds
        if number % 2:
            panel.axvspan(begin_s, begin_s + config.phase_seconds, color="#f0f1f3", zorder=0)
        panel.text(
            begin_s + config.phase_seconds / 2.0, 0.99, phase, fontsize=8, ha="center", va="top",
            transform=panel.get_xaxis_transform(),
        )  # fmt: skip
    panel.set_xlim(0.0, config.seconds)
    panel.grid(color="#d9dce1", linewidth=0.6)
    if row == 2:
        panel.set_xlabel("s")
