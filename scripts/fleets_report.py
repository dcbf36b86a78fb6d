"""Tables and pictures of what scripts/fleets.py has measured.

python scripts/fleets_report.py                              # tables on standard output
python scripts/fleets_report.py --figure docs/images/fleets.png     # needs matplotlib
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from fleets import FAULT, KINDS

from grpo_gym.evaluation.statistics import bootstrap_interval
from grpo_gym.trainers.comparison.wording import markdown_table

Fleet = dict[str, Any]
COLOURS = {
    "sizes and weights": "#0072B2",
    "weights": "#009E73",
    "sizes": "#56B4E9",
    "neither": "#999999",
}
NAMES = {
    "pretrained:router": ("pretrained:router", "#0072B2"),
    "shortest_expected_delay": ("shortest expected delay", "#D55E00"),
    "least_connections": ("least connections", "#E69F00"),
    "c3": ("C3", "#CC79A7"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    results: Path = Path("docs/results")
    """Folder of the JSON files."""
    figure: Path | None = None
    """Draw the cost ratios, and the way through a fault, to this file."""


def main() -> None:
    """Print tables of what there is, and draw."""
    options = tyro.cli(Options, description=__doc__)
    unseen = read(options.results / "fleets_unseen.json")
    print("## Unseen fleets\n\n" + summary(unseen))
    for title, label in (
        ("By number of servers", lambda fleet: band(fleet["servers"], (2, 4, 8, 16, 25))),
        ("By utilisation", lambda fleet: band(fleet["utilisation"], (0.4, 0.55, 0.7, 0.86))),
        ("By law of sizes", lambda fleet: fleet["size_distribution"]),
        ("By law of arrivals", lambda fleet: fleet["arrival_process"]),
    ):
        print(f"\n## {title}\n\n" + breakdown(unseen, label))
    print("\n## The best heuristics\n\n" + winners(unseen))
    for part in ("large", "balancers", "workers", "traces"):
        print(
            f"\n## {part.capitalize()}\n\n" + summary(read(options.results / f"fleets_{part}.json"))
        )
    if options.figure is not None:
        draw(
            unseen, json.loads((options.results / "fleets_fault.json").read_text()), options.figure
        )


def read(path: Path) -> dict[str, list[Fleet]]:
    """Fleets by what the balancer knows, and by everything in their keys but their number."""
    groups: dict[str, list[Fleet]] = defaultdict(list)
    fleets = json.loads(path.read_text()) if path.exists() else {}
    for kind in KINDS:
        for key, fleet in fleets.items():
            name = ", ".join(filter(None, [key.rpartition("/")[0], kind]))
            known = "with weights" if KINDS[kind]["observe_weights"] else "without"
            heuristics = fleet["heuristics"][known]
            groups[name].append({**fleet, **fleet[kind], "heuristics": heuristics})
    return groups


def summary(groups: dict[str, list[Fleet]]) -> str:
    """Cost ratios of each group of fleets, and on how many the policy is better."""
    header = [
        "fleets",
        "number",
        "cost ratio",
        "95 %",
        "worst",
        "better",
        "significantly better",
        "significantly worse",
    ]
    rows = []
    for name, fleets in groups.items():
        logs = np.log([fleet["ratio"] for fleet in fleets])
        low, high = np.exp(bootstrap_interval(logs))
        sure = [fleet["saved"] / max(fleet["saved_sem"], 1e-12) for fleet in fleets]
        rows.append(
            [
                name,
                str(len(fleets)),
                f"{np.exp(logs.mean()):.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{np.exp(logs.max()):.3f}",
                str(sum(logs < 0.0)),
                str(sum(each > 1.96 for each in sure)),
                str(sum(each < -1.96 for each in sure)),
            ]
        )
    return markdown_table(header, rows)


def breakdown(groups: dict[str, list[Fleet]], label: Callable[[Fleet], str]) -> str:
    """Cost ratios by a property of fleets."""
    labels = sorted({label(fleet) for fleets in groups.values() for fleet in fleets})
    rows = []
    for each in labels:
        cells = [[fleet for fleet in fleets if label(fleet) == each] for fleets in groups.values()]
        rows.append([each, str(max(map(len, cells))), *map(mean_ratio, cells)])
    return markdown_table(["", "fleets", *groups], rows)


def mean_ratio(fleets: Iterable[Fleet]) -> str:
    """Geometric mean of cost ratios."""
    ratios = [fleet["ratio"] for fleet in fleets]
    return f"{np.exp(np.log(ratios).mean()):.3f}" if ratios else "-"


def band(value: float, edges: tuple[float, ...]) -> str:
    """The range that a value lies in."""
    upper = next(index for index, edge in enumerate(edges) if value < edge)
    if isinstance(value, int):
        return f"{edges[upper - 1]:2} to {edges[upper] - 1}"
    return f"{edges[upper - 1]:.2f} to {edges[upper]:.2f}"


def winners(groups: dict[str, list[Fleet]]) -> str:
    """How often each heuristic is the best one, and its mean cost over the policy's."""
    names = next(iter(groups.values()))[0]["heuristics"]
    rows = []
    for name in names:
        cells = []
        for fleets in groups.values():
            best = sum(fleet["best"] == name for fleet in fleets)
            logs = [np.log(fleet["heuristics"][name] / fleet["policy"]) for fleet in fleets]
            cells.append(f"{best} ({np.exp(np.mean(logs)):.2f})")
        rows.append([name, *cells])
    return markdown_table(["heuristic", *groups], rows)


def draw(unseen: dict[str, list[Fleet]], fault: dict[str, Any], path: Path) -> None:
    """Cost ratios of all fleets in order, and a fault of the fastest server."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (ratios, shares, times) = pyplot.subplots(1, 3, figsize=(13, 4))
    for kind in KINDS:
        values = sorted(fleet["ratio"] for fleet in unseen.get(kind, []))
        ratios.plot(range(1, len(values) + 1), values, color=COLOURS[kind], label=kind)
    ratios.axhline(1.0, color="black", linewidth=0.8)
    ratios.set_title("Cost on unseen fleets")
    ratios.set_xlabel("fleet, best first")
    ratios.set_ylabel("cost / cost of the best heuristic")
    ratios.legend(title="the balancer knows")
    for policy, (name, colour) in NAMES.items():
        for axis, curve in ((shares, "share"), (times, "response_ms")):
            axis.plot(smooth(fault[policy][curve]), color=colour, label=name)
    for axis, title, unit in (
        (shares, "Share of the fastest server", "share of requests"),
        (times, "Mean response time", "ms"),
    ):
        axis.axvspan(*FAULT[1:], color="black", alpha=0.08, label="it is slow")
        axis.set_title(title)
        axis.set_xlabel("request")
        axis.set_ylabel(unit)
    figure.tight_layout(rect=(0.0, 0.07, 1.0, 1.0))
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def smooth(values: list[float], width: int = 5) -> np.ndarray:
    """Means over consecutive values."""
    return np.convolve(values, np.full(width, 1.0 / width), mode="valid")


if __name__ == "__main__":
    main()
