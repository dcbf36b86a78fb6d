"""The tables of scripts/variants.py as Markdown, from the runs measured so far.

    python scripts/variants.py --report docs/variants.md

The conclusions are written by hand in variants_conclusions.md, next to the output, and appended.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from variants_presets import NOTHING, markdown_table, presets_table
from variants_protocol import (
    BASELINES,
    EPISODES,
    EVALUATION_SEED,
    GRADIENT_ITERATIONS,
    GROUP_SIZES,
    GROUPING_TASKS,
    GROUPINGS,
    PARTS,
    PRESET_TASKS,
    SEEDS,
    SIZE_TASKS,
    Task,
)

from grpo_gym.evaluation.statistics import bootstrap_interval, interquartile_mean
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.presets import PRESETS

PUBLISHED: dict[str, str] = {
    "Pendulum-v1": "RL-Zoo -172.2 (100k); CleanRL -1142 (8M)",
    "MountainCarContinuous-v0": "RL-Zoo 88.3 (20k)",
    "Acrobot-v1": "RL-Zoo -73.5 ± 18.2 (1M); CleanRL -86.4 ± 1.3 (500k)",
    "LunarLander-v3": "RL-Zoo 242.1 ± 31.8 (1M, LunarLander-v2)",
}
"""Published returns of PPO by environment, with the environment steps they took."""

_HEADER = f"""\
# Variants

*Generated: edit `scripts/variants_report.py` or `variants_conclusions.md`, not this file.*

Every variant is a set of settings for the same pipeline: `GRPO(..., preset=NAME)` or
`--preset NAME`. On this page, all of them train in the same environments, with the same seeds, for
the same number of environment steps. Settings that a preset leaves open (sizes, learning rate,
discount, ...) come from `configs/<environment>.yaml`, or else from `GRPOConfig`. They were tuned
with the advantages of `default`, which favours it; no other preset was tuned.

Each number is the interquartile mean (arXiv 2108.13264) over training seeds of the undiscounted
return after training. The return of a seed is the mean of {EPISODES} episodes with the most
probable actions, on seeds from {EVALUATION_SEED:,} that training never uses (settings were chosen
on the same episodes, with training seeds from 50). Brackets hold the 95 % bootstrap percentile
interval of the interquartile mean; with five seeds it is rough and somewhat too narrow. The number
of seeds measured so far follows. Bold marks the best result, whether or not the intervals overlap.
{NOTHING}: not measured yet.
"""

_PRESETS = """\
## What each preset sets

Bold marks the settings of the preset itself; all others are defaults.
"""


@dataclass(frozen=True)
class Cell:
    """The result of a variant's runs, as text for a table."""

    result: str
    """Interquartile mean, interval and number of seeds."""
    steps: str
    """Mean number of environment steps of a run."""


class Measurements:
    """All runs measured so far.

    Attributes:
        footnotes: Texts that the tables refer to, in the order of their numbers.
    """

    def __init__(self, results: Path) -> None:
        """Read variants_<part>.json from a folder; any of them may be missing or incomplete."""
        self.footnotes: list[str] = []
        self._runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for part in PARTS:
            path = results / f"variants_{part}.json"
            values = json.loads(path.read_text()) if path.exists() else {}
            for key, run in values.items():
                self._runs[part, key.rpartition("/seed ")[0]].append(run)

    def compare(self, part: str, variants: Iterable[str]) -> list[Cell]:
        """The cells of variants of a part, the best in bold."""
        runs = [self._runs[part, name] for name in variants]
        returns = [np.array([run["return"] for run in each if "return" in run]) for each in runs]
        scores = [float(interquartile_mean(each)) if len(each) else -math.inf for each in returns]
        cells = []
        for each, values, score in zip(runs, returns, scores, strict=True):
            if len(values):
                steps = np.mean([run["training_steps"] for run in each if "return" in run])
                result = _result(values, score, is_best=score == max(scores))
                cells.append(Cell(result, f"{steps:,.0f}"))
            else:
                cells.append(Cell(self._refused(each[0]["refused"]) if each else NOTHING, NOTHING))
        return cells

    def _refused(self, reason: str) -> str:
        text = " ".join(reason.split())
        if text not in self.footnotes:
            self.footnotes.append(text)
        return f"refused[^{self.footnotes.index(text) + 1}]"


def write_report(results: Path, out: Path) -> None:
    """Write every table, and the hand-written conclusions that lie next to the output.

    Args:
        results: Folder of variants_<part>.json; any of them may be missing or incomplete.
        out: The Markdown file to write.
    """
    measurements = Measurements(results)
    sections = [
        _HEADER,
        _PRESETS + "\n" + presets_table(),
        measured_presets(measurements),
        measured_groupings(measurements),
        measured_sizes(measurements),
        measured_baselines(measurements),
    ]
    conclusions = out.parent / "variants_conclusions.md"
    if conclusions.exists():
        sections.append(conclusions.read_text(encoding="utf-8").strip() + "\n")
    if measurements.footnotes:
        notes = enumerate(measurements.footnotes, 1)
        sections.append("".join(f"[^{number}]: {text}\n" for number, text in notes))
    write_atomic(out, "\n".join(sections).encode())


