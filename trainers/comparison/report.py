"""A comparison as a Markdown page with pictures; every statement on it comes from the numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.settings import ConfigError, to_yaml
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.comparison import plots, statistics
from grpo_gym.trainers.comparison.figures_in_words import (
    NOTHING,
    compare_ends,
    compare_returns,
    compare_times,
    estimate_text,
    number_text,
    places_for,
    probability_text,
    time_text,
)
from grpo_gym.trainers.comparison.statistics import Estimate
from grpo_gym.trainers.comparison.task_results import OURS, Run, TaskResults, read_task, title
from grpo_gym.trainers.comparison.threshold import Threshold, choose_threshold
from grpo_gym.trainers.named_policies import privileged_names

REPORT = "report.md"
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
_INTERVALS = """\
IQM is the interquartile mean of the runs' final returns, the mean of their middle half. In
brackets are 95 % percentile intervals of a stratified bootstrap (arXiv 2108.13264), which draws
whole training runs with replacement: they show how much the training seed decides. Of few runs
they are too narrow (of 3 normal ones they hold the true value in 75 % of cases, of 5 in 91 %, of 10
in 94 %), and of a single run there is none. P(GRPO is better) is the probability that a run of
GRPO ends above one of the other algorithm.
"""
_TIMES = """\
Steps are environment steps; seconds are those of the training process on one core, evaluations
left out. A run reaches the threshold where the straight line between two of its evaluations
crosses it first; the table has the median over runs, in which a run that never does counts as
infinitely slow.
"""


def write_report(files: Sequence[Path], folder: Path, threshold: float | None = None) -> Path:
    """Write a report of one or several tasks, with a picture of each.

    Args:
        files: Result files of the comparison, one a task; runs may still be missing.
        folder: Where it goes; pictures have the names of the files.
        threshold: The return to which times are measured; None: see `choose_threshold`. Only with
            one task.

    Returns:
        The Markdown file.

    Raises:
        ConfigError: If a file is no result file or has no run, two have one name, or a threshold
            is given for several tasks.
        OSError: If something cannot be written.
    """
    _check_request(files, threshold)
    tasks = [read_task(path) for path in files]
    parts = ["# Comparison\n", _INTERVALS, _TIMES]
    if len(tasks) > 1:
        write_atomic(folder / "overview.png", plots.draw_overview(tasks))
        parts.append(overview(tasks))
    for results in tasks:
        level = choose_threshold(results, threshold)
        picture = folder / f"{results.path.stem}.png"
        write_atomic(picture, plots.draw_task(results, level.level))
        parts.append(task_section(results, level, picture.name))
    report = folder / REPORT
    write_atomic(report, "\n".join(parts).encode())
    return report


def overview(tasks: Sequence[TaskResults]) -> str:
    """All tasks in one table, and how often our algorithm is better over all of them."""
    algorithms = list(dict.fromkeys(name for results in tasks for name in results.runs))
    rows = []
    for results in tasks:
        estimates = final_iqms(results)
        places = places_for(estimates.values())
        cells = [
            estimate_text(estimates[name], places) if name in estimates else NOTHING
            for name in algorithms
        ]
        rows.append([results.name, *cells])
    table = _table(["IQM of the return [95 %]", *map(title, algorithms)], rows)
    sentences = [_over_all_tasks(tasks, name) for name in algorithms if name != OURS]
    text = "".join(f"- {sentence}\n" for sentence in sentences if sentence)
    picture = "![Return after training on every task](overview.png)\n"
    return "\n".join(["## All tasks\n", picture, table, text])


def task_section(results: TaskResults, threshold: Threshold, picture: str) -> str:
    """One task: what was run, the picture, the table, what follows, and all settings.

    Args:
        results: What was measured.
        threshold: The return to which times are measured.
        picture: Name of its file.
    """
    return "\n".join(
        [
            f"## {results.name}\n",
            _what_was_run(results),
            f"![Learning curves of {results.name}]({picture})\n",
            _task_table(results, threshold.level),
            _baseline_note(results) + threshold.reason + "\n",
            statements(results, threshold.level),
            *(_settings(name, runs) for name, runs in results.runs.items()),
        ]
    )


def statements(results: TaskResults, threshold: float | None) -> str:
    """What the numbers say about our algorithm and each other one, as a list in Markdown."""
    if OURS not in results.runs:
        return ""
    ours = results.runs[OURS]
    places = places_for(final_iqms(results).values())
    lines = []
    for name, runs in results.runs.items():
        if name == OURS:
            continue
        text = compare_returns(
            title(name), results.final_returns(OURS), results.final_returns(name), places
        )
        if threshold is not None:
            steps = (times_to(threshold, ours, "steps"), times_to(threshold, runs, "steps"))
            seconds = [times_to(threshold, each, "cpu_seconds") for each in (ours, runs)]
            text += " " + compare_times(title(name), steps, (seconds[0], seconds[1]))
            text += " " + _catch_up(results, name, places)
        untuned = [title(each) for each in (OURS, name) if not results.runs[each][0].tuned]
        if untuned:
            text += f" Not tuned for this task: {', '.join(untuned)}."
        lines.append(f"- **GRPO and {title(name)}.** {text}\n")
    return "".join(lines)


def final_iqms(results: TaskResults) -> dict[str, Estimate]:
    """Interquartile mean of the final returns, by algorithm."""
    return {
        name: statistics.interquartile_mean(results.final_returns(name)) for name in results.runs
    }


def times_to(threshold: float, runs: Sequence[Run], axis: str) -> np.ndarray:
    """When each run first reached a return, shape (S,), float64; infinite if never.

    Args:
        threshold: The return.
        runs: Of one algorithm.
        axis: "steps" or "cpu_seconds".
    """
    return np.array(
        [
            statistics.first_reached(run.curve[axis], run.curve["mean_return"], threshold)
            for run in runs
        ]
    )


def _catch_up(results: TaskResults, algorithm: str, places: int) -> str:
    """When our curve is where another one ends; both are played on the curve's episodes."""
    ours, theirs = results.runs[OURS], results.runs[algorithm]
    ends = np.array([run.curve["mean_return"][-1] for run in theirs])
    level = statistics.interquartile_mean(ends).value
    return compare_ends(
        title(algorithm),
        number_text(level, places),
        (times_to(level, ours, "steps"), times_to(level, ours, "cpu_seconds")),
        (
            np.array([float(run.steps) for run in theirs]),
            np.array([run.cpu_seconds for run in theirs]),
        ),
    )


