"""Tables on the terminal: a policy beside baselines, and the statistics of an evaluation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.registration import descriptor_of
from grpo_gym.trainers.named_policies import (
    evaluate_baseline,
    load_model,
    privileged_names,
    table_names,
)

SEED = 1_000_000
"""Seed of the closing table's first episode."""
TRAINED = "trained policy"
PAIRED = "vs. trained"
MARGIN = "± 95 %"
_MOST_DECIMALS = 6
_UNLIMITED = 10_000
"""Columns in which any table fits."""


def compare_with_baselines(checkpoint: Path, episodes: int, progress_console: Console) -> None:
    """Evaluate a checkpoint and every baseline of its environment, and print the closing table.

    All play the same episodes, from seed `SEED`; the table goes to standard output.
    """
    model = load_model(checkpoint)
    env_id = str(model.env_source)
    names = table_names(env_id, model.env_kwargs)
    progress_console.print(
        f"comparing with {names[0] if len(names) == 1 else f'{len(names)} baselines'} on "
        f"{episodes:,} episodes each "
        "(the policy is saved; --final-episodes changes their number)"
    )
    results = {TRAINED: model.evaluate(episodes, seed=SEED)}
    with Progress(
        console=progress_console, transient=True, disable=not progress_console.is_interactive
    ) as progress:
        for name in progress.track(names, description="comparing"):
            results[name] = evaluate_baseline(name, env_id, model.env_kwargs, episodes, SEED)
    console = Console()
    privileged = privileged_names(env_id)
    console.print(f"\n{env_id}: {episodes:,} episodes from seed {SEED}", highlight=False)
    descriptor = descriptor_of(env_id)
    columns = {} if descriptor is None else descriptor.table_columns
    table = closing_table(results, privileged, columns)
    if (
        console.measure(table, options=console.options.update(width=_UNLIMITED)).maximum
        > console.width
    ):
        table = closing_table(results, privileged, columns, margins=False)
    console.print(table)
    console.print(f"> {checkpoint.parent.name}/{checkpoint.name}, most probable actions")
    console.print(f"{PAIRED}: mean difference of the returns in the same episodes, ± 95 %")
    if privileged:
        console.print("* has information that no policy in production has")


def closing_table(
    results: dict[str, Evaluation],
    privileged: set[str],
    metrics: Mapping[str, tuple[str, float]],
    *,
    margins: bool = True,
) -> Table:
    """Policies by mean return, best first; a column of equal lengths is left out.

    Returns are also compared with those of the trained policy, episode by episode. Privileged
    policies are marked. `metrics` have a column each: its title, and the factor to the title's
    unit. Without `margins`, which the differences have too, long names have more room.
    """
    ordered = sorted(results, key=lambda name: -results[name].mean_return)
    columns = _columns([results[name] for name in ordered], results.get(TRAINED), metrics)
    if not margins:
        del columns[MARGIN]
    table = _plain_table("policy", *columns)
    for row, name in enumerate(ordered):
        cells = [column[row] for column in columns.values()]
        if name == TRAINED:
            table.add_row(f"> {name}", *cells, style="bold green")
        else:
            table.add_row(f"  {name}{' *' if name in privileged else ''}", *cells)
    return table


def statistics_table(result: Mapping[str, Any]) -> Table:
    """Statistics of an evaluation in the form of `evaluate --json`."""
    rows = {"return": result["return"], "length": result["length"], **result["metrics"]}
    table = _plain_table("", "mean", "s.e.", "median", "IQM", "95 % low", "high")
    for name, summary in rows.items():
        # The error may be far smaller than the mean.
        places = min(_places([summary["mean"]], [summary["sem"]]), _decimals([summary["mean"]], 5))
        if result["exact"]:
            places = 4
        numbers = [summary[key] for key in ("mean", "sem", "median", "iqm")]
        episodes = result["reported"].get(name, result["episodes"])
        if episodes < result["episodes"]:
            name = f"{name} ({episodes:,} of {result['episodes']:,} episodes)"
        table.add_row(name, *(_fixed(number, places) for number in [*numbers, *summary["ci95"]]))
    return table


def _columns(
    evaluations: Sequence[Evaluation],
    trained: Evaluation | None,
    metrics: Mapping[str, tuple[str, float]],
) -> dict[str, list[str]]:
    """Cells by title."""
    means, margins, places = _with_margins([evaluation.returns for evaluation in evaluations])
    columns = {
        "return": [_fixed(mean, places) for mean in means],
        MARGIN: [_fixed(margin, places) for margin in margins],
    }
    if trained is not None:
        differences = [evaluation.difference(trained).returns for evaluation in evaluations]
        means, margins, places = _with_margins(differences)
        columns[PAIRED] = [
            "" if each is trained else f"{_fixed(mean, places, '+')} ± {_fixed(margin, places)}"
            for each, mean, margin in zip(evaluations, means, margins, strict=True)
        ]
    if np.ptp(np.concatenate([evaluation.lengths for evaluation in evaluations])) > 0:
        columns["length"] = [_fixed(float(e.lengths.mean()), 1) for e in evaluations]
    for name, (title, factor) in metrics.items():
        if all(name in evaluation.metrics for evaluation in evaluations):
            means = [factor * summarise(e.metrics[name]).mean for e in evaluations]
            columns[title] = [_fixed(mean, _decimals(means, 3)) for mean in means]
    return columns


def _with_margins(quantities: Sequence[np.ndarray]) -> tuple[list[float], list[float], int]:
    """Means over episodes, half of their 95 % intervals, and the decimals that show both."""
    summaries = [summarise(values) for values in quantities]
    margins = [(summary.ci95[1] - summary.ci95[0]) / 2 for summary in summaries]
    means = [summary.mean for summary in summaries]
    return means, margins, _places(means, margins)


def _plain_table(first: str, *titles: str) -> Table:
    """A table for 80 columns: names on the left, numbers right-aligned, few lines.

    Where that is too narrow, names go on in the next line and numbers do not.
    """
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column(first, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _decimals(values: Iterable[float | None], digits: int) -> int:
    """Decimals at which the smallest value shows `digits` digits; zeros do not count."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(min(sizes))), 0), _MOST_DECIMALS)


def _places(means: Sequence[float | None], errors: Iterable[float | None]) -> int:
    """Decimals that show the errors of means, or without errors up to five digits of the means."""
    known = [error for error in errors if error and math.isfinite(error)]
    if known:
        return _decimals(known, 2)
    exact = [Decimal(f"{mean:.5g}") for mean in means if mean is not None and math.isfinite(mean)]
    exponents = [int(mean.normalize().as_tuple().exponent) for mean in exact]
    return min(max(0, *(-exponent for exponent in exponents)), _MOST_DECIMALS) if exact else 0


def _fixed(value: float | None, places: int, sign: str = "") -> str:
    """A number with `places` decimals, or a dash if it is missing; sign "+": always with a sign."""
    if value is None or not math.isfinite(value):
        return "-"
    fixed = f"{value:{sign}.{places}f}"
    # Where no more decimals are shown, small numbers are not zero either.
    is_lost = places == _MOST_DECIMALS and value != 0.0 and float(fixed) == 0.0
    return f"{value:{sign}.1e}" if is_lost else fixed
