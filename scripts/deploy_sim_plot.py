"""The figure of scripts/deploy_sim.py: the first seed's runs."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from deploy_sim_scenarios import SCENARIOS, STEPS_PER_HOUR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP_STEPS = 10
"""Steps between the values of demand and replicas that results keep."""
STRIP_KEY = f"{{}} every {STRIP_STEPS} minutes"
"""Key of these values in the results, by the name of the series."""
COLOURS = {"shadow": "#8c929c", "gradual": "#e0a12d", "full": "#0c8a5c"}
_LETTERS, _LONGEST_LINE = 95, 62
"""How many letters fit into a panel's width, and into a line of a reason."""
DEMAND, REPLICAS, MARK = "#465878", "#005cb8", "#cc1428"


def draw(runs: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draw two panels per scenario: the policy's share of the blocks, then demand and replicas."""
    from matplotlib.figure import Figure

    rows = -(-len(runs) // 2)
    figure = Figure(figsize=(16.0, 3.7 * rows), layout="constrained")
    cells = figure.subfigures(rows, 2, squeeze=False).ravel()
    for cell, (name, run) in zip(cells, runs.items(), strict=False):
        share, traffic = cell.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.3))
        hours = np.arange(len(_series(run, "demand"))) * (STRIP_STEPS / STEPS_PER_HOUR)
        draw_share(share, run, float(hours[-1]))
        draw_traffic(traffic, run, hours)
        share.set_title(f"{name}: {SCENARIOS[name].description}", loc="left", weight="bold")
    return figure


def draw_share(axes: Any, run: Mapping[str, Any], last_hour: float) -> None:
    """Draw the mode as a colour, the percentage as a height, reasons at the main transitions."""
    transitions = run["transitions: hour, mode, percentage, by, reason"]
    stages = [[0.0, "shadow", 0.0, "", ""], *transitions]
    ends = [*(stage[0] for stage in transitions), last_hour]
    for (start, mode, percentage, _, _), end in zip(stages, ends, strict=True):
        axes.fill_between([start, end], max(percentage, 4.0), color=COLOURS[mode], lw=0)
    for mode, colour in COLOURS.items():
        axes.fill_between([], [], color=colour, label=mode)
    for number, (start, mode, _, by, reason) in enumerate(transitions):
        if mode == "gradual" and by == "guard":
            continue  # the height shows these steps
        axes.axvline(start, color=MARK, lw=1.0)
        text, height, box = f"{start:.2f} h, full", 112.0, None
        if mode != "full":
            brief = textwrap.shorten(reason, 130, placeholder=" ...")
            # To the right of the line, where the bars have ended, and as wide as there is room.
            width = min(int(_LETTERS * (1.0 - start / last_hour)), _LONGEST_LINE)
            text = textwrap.fill(f"{start:.2f} h, {mode}: {brief}", max(width, 10))
            height = 137.0 if number == 0 else 59.0
            box = {"boxstyle": "round", "fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.15}
        axes.annotate(
            text,
            (start, height),
            xytext=(4, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=8.5,
            bbox=box,
        )
    axes.set(ylim=(0.0, 150.0), yticks=(0, 50, 100), ylabel="policy's share (%)")
    axes.legend(loc="upper right", ncols=3, fontsize=8, framealpha=0.9)


def draw_traffic(axes: Any, run: Mapping[str, Any], hours: np.ndarray) -> None:
    """Draw demand, and replicas on a scale of their own."""
    axes.plot(hours, _series(run, "demand"), color=DEMAND, lw=1.0)
    axes.set(ylim=(0.0, None), xlim=(0.0, hours[-1]), xlabel="hours since midnight")
    axes.set_ylabel("demand (requests/s)", color=DEMAND)
    axes.set_xticks(np.arange(0.0, hours[-1] + 1e-9, 12.0))
    axes.grid(alpha=0.3)
    replicas = axes.twinx()
    replicas.plot(hours, _series(run, "replicas"), color=REPLICAS, lw=1.0, drawstyle="steps-post")
    replicas.set_ylim(0.0, 105.0)
    replicas.set_ylabel("replicas", color=REPLICAS)


def _series(run: Mapping[str, Any], name: str) -> np.ndarray:
    return np.array(run[STRIP_KEY.format(name)].split(), np.float64)