def _check_request(files: Sequence[Path], threshold: float | None) -> None:
    if not files:
        raise ConfigError("files must name at least one result file, got none")
    stems = [path.stem for path in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ConfigError(f"files must have different names, got {twice[0]!r} twice: rename one")
    if threshold is not None and len(files) > 1:
        raise ConfigError(
            f"threshold must be left out with several tasks, got {threshold}: report each by itself"
        )
    if threshold is not None and not np.isfinite(threshold):
        raise ConfigError(f"threshold must be a finite number, got {threshold}")


def _over_all_tasks(tasks: Sequence[TaskResults], algorithm: str) -> str:
    both = [results for results in tasks if {OURS, algorithm} <= results.runs.keys()]
    if not both:
        return ""
    pairs = [(each.final_returns(OURS), each.final_returns(algorithm)) for each in both]
    probability = probability_text(statistics.probability_of_improvement(*pairs))
    tasks_text = "1 task" if len(both) == 1 else f"{len(both)} tasks"
    return (
        f"A run of GRPO ends above one of {title(algorithm)} with probability {probability} "
        f"(mean over {tasks_text})."
    )


def _what_was_run(results: TaskResults) -> str:
    task = results.task
    actions = "the most probable actions" if task["deterministic"] else "sampled actions"
    seeds = ", ".join(f"{title(name)} {len(runs)}" for name, runs in results.runs.items())
    return (
        f"{task['total_steps']:,} environment steps a run; runs with different training seeds: "
        f"{seeds}. Evaluated with {actions} on {task['final_episodes']:,} episodes at the end and "
        f"{task['curve_episodes']:,} at each point of the curves, the same ones for everybody and "
        f"seen by no training (seeds from {task['evaluation_seed']:,}).\n\n"
        f"- Machine: {_pairs(task['machine'])}.\n"
        f"- Versions: {_pairs(task['versions'])}.\n"
        f"- Command: `{task['command']}`\n"
    )


def _task_table(results: TaskResults, threshold: float | None) -> str:
    estimates = final_iqms(results)
    places = places_for(estimates.values())
    order = sorted(estimates, key=lambda name: -estimates[name].value)
    rows = [_row(results, name, estimates[name], places, threshold) for name in order]
    privileged = privileged_names(results.task["env"])
    for name, (mean, sem) in sorted(results.baselines.items(), key=lambda each: -each[1][0]):
        mark = " \\*" if name in privileged else ""
        margin = number_text(1.96 * sem, places)
        cells = [f"{name}{mark}", NOTHING, NOTHING, f"{number_text(mean, places)} ± {margin}"]
        rows.append(cells + [NOTHING] * (len(_COLUMNS) - len(cells)))
    return _table(_COLUMNS, rows)


def _row(
    results: TaskResults, name: str, iqm: Estimate, places: int, threshold: float | None
) -> list[str]:
    """What the table says of one algorithm."""
    runs = results.runs[name]
    returns = results.final_returns(name)
    better = NOTHING
    if name != OURS and OURS in results.runs:
        pair = (results.final_returns(OURS), returns)
        better = probability_text(statistics.probability_of_improvement(pair))
    times = [NOTHING, NOTHING]
    if threshold is not None:
        times = [time_text(times_to(threshold, runs, axis)) for axis in ("steps", "cpu_seconds")]
    speed = np.median([run.steps / max(run.cpu_seconds, 1e-9) for run in runs])
    memory = np.median([run.peak_memory_mb for run in runs])
    return [
        f"**{title(name)}**",
        str(len(runs)),
        estimate_text(iqm, places),
        number_text(float(returns.mean()), places),
        better,
        *times,
        f"{speed:,.0f}",
        f"{runs[0].policy_parameters:,} / {runs[0].parameters:,}",
        f"{memory:,.0f}",
    ]


def _baseline_note(results: TaskResults) -> str:
    if not results.baselines:
        return ""
    note = "Rows without runs are baselines: mean return ± 1.96 standard errors over episodes"
    if results.baselines.keys() & privileged_names(results.task["env"]):
        note += "; \\* sees what no policy in production can"
    return note + ". "


def _settings(name: str, runs: Sequence[Run]) -> str:
    """All settings of an algorithm, folded away."""
    # The seed is all that differs from run to run.
    settings = {key: value for key, value in runs[0].settings.items() if key != "seed"}
    text = to_yaml(settings)
    tuned = "tuned" if runs[0].tuned else "not tuned"
    return (
        f"<details><summary>Settings of {title(name)} ({tuned})</summary>\n\n"
        f"```yaml\n{text}```\n\n</details>\n"
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
