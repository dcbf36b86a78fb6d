"""Draw the first seed's runs that scripts/deploy_sim.py measured.

    python scripts/deploy_sim_plot.py

It needs `pip install -e ".[compare]"`.
"""

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tyro
from deploy_sim import STRIP_STEPS
from deploy_sim_scenarios import SCENARIOS, STEPS_PER_HOUR

mpl.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

COLOURS = {"shadow": "#8c929c", "gradual": "#e0a12d", "full": "#0c8a5c"}
DEMAND, REPLICAS, MARK = "#465878", "#005cb8", "#cc1428"
_COLUMNS = 2
_LINE = 46
"""Characters of a reason in one line."""
_LONGEST_REASON = 130


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    results: Path = Path("docs/results/deploy_sim.json")
    """What scripts/deploy_sim.py wrote."""
    out: Path = Path("docs/deploy_sim.png")
    """The picture."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw two panels for each scenario that was measured."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    values = json.loads(options.results.read_text())
    runs = {name: values[f"{name}/seed 0"] for name in SCENARIOS if f"{name}/seed 0" in values}
    draw(runs).savefig(options.out, dpi=80)
    return 0


def draw(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The runs side by side, each with its share of blocks above its demand and replicas."""
    rows = -(-len(runs) // _COLUMNS)
    figure = Figure(figsize=(16.0, 3.7 * rows), layout="constrained")
    cells = figure.subfigures(rows, _COLUMNS, squeeze=False).ravel()
    for cell, (name, run) in zip(cells, runs.items(), strict=False):
        share, traffic = cell.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.3))
        draw_share(share, run)
        draw_traffic(traffic, run)
        share.set_title(f"{name}: {SCENARIOS[name].description}", loc="left", weight="bold")
    return figure


def draw_share(axes: Any, run: Mapping[str, Any]) -> None:
    """The mode as a colour, the percentage as a height, reasons at the main transitions."""
    hours = strip_hours(run)
    transitions = run["transitions: hour, mode, percentage, by, reason"]
    stages = [[0.0, "shadow", 0.0, "", ""], *transitions]
    ends = [*(stage[0] for stage in transitions), hours[-1]]
    for (start, mode, percentage, _, _), end in zip(stages, ends, strict=True):
        axes.fill_between([start, end], max(percentage, 4.0), color=COLOURS[mode], lw=0)
    for mode, colour in COLOURS.items():
        axes.fill_between([], [], color=colour, label=mode)
    for number, (start, mode, _, by, reason) in enumerate(transitions):
        if mode == "gradual" and by == "guard":
            continue  # the steps show themselves
        axes.axvline(start, color=MARK, lw=1.0)
        if mode != "full":
            late = start > 0.55 * hours[-1]
            axes.annotate(
                f"{start:.2f} h, {mode}: {shortened(reason)}",
                (start, 137.0 if number == 0 else 65.0),
                xytext=(-4 if late else 4, 0),
                textcoords="offset points",
                ha="right" if late else "left",
                va="center",
                fontsize=9,
                bbox={"boxstyle": "round", "fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.15},
            )
        else:
            axes.annotate(
                f"{start:.2f} h, full", (start, 112.0), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
    axes.set(ylim=(0.0, 150.0), yticks=(0, 50, 100), ylabel="policy's share (%)")
    axes.legend(loc="lower right", ncols=3, fontsize=8, framealpha=0.9)


def draw_traffic(axes: Any, run: Mapping[str, Any]) -> None:
    """Demand, and replicas on a scale of their own."""
    hours = strip_hours(run)
    axes.plot(hours, series(run, "demand"), color=DEMAND, lw=1.0)
    axes.set(ylim=(0.0, None), xlim=(0.0, hours[-1]), xlabel="hours since midnight")
    axes.set_ylabel("demand (requests/s)", color=DEMAND)
    axes.xaxis.set_major_locator(MultipleLocator(12.0))
    axes.grid(alpha=0.3)
    replicas = axes.twinx()
    replicas.plot(hours, series(run, "replicas"), color=REPLICAS, lw=1.0, drawstyle="steps-post")
    replicas.set_ylim(0.0, 105.0)
    replicas.set_ylabel("replicas", color=REPLICAS)


def series(run: Mapping[str, Any], name: str) -> np.ndarray:
    """A series of a run, shape (N,), float64."""
    return np.array(run[f"{name} every {STRIP_STEPS} minutes"].split(), np.float64)


def strip_hours(run: Mapping[str, Any]) -> np.ndarray:
    """When a run's series were measured, hours, shape (N,), float64."""
    return np.arange(len(series(run, "demand"))) * (STRIP_STEPS / STEPS_PER_HOUR)


def shortened(reason: str) -> str:
    """A reason in a few short lines."""
    return textwrap.fill(textwrap.shorten(reason, _LONGEST_REASON, placeholder=" ..."), _LINE)


if __name__ == "__main__":
    sys.exit(main())
