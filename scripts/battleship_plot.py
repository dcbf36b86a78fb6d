"""Draw the learning curves that scripts/battleship.py and scripts/maskable_ppo.py measured.

    python scripts/battleship_plot.py

It needs `pip install -e ".[compare]"`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tyro
from rich.console import Console

mpl.use("Agg")
import matplotlib.pyplot as plt

OURS, PPO, DENSITY = "tab:blue", "tab:orange", "tab:green"
Runs = list[list[list[float]]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    results: Path = Path("docs/results")
    """Folder of the JSON files."""
    out: Path = Path("docs/battleship_curves.png")
    """The picture."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw three panels."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    draw_published(axes[0], read(options, "battleship_published"))
    ppo = read(options, "maskable_ppo_microgrpo")
    draw_small(axes[1], ppo)
    draw_classic(
        axes[2],
        read(options, "battleship_classic"),
        read(options, "battleship_density"),
        read(options, "maskable_ppo_classic"),
    )
    figure.savefig(options.out, dpi=100)
    return 0


def read(options: Options, name: str) -> dict[str, Any]:
    """The results of a part; none, and a word about it, where it has not been measured."""
    path = options.results / f"{name}.json"
    if not path.exists():
        script, _, part = name.rpartition("_")
        flag = "--part" if script == "battleship" else "--board"
        Console(stderr=True, highlight=False).print(
            f"{path} is missing and left out: python scripts/{script}.py {flag} {part}"
        )
        return {}
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def curves(results: dict[str, Any], name: str, key: str = "curve") -> Runs:
    """The curves of all seeds of a setting."""
    return [run[key] for label, run in results.items() if label.startswith(f"{name}/")]


def draw_published(axes: Any, results: dict[str, Any]) -> None:
    """The published program's settings, by iteration: sampled score, mean and extremes."""
    for name, colour in (("LOOP", OURS), ("Magistral", PPO)):
        runs = np.array(curves(results, name, "curve: iteration, sampled score, exact score"))
        iterations, scores = runs[0, :, 0], runs[:, :, 1]
        axes.plot(iterations, scores.mean(axis=0), color=colour, label=f"{name}, sampled shots")
        axes.fill_between(
            iterations, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.25, lw=0
        )
    axes.plot([0, 2000], [0.15, 0.50], "kx", label="published: first and last")
    finish(axes, "microGRPO's settings (5 seeds: mean, extremes)", "iterations", "score")


def draw_small(axes: Any, results: dict[str, Any]) -> None:
    """Exact score on 5 x 5, by seconds of training."""
    draw_runs(axes, curves(results, "GRPO, equal minutes"), 0, OURS, "GRPO")
    draw_runs(axes, curves(results, "MaskablePPO, equal minutes"), 0, PPO, "MaskablePPO")
    axes.axhline(0.7160, color="grey", ls="--", label="exact posterior, greedy")
    axes.axhline(0.50, color="black", ls=":", label="published")
    axes.set_xscale("log")
    axes.set_xlim(left=8)
    finish(axes, "microgrpo-5x5, all boards (5 seeds)", "seconds of training, one core", "score")


def draw_classic(
    axes: Any, ours: dict[str, Any], density: dict[str, Any], ppo: dict[str, Any]
) -> None:
    """Mean shots on 10 x 10, by environment steps."""
    draw_runs(axes, curves(ours, "classic"), 1, OURS, "GRPO, raw images (3 seeds)")
    draw_runs(axes, curves(density, "density"), 1, DENSITY, "GRPO, with density (3 seeds)")
    # Return there is minus the number of shots.
    shots = [
        [[seconds, steps, -mean] for seconds, steps, mean in run]
        for run in curves(ppo, "MaskablePPO, equal steps")
    ]
    draw_runs(axes, shots, 1, PPO, "MaskablePPO, raw images (5 seeds)")
    axes.axhline(54.12, color="grey", ls=":", label="hunt_target_sunk")
    axes.axhline(44.75, color="grey", ls="--", label="probability_density")
    axes.set_xscale("log")
    axes.set_xlim(left=3e4)
    axes.set_ylim(42, 80)
    finish(axes, "classic-10x10, 1,000 games a point", "environment steps", "mean shots")


def draw_runs(axes: Any, runs: Runs, column: int, colour: str, label: str) -> None:
    """One thin line for each seed."""
    for number, run in enumerate(runs):
        points = np.array(run)
        points = points[points[:, column] > 0]
        axes.plot(
            points[:, column],
            points[:, 2],
            color=colour,
            lw=1.2,
            alpha=0.8,
            label=label if number == 0 else None,
        )


def finish(axes: Any, title: str, x_label: str, y_label: str) -> None:
    """Titles, a grid and a legend."""
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


if __name__ == "__main__":
    sys.exit(main())
