"""Draw what `scripts/autoscaling.py` measured: violations against cost, one panel for each task.

    python scripts/autoscaling_plot.py

It needs `pip install -e ".[compare]"` and leaves out tasks that have not been measured.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PANELS = {
    "dollars": "diurnal-target: a calm day",
    "bursty": "bursty: eight bursts a day",
    "flash-crowd": "flash-crowd: demand multiplies",
}
MOST_VIOLATIONS = 25.0
"""Upper limit of the picture, in %: with a target of 95 % an autoscaler cannot scale up."""
COST, VIOLATIONS = "cost $/day", "violations %"
OTHERS = {
    "seasonal_naive": ("Seasonal naive", "v"),
    "holt_winters": ("Holt-Winters", "s"),
    "clairvoyant": ("Clairvoyant: knows demand", "*"),
}
SWEEPS = {
    "own terms": ("#0072B2", "Kubernetes' HPA, targets in %"),
    "policy's actions": ("#56B4E9", "The same by the policy's actions"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    results: Path = Path("docs/results")
    """Folder of the JSON files."""
    out: Path = Path("docs/autoscaling.png")
    """The picture."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the tasks that have been measured."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    paths = {part: options.results / f"autoscaling_{part}.json" for part in PANELS}
    found = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}
    if not found:
        sys.exit(
            f"error: {options.results} must hold autoscaling_<part>.json: measure a part first"
        )
    figure, axes = plt.subplots(1, len(found), figsize=(5.3 * len(found), 5.2), squeeze=False)
    for axis, (part, results) in zip(axes[0], found.items(), strict=True):
        draw(axis, PANELS[part], results)
    axes[0, 0].set_ylabel("Minutes with a 99th percentile above 200 ms, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    title = "AutoScaler-v0: fewer broken latency promises for less money is down and left\n"
    figure.suptitle(title, fontsize=13)
    subtitle = "Means of 1,000 unseen days; bars: 95 % intervals, where they exceed the mark"
    figure.text(0.5, 0.91, subtitle, ha="center", fontsize=9.5, color="#444444")
    figure.tight_layout(rect=(0.0, 0.12, 1.0, 0.98))
    figure.savefig(options.out, dpi=130)


def draw(axis: Axes, title: str, results: dict[str, Any]) -> None:
    """Draw one task: the sweep of HPA, other heuristics, and the trained policies."""
    for terms, (colour, label) in SWEEPS.items():
        sweep = {k.split()[-1]: point(v) for k, v in results[terms].items() if k[:4] == "hpa "}
        sweep = {percent: at for percent, at in sweep.items() if at[1] < MOST_VIOLATIONS}
        points = list(sweep.values())
        axis.plot(*zip(*points, strict=True), "o-", color=colour, ms=4, lw=1.2, label=label)
        if terms == "own terms":
            for percent, at in sweep.items():
                axis.annotate(percent, at, (4, 4), textcoords="offset points", fontsize=8)
    for name, (label, mark) in OTHERS.items():
        at = point(results["own terms"][name])
        axis.plot(*at, mark, color="#666666", ms=8, label=label, ls="none")
    trained = [value for key, value in results.items() if key.startswith("trained/")]
    for seed, each in enumerate(trained):
        cost, violations = point(each)
        axis.errorbar(
            cost, violations, errors(each, VIOLATIONS), errors(each, COST),
            fmt="D", color="#D55E00", ms=4, alpha=0.8, capsize=2,
            label="GRPO, one mark a seed" if seed == 0 else None,
        )  # fmt: skip
    axis.set(title=title, xlabel="Cost, $ a day", yscale="log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.grid(alpha=0.25, which="both")


def point(measures: dict[str, Any]) -> tuple[float, float]:
    """Coordinates of a mark."""
    return measures[COST]["mean"], measures[VIOLATIONS]["mean"]


def errors(measures: dict[str, Any], name: str) -> list[list[float]]:
    """Distances from the mean to the ends of its interval."""
    mean, (low, high) = measures[name]["mean"], measures[name]["ci95"]
    return [[mean - low], [high - mean]]


if __name__ == "__main__":
    main()
