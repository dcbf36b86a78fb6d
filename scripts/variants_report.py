"""The tables of scripts/variants.py as Markdown, from whatever has been measured so far.

    python scripts/variants.py --report docs/variants.md

The conclusions are written by hand, in variants_conclusions.md beside the output; they are
appended, so that they survive the next report.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from variants import (
    ACROBOT,
    BASELINES,
    BRANCHING_TASKS,
    CARTPOLE,
    EVALUATION_SEED,
    GRADIENT_ITERATIONS,
    GROUP_SIZES,
    GROUPINGS,
    PRESET_TASKS,
    Options,
    Task,
)
from variants_presets import NOTHING, markdown_table, presets_table

from grpo_gym.evaluation.statistics import bootstrap_interval, interquartile_mean
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.presets import PRESETS

SEEDS = Options().seeds
_RESAMPLES = 10_000

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

Every variant is a set of settings of one pipeline, `GRPO(..., preset=NAME)` or `--preset NAME`.
Here they train in the same environments, from the same seeds, for the same number of environment
steps. What a preset leaves open (sizes, learning rate, discount, ...) stays as
`configs/<environment>.yaml` has it, or else as `GRPOConfig` has it. Those settings were found with
the advantages of `default`, which is at home in them; no other preset was tuned.

A number is the interquartile mean (arXiv 2108.13264) over training seeds of the undiscounted
return at the end of training, each the mean of {Options().episodes:,} episodes with the most
probable actions, on seeds from {EVALUATION_SEED:,} that no training has seen (settings were chosen
by the same episodes, with training seeds from 50). In brackets: 95 % bootstrap percentile interval
of the interquartile mean over seeds; of five seeds it is rough and rather too narrow. Then the
seeds measured so far. Bold: the best, whether or not the intervals overlap. {NOTHING}: not measured
yet.
"""

_PRESETS = """\
## What each preset sets

Bold is what the preset itself sets, the rest is the default's.
"""


@dataclass
class Footnotes:
    """Notes of a page, each numbered once however often it is referred to."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The reference to a note."""
        text = " ".join(text.split())
        if text not in self.texts:
            self.texts.append(text)
        return f"[^{self.texts.index(text) + 1}]"

    def __str__(self) -> str:
        return "".join(f"[^{number}]: {text}\n" for number, text in enumerate(self.texts, 1))


@dataclass(frozen=True)
class Setting:
    """What was measured of one setting, a run for each seed.

    Attributes:
        returns: Mean return of each run, shape (S,), float64.
        steps: Environment steps that each run used, shape (S,), float64.
        refused: Why the environment refused the setting; None if it did not.
    """

    returns: np.ndarray
    steps: np.ndarray
    refused: str | None

    @property
    def score(self) -> float:
        """What settings are compared by; -inf without a run."""
        return float(interquartile_mean(self.returns)) if len(self.returns) else -math.inf

    @property
    def steps_used(self) -> str:
        """Mean number of environment steps of a run, as the tables show it."""
        return f"{self.steps.mean():,.0f}" if len(self.steps) else NOTHING

    def show(self, footnotes: Footnotes, best: float = math.inf) -> str:
        """The cell of a table; bold where the score is the best."""
        if len(self.returns) == 0:
            return NOTHING if self.refused is None else f"refused{footnotes.mark(self.refused)}"
        score = number(self.score)
        value = f"**{score}**" if self.score == best else score
        if len(self.returns) > 1:
            low, high = bootstrap_interval(self.returns, interquartile_mean, _RESAMPLES)
            value += f" [{number(low)}, {number(high)}]"
        seeds = f"{len(self.returns)}/{max(len(self.returns), SEEDS)}"
        return f"{value}, {seeds}"


def write_report(results: Path, out: Path) -> None:
    """Write every table, with the hand-written conclusions that lie beside the output.

    Args:
        results: Folder of variants_<part>.json; any of them may be missing or incomplete.
        out: The Markdown file to write.
    """
    footnotes = Footnotes()
    parts = [_HEADER, _PRESETS + "\n" + presets_table()]
    parts.append(measured_presets(_read(results, "presets"), footnotes))
    parts.append(measured_groupings(_read(results, "branching"), footnotes))
    parts.append(measured_sizes(_read(results, "group_size"), footnotes))
    conclusions = out.parent / "variants_conclusions.md"
    if conclusions.exists():
        parts.append(conclusions.read_text(encoding="utf-8").strip() + "\n")
    if footnotes.texts:
        parts.append(str(footnotes))
    write_atomic(out, "\n".join(parts).encode())


def measured_presets(values: Mapping[str, Any], footnotes: Footnotes) -> str:
    """All presets over three tasks."""
    names = ["preset"]
    columns = []
    for task in PRESET_TASKS:
        names += [f"{task.name}, {task.steps:,} steps asked", "used"]
        columns.append([_setting(values, f"{task.name}/{preset}") for preset in PRESETS])
    best = [_best(column) for column in columns]
    rows = []
    for row, preset in enumerate(PRESETS):
        cells = [f"`{preset}`"]
        for column, highest in zip(columns, best, strict=True):
            cells += [column[row].show(footnotes, highest), column[row].steps_used]
        rows.append(cells)
    return (
        "## Presets\n\n"
        "Every run was asked for the same environment steps; it ends with the iteration that "
        "reaches them, so more are used where episodes are long.\n\n"
        f"{markdown_table(names, rows)}\n{_command('presets')}"
    )