def measured_presets(measurements: Measurements) -> str:
    """All presets over three tasks."""
    names = ["preset"]
    rows = [[f"`{preset}`"] for preset in PRESETS]
    for task in PRESET_TASKS:
        names += [f"{task.name}, {task.steps:,} steps", "steps used"]
        cells = measurements.compare("presets", [f"{task.name}/{preset}" for preset in PRESETS])
        for row, cell in zip(rows, cells, strict=True):
            row += [cell.result, cell.steps]
    return (
        "## Presets\n\n"
        "Every run has the same budget of environment steps. It ends with the iteration that "
        "reaches this budget, so it uses more steps if episodes are long.\n\n"
        f"{markdown_table(names, rows)}\n{_command('presets')}"
    )


def measured_groupings(measurements: Measurements) -> str:
    """Groups with a shared reset, with branching, and of unrelated episodes."""
    names = ["task", "steps", *(f"`{name}`" for name in GROUPINGS), "published PPO (steps)"]
    rows = []
    for task in GROUPING_TASKS:
        cells = measurements.compare("branching", [f"{task.name}/{name}" for name in GROUPINGS])
        results = [cell.result for cell in cells]
        rows.append([task.name, f"{task.steps:,}", *results, PUBLISHED.get(task.env, NOTHING)])
    return (
        "## How a group starts\n\n"
        f"{_settings_list(GROUPINGS)}\n{markdown_table(names, rows)}\n"
        "Published figures: [CleanRL](https://docs.cleanrl.dev/rl-algorithms/ppo/) "
        "(sampled actions, during training) and "
        "[RL-Zoo](https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md) (tuned "
        "for each environment, most probable actions, ± over episodes). They are means over "
        "other evaluation episodes; LunarLander is an earlier version.\n\n" + _command("branching")
    )


def measured_sizes(measurements: Measurements) -> str:
    """Sizes of groups at equal environment steps and at equal gradient steps."""
    introduction = (
        "## Sizes of groups\n\n"
        "At equal environment steps, an iteration has the same number of members for every group "
        "size, so there are fewer groups if they are larger (at least one). At equal gradient "
        "steps, an iteration is one group, so larger groups use more environment steps.\n"
    )
    return "\n".join([introduction, *(_sizes_of(task, measurements) for task in SIZE_TASKS)])


def measured_baselines(measurements: Measurements) -> str:
    """The group mean, a critic, both, and the batch mean as baselines."""
    names = ["baseline", *(f"{task.name}, {task.steps:,} steps" for task in SIZE_TASKS)]
    columns = [
        measurements.compare("group_size", [f"{task.name}/baseline/{name}" for name in BASELINES])
        for task in SIZE_TASKS
    ]
    rows = [
        [name, *(cell.result for cell in cells)]
        for name, *cells in zip(BASELINES, *columns, strict=True)
    ]
    return (
        "## With a critic and without\n\n"
        f"{_settings_list(BASELINES)}\n{markdown_table(names, rows)}\n{_command('group_size')}"
    )


def _sizes_of(task: Task, measurements: Measurements) -> str:
    names, columns = ["size"], []
    for kind in ("equal environment steps", "equal gradient steps"):
        for grouping in ("shared", "unrelated"):
            names.append(f"{kind}: {grouping}")
            variants = [f"{task.name}/{kind}/{grouping}/{size}" for size in GROUP_SIZES]
            columns.append(measurements.compare("group_size", variants))
    names += [
        f"environment steps used at equal gradient steps: {grouping}"
        for grouping in ("shared", "unrelated")
    ]
    rows = [
        [str(size), *(cell.result for cell in cells), *(cell.steps for cell in cells[2:])]
        for size, *cells in zip(GROUP_SIZES, *columns, strict=True)
    ]
    config = task.settings().grpo
    return (
        f"**{task.name}**: {task.steps:,} environment steps in iterations of "
        f"{config.num_groups * config.group_size} members; {GRADIENT_ITERATIONS} "
        f"iterations of at most {config.epochs * config.num_minibatches} gradient steps.\n\n"
        f"{markdown_table(names, rows)}"
    )


def _result(returns: np.ndarray, score: float, is_best: bool) -> str:
    text = f"**{_number(score)}**" if is_best else _number(score)
    if len(returns) > 1:
        low, high = bootstrap_interval(returns, interquartile_mean, 10_000)
        text += f" [{_number(low)}, {_number(high)}]"
    return f"{text}, {len(returns)}/{max(len(returns), SEEDS)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000.0 else f"{value:.1f}"


def _settings_list(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["Changes to the task's settings:", ""]
    for name, changes in settings.items():
        shown = [f"`{setting}={value!r}`" for setting, value in changes.items()]
        lines.append(f"- `{name}`: {', '.join(shown) or 'none'}")
    return "\n".join([*lines, ""])


def _command(part: str) -> str:
    return f"`python scripts/variants.py --part {part}`, {SEEDS} seeds from 0.\n"
