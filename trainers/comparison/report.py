"""A comparison as a Markdown page with figures; every statement follows from the numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.settings import ConfigError, to_yaml
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.comparison import plots, statistics
from grpo_gym.trainers.comparison.conclusions import Threshold, choose_threshold, conclusion
from grpo_gym.trainers.comparison.settings import OURS
from grpo_gym.trainers.comparison.task_results import (
    TaskResults,
    read_task,
    title,
    training_note,
)
from grpo_gym.trainers.comparison.wording import (
    NOTHING,
    estimate_text,
    markdown_table,
    number_text,
    places_for,
    time_text,
)
from grpo_gym.trainers.named_policies import privileged_names

FILE_NAME = "report.md"
"""The page in the report's folder."""
_COLUMNS = (
    "",
    "runs",
    "IQM of the return [95 %]",
    "mean",
    "P(GRPO is better) [95 %]",
    "steps to threshold [95 %]",
    "CPU seconds to threshold [95 %]",
    "steps/s",
    "parameters: policy / all",
    "peak memory, MB",
)
_INTRODUCTION = """\
# Comparison

IQM is the interquartile mean of the final returns over training runs: the mean of their middle
half. Brackets hold 95 % percentile intervals of a stratified bootstrap over whole runs (arXiv
2108.13264), so they show the effect of the training seed. With few runs they are too narrow: for
normal returns they cover the true value in 75 % of cases with 3 runs, 91 % with 5 and 94 % with 10.
A single run has no interval. P(GRPO is better) is the probability that a run of GRPO ends above a
run of the other algorithm.

Steps are environment steps; seconds are CPU time of the training process on one core, without
evaluations. A run reaches the threshold where linear interpolation between its evaluations first
crosses it; the table shows the median over runs, in which a run that never does counts as
infinite.
"""