def measured_groupings(values: Mapping[str, Any], footnotes: Footnotes) -> str:
    """Groups that share their start, that branch, and that share nothing."""
    names = ["task", "steps asked", *(f"`{name}`" for name in GROUPINGS), "published PPO (steps)"]
    rows = []
    for task in BRANCHING_TASKS:
        settings = [_setting(values, f"{task.name}/{grouping}") for grouping in GROUPINGS]
        cells = [setting.show(footnotes, _best(settings)) for setting in settings]
        published = PUBLISHED.get(task.env, NOTHING)
        rows.append([task.name, f"{task.steps:,}", *cells, published])
    return (
        "## How a group starts\n\n"
        + _settings_list("Over the task's settings", GROUPINGS)
        + "\n"
        + markdown_table(names, rows)
        + "\nPublished figures: [CleanRL](https://docs.cleanrl.dev/rl-algorithms/ppo/) "
        "(sampled actions, during training) and "
        "[RL-Zoo](https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md) (tuned "
        "for each environment, most probable actions, ± over episodes); means, of other "
        "evaluation episodes, and LunarLander of an earlier version.\n\n" + _command("branching")
    )


def measured_sizes(values: Mapping[str, Any], footnotes: Footnotes) -> str:
    """Sizes of groups at equal environment steps and at equal gradient steps, and baselines."""
    parts = [
        "## Sizes of groups\n\n"
        "At equal environment steps an iteration has as many members whatever the size, so larger "
        "groups are fewer (at least one). At equal gradient steps an iteration is one group, so "
        "larger groups are more environment steps.\n"
    ]
    parts += [_sizes_table(task, values, footnotes) for task in (CARTPOLE, ACROBOT)]
    parts.append(
        "## With a critic and without\n\n"
        + _settings_list("Over the task's settings", BASELINES)
        + "\n"
        + _baselines_table(values, footnotes)
        + "\n"
        + _command("group_size")
    )
    return "\n".join(parts)


def number(value: float) -> str:
    """A return as the tables show it."""
    return f"{value:,.0f}" if abs(value) >= 10_000.0 else f"{value:.1f}"


def _sizes_table(task: Task, values: Mapping[str, Any], footnotes: Footnotes) -> str:
    kinds = ("equal environment steps", "equal gradient steps")
    groupings = ("shared", "unrelated")
    columns = {
        (kind, grouping): [
            _setting(values, f"{task.name}/{kind}/{grouping}/{size}") for size in GROUP_SIZES
        ]
        for kind in kinds
        for grouping in groupings
    }
    names = ["size"]
    for kind in kinds:
        names += [f"{kind}: {grouping}" for grouping in groupings]
    names += [f"environment steps used there: {grouping}" for grouping in groupings]
    rows = []
    for row, size in enumerate(GROUP_SIZES):
        cells = [str(size)]
        cells += [column[row].show(footnotes, _best(column)) for column in columns.values()]
        cells += [columns[kinds[1], grouping][row].steps_used for grouping in groupings]
        rows.append(cells)
    config = task.settings().grpo
    return (
        f"**{task.name}**: {task.steps:,} environment steps in iterations of "
        f"{config.num_groups * config.group_size} members; {GRADIENT_ITERATIONS[task.env]} "
        f"iterations of at most {config.epochs * config.num_minibatches} gradient steps.\n\n"
        f"{markdown_table(names, rows)}"
    )


def _baselines_table(values: Mapping[str, Any], footnotes: Footnotes) -> str:
    tasks = (CARTPOLE, ACROBOT)
    columns = [
        [_setting(values, f"{task.name}/baseline/{name}") for name in BASELINES] for task in tasks
    ]
    rows = [
        [name, *(column[row].show(footnotes, _best(column)) for column in columns)]
        for row, name in enumerate(BASELINES)
    ]
    return markdown_table(
        ["baseline", *(f"{task.name}, {task.steps:,} steps" for task in tasks)], rows
    )


def _read(results: Path, part: str) -> dict[str, Any]:
    path = results / f"variants_{part}.json"
    values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return values


def _setting(values: Mapping[str, Any], key: str) -> Setting:
    """All runs of a setting, whatever their seeds."""
    runs = [run for name, run in values.items() if name.rpartition("/seed ")[0] == key]
    measured = [run for run in runs if "refused" not in run]
    reasons = [run["refused"] for run in runs if "refused" in run]
    return Setting(
        np.array([run["return"] for run in measured], np.float64),
        np.array([run["training_steps"] for run in measured], np.float64),
        reasons[0] if reasons else None,
    )


def _best(settings: Sequence[Setting]) -> float:
    return max(setting.score for setting in settings)


def _settings_list(title: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{title}:", ""]
    for name, changes in settings.items():
        shown = [f"`{setting}={value!r}`" for setting, value in changes.items()]
        lines.append(f"- `{name}`: {', '.join(shown) or 'as they are'}")
    return "\n".join([*lines, ""])


def _command(part: str) -> str:
    return f"`python scripts/variants.py --part {part}`, {SEEDS} seeds from 0.\n"
