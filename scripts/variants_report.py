"""The tables of scripts/variants.py as Markdown, from the runs measured so far.

    python scripts/variants.py --report docs/results/variants.md

The conclusions are written by hand in variants_conclusions.md, next to the output, and appended.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from variants_presets import presets_table
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
from grpo_gym.trainers.comparison.wording import NOTHING, markdown_table
from grpo_gym.trainers.presets import PRESETS

PUBLISHED: dict[str, str] = {
    "Pendulum-v1": "RL-Zoo -172.2 (100k); CleanRL -1142 (8M)",
    "MountainCarContinuous-v0": "RL-Zoo 88.3 (20k)",
    "Acrobot-v1": "RL-Zoo -73.5 ± 18.2 (1M); CleanRL -86.4 ± 1.3 (500k)",
    "LunarLander-v3": "RL-Zoo 242.1 ± 31.8 (1M, LunarLander-v2)",
}
"""Published returns of PPO by environment, with the environment steps they took."""
_PAGE = Path(__file__).with_name("variants_page.md")
"""The text around the tables, with a field in braces for each."""


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

    def compare(self, part: str, variants: Iterable[str]) -> tuple[list[str], list[str]]:
        """Results of a part's variants, the best in bold, and mean environment steps of a run."""
        runs = [self._runs[part, name] for name in variants]
        returns = [np.array([run["return"] for run in each if "return" in run]) for each in runs]
        scores = [float(interquartile_mean(each)) if len(each) else -math.inf for each in returns]
        results, steps = [], []
        for each, values, score in zip(runs, returns, scores, strict=True):
            if len(values):
                used = np.mean([run["training_steps"] for run in each if "return" in run])
                results.append(_result(values, score, is_best=score == max(scores)))
                steps.append(f"{used:,.0f}")
            else:
                results.append(self._refused(each[0]["refused"]) if each else NOTHING)
                steps.append(NOTHING)
        return results, steps

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
    page = _PAGE.read_text(encoding="utf-8").format(
        episodes=EPISODES,
        evaluation_seed=EVALUATION_SEED,
        seeds=SEEDS,
        nothing=NOTHING,
        presets=presets_table(),
        measured_presets=measured_presets(measurements),
        groupings=_settings_list(GROUPINGS),
        measured_groupings=measured_groupings(measurements),
        measured_sizes="\n".join(measured_sizes(task, measurements) for task in SIZE_TASKS),
        baselines=_settings_list(BASELINES),
        measured_baselines=measured_baselines(measurements),
    )
    conclusions = out.parent / "variants_conclusions.md"
    if conclusions.exists():
        page += f"\n{conclusions.read_text(encoding='utf-8').strip()}\n"
    if measurements.footnotes:
        notes = enumerate(measurements.footnotes, 1)
        page += "\n" + "".join(f"[^{number}]: {text}\n" for number, text in notes)
    write_atomic(out, page.encode())


def measured_presets(measurements: Measurements) -> str:
    """All presets over three tasks."""
    titles, columns = ["preset"], [[f"`{preset}`" for preset in PRESETS]]
    for task in PRESET_TASKS:
        titles += [f"{task.name}, {task.steps:,} steps", "steps used"]
        columns += measurements.compare("presets", [f"{task.name}/{name}" for name in PRESETS])
    return markdown_table(titles, zip(*columns, strict=True))


def measured_groupings(measurements: Measurements) -> str:
    """Groups with a shared reset, with branching, and of unrelated episodes."""
    titles = ["task", "steps", *(f"`{name}`" for name in GROUPINGS), "published PPO (steps)"]
    rows = []
    for task in GROUPING_TASKS:
        variants = [f"{task.name}/{name}" for name in GROUPINGS]
        results, _ = measurements.compare("branching", variants)
        rows.append([task.name, f"{task.steps:,}", *results, PUBLISHED.get(task.env, NOTHING)])
    return markdown_table(titles, rows)


def measured_sizes(task: Task, measurements: Measurements) -> str:
    """Sizes of groups at equal environment steps and at equal gradient steps."""
    groupings = ("shared", "unrelated")
    titles, results, steps = ["size"], [], []
    for kind, grouping in product(("equal environment steps", "equal gradient steps"), groupings):
        variants = [f"{task.name}/{kind}/{grouping}/{size}" for size in GROUP_SIZES]
        column, used = measurements.compare("group_size", variants)
        titles.append(f"{kind}: {grouping}")
        results.append(column)
        steps.append(used)
    titles += [f"environment steps used at equal gradient steps: {each}" for each in groupings]
    rows = zip(map(str, GROUP_SIZES), *results, *steps[2:], strict=True)
    config = task.settings().grpo
    return (
        f"**{task.name}**: {task.steps:,} environment steps in iterations of "
        f"{config.num_groups * config.group_size} members; {GRADIENT_ITERATIONS} "
        f"iterations of at most {config.epochs * config.num_minibatches} gradient steps.\n\n"
        f"{markdown_table(titles, rows)}"
    )


def measured_baselines(measurements: Measurements) -> str:
    """The group mean, a critic, both, and the batch mean as baselines."""
    titles, columns = ["baseline"], [list(BASELINES)]
    for task in SIZE_TASKS:
        variants = [f"{task.name}/baseline/{name}" for name in BASELINES]
        titles.append(f"{task.name}, {task.steps:,} steps")
        columns.append(measurements.compare("group_size", variants)[0])
    return markdown_table(titles, zip(*columns, strict=True))


def _result(returns: np.ndarray, score: float, is_best: bool) -> str:
    text = f"**{_number(score)}**" if is_best else _number(score)
    if len(returns) > 1:
        low, high = bootstrap_interval(returns, interquartile_mean, 10_000)
        text += f" [{_number(low)}, {_number(high)}]"
    return f"{text}, {len(returns)}/{max(len(returns), SEEDS)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000.0 else f"{value:.1f}"


def _settings_list(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ""
    for name, changes in settings.items():
        shown = [f"`{setting}={value!r}`" for setting, value in changes.items()]
        lines += f"- `{name}`: {', '.join(shown) or 'none'}\n"
    return lines