def write_report(files: Sequence[Path], folder: Path, threshold: float | None = None) -> Path:
    """Write a report of one or several tasks, with a figure of each; returns the Markdown file.

    Trainings may still be missing. Figures are named after the result files.

    Raises:
        ConfigError: If a file is no result file or holds no training, two have the same name, or
            a threshold is given for several tasks.
    """
    stems = [path.stem for path in files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(f"files must have different names, got {stem!r} twice: rename one")
    if threshold is not None and len(files) > 1:
        raise ConfigError(
            f"threshold must be left out with several tasks, got {threshold}: report each by itself"
        )
    tasks = [read_task(path) for path in files]
    parts = [_INTRODUCTION]
    if len(tasks) > 1:
        write_atomic(folder / "overview.png", plots.draw_overview(tasks))
        parts.append(_overview(tasks))
    for results in tasks:
        chosen = choose_threshold(results, threshold)
        figure = folder / f"{results.path.stem}.png"
        write_atomic(figure, plots.draw_task(results, chosen.level))
        parts.append(_task_section(results, chosen, figure.name))
    report = folder / FILE_NAME
    write_atomic(report, "\n".join(parts).encode())
    return report


def _overview(tasks: Sequence[TaskResults]) -> str:
    """All tasks in one table, and how often GRPO is better over all of them."""
    algorithms = list(dict.fromkeys(name for results in tasks for name in results.trainings))
    rows = []
    for results in tasks:
        estimates = results.final_iqms
        places = places_for(estimates.values())
        cells = [
            estimate_text(estimates[name], places) if name in estimates else NOTHING
            for name in algorithms
        ]
        rows.append([results.name, *cells])
    lines = []
    for name in algorithms:
        both = [results for results in tasks if {OURS, name} <= results.trainings.keys()]
        if name == OURS or not both:
            continue
        pairs = [(each.final_returns(OURS), each.final_returns(name)) for each in both]
        probability = estimate_text(statistics.probability_of_improvement(*pairs), 2)
        lines.append(
            f"- A run of GRPO ends above a run of {title(name)} with probability {probability} "
            f"(mean over {len(both)} {'task' if len(both) == 1 else 'tasks'}).\n"
        )
    return "\n".join(
        [
            "## All tasks\n",
            "![Return after training on every task](overview.png)\n",
            markdown_table(["IQM of the return [95 %]", *map(title, algorithms)], rows, "---:"),
            "".join(lines),
        ]
    )


def _task_section(results: TaskResults, threshold: Threshold, figure: str) -> str:
    """One task: what was run, the figure, the table, conclusions, and all settings."""
    conclusions, settings = [], []
    for name, runs in results.trainings.items():
        if name != OURS and OURS in results.trainings:
            sentences = conclusion(results, name, threshold.level)
            conclusions.append(f"- **GRPO and {title(name)}.** {sentences}\n")
        tuned = "tuned" if runs[0].tuned else "not tuned"
        settings.append(
            f"<details><summary>Settings of {title(name)} ({tuned})</summary>\n\n"
            f"```yaml\n{to_yaml(runs[0].settings)}```\n\n</details>\n"
        )
    return "\n".join(
        [
            f"## {results.name}\n",
            _what_was_run(results),
            f"![Learning curves of {results.name}]({figure})\n",
            _task_table(results, threshold.level),
            _baseline_note(results) + threshold.reason + "\n",
            "".join(conclusions),
            *settings,
        ]
    )


def _what_was_run(results: TaskResults) -> str:
    task = results.task
    actions = "the most probable actions" if task.deterministic else "sampled actions"
    runs = ", ".join(f"{title(name)} {len(runs)}" for name, runs in results.trainings.items())
    return (
        f"Runs of {task.total_steps:,} environment steps with different training seeds: {runs}. "
        f"Policies are evaluated with {actions} on the same unseen episodes: "
        f"{task.final_episodes:,} at the end (seeds from {task.evaluation_seed:,}) and "
        f"{task.curve_episodes:,} at each point of the curves.\n\n"
        f"- Machine: {_pairs(task.machine)}.\n"
        f"- Versions: {_pairs(task.versions)}.\n"
        f"- Command: `{task.command}`\n"
        + "".join(f"- {training_note(*each)}\n" for each in results.training_kwargs.items())
    )


def _task_table(results: TaskResults, threshold: float | None) -> str:
    iqms = results.final_iqms
    places = places_for(iqms.values())
    rows = [
        _row(results, name, places, threshold)
        for name in sorted(iqms, key=lambda name: -iqms[name].value)
    ]
    privileged = privileged_names(results.task.env)
    for name, final in sorted(results.baselines.items(), key=lambda each: -each[1].mean_return):
        mark = " \\*" if name in privileged else ""
        mean, margin = (number_text(x, places) for x in (final.mean_return, 1.96 * final.sem))
        cells = [f"{name}{mark}", NOTHING, NOTHING, f"{mean} ± {margin}"]
        rows.append(cells + [NOTHING] * (len(_COLUMNS) - len(cells)))
    return markdown_table(_COLUMNS, rows, "---:")


def _row(results: TaskResults, name: str, places: int, threshold: float | None) -> list[str]:
    """The cells of one algorithm."""
    runs, returns = results.trainings[name], results.final_returns(name)
    better, steps, seconds = NOTHING, NOTHING, NOTHING
    if name != OURS and OURS in results.trainings:
        pair = (results.final_returns(OURS), returns)
        better = estimate_text(statistics.probability_of_improvement(pair), 2)
    if threshold is not None:
        steps = time_text(results.times_to(threshold, name, "steps"))
        seconds = time_text(results.times_to(threshold, name, "cpu_seconds"))
    speed = np.median([run.steps / max(run.cpu_seconds, 1e-9) for run in runs])
    memory = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
    return [
        f"**{title(name)}**",
        str(len(runs)),
        estimate_text(results.final_iqms[name], places),
        number_text(float(returns.mean()), places),
        better,
        steps,
        seconds,
        f"{speed:,.0f}",
        f"{runs[0].policy_parameters:,} / {runs[0].parameters:,}",
        f"{np.median(memory):,.0f}" if memory else NOTHING,
    ]


def _baseline_note(results: TaskResults) -> str:
    if not results.baselines:
        return ""
    note = "Rows without runs are baselines: mean return ± 1.96 standard errors over episodes"
    if results.baselines.keys() & privileged_names(results.task.env):
        note += "; \\* uses information that is unavailable in production"
    return note + ". "


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
