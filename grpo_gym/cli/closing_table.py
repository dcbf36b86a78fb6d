"""The closing table: a trained policy beside the baselines, on the same episodes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from grpo_gym.cli.tables import decimals, fixed, plain_table
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
"""Seed of the first episode."""
TRAINED = "trained policy"


def compare_with_baselines(
    checkpoint: Path, episodes: int, console: Console, progress_console: Console
) -> None:
    """Evaluate a checkpoint and every baseline of its environment, and print a table.

    Args:
        checkpoint: The trained policy.
        episodes: Episodes of each policy; episode i has seed `SEED` + i.
        console: For the table.
        progress_console: For progress until then.
    """
    model = load_model(checkpoint)
    env_id = str(model.env_source)
    names = table_names(env_id, model.env_kwargs)
    progress_console.print(
        f"comparing with {len(names)} baselines on {episodes:,} episodes each "
        "(the policy is saved; --final-episodes changes their number)"
    )
    results = {TRAINED: model.evaluate(episodes, seed=SEED)}
    with Progress(
        console=progress_console, transient=True, disable=not progress_console.is_interactive
    ) as progress:
        for name in progress.track(names, description="comparing"):
            results[name] = evaluate_baseline(name, env_id, model.env_kwargs, episodes, SEED)
    privileged = privileged_names(env_id)
    console.print(f"\n{env_id}: {episodes:,} episodes from seed {SEED}", highlight=False)
    descriptor = descriptor_of(env_id)
    columns = {} if descriptor is None else descriptor.table_columns
    console.print(closing_table(results, privileged, columns))
    console.print(f"> {checkpoint.parent.name}/{checkpoint.name}, most probable actions")
    if privileged:
        console.print("* has information that no policy in production has")


def closing_table(
    results: dict[str, Evaluation],
    privileged: set[str],
    metrics: Mapping[str, tuple[str, float]],
) -> Table:
    """Policies by mean return, best first; a column of equal lengths is left out.

    Args:
        results: Evaluations by name, on the same episodes.
        privileged: Names to mark.
        metrics: Metrics with a column: its title, and the factor to the title's unit.
    """
    ordered = sorted(results, key=lambda name: -results[name].mean_return)
    columns = _columns([results[name] for name in ordered], metrics)
    table = plain_table("policy", *columns)
    for row, name in enumerate(ordered):
        cells = [column[row] for column in columns.values()]
        if name == TRAINED:
            table.add_row(f"> {name}", *cells, style="bold green")
        else:
            table.add_row(f"  {name}{' *' if name in privileged else ''}", *cells)
    return table


def _columns(
    evaluations: Sequence[Evaluation], metrics: Mapping[str, tuple[str, float]]
) -> dict[str, list[str]]:
    """Cells by title."""
    summaries = [summarise(evaluation.returns) for evaluation in evaluations]
    margins = [(summary.ci95[1] - summary.ci95[0]) / 2 for summary in summaries]
    places = decimals(margins, 2)
    columns = {
        "return": [fixed(summary.mean, places) for summary in summaries],
        "± 95 %": [fixed(margin, places) for margin in margins],
    }
    if np.ptp(np.concatenate([evaluation.lengths for evaluation in evaluations])) > 0:
        columns["length"] = [fixed(float(e.lengths.mean()), 1) for e in evaluations]
    for name, (title, factor) in metrics.items():
        if all(name in evaluation.metrics for evaluation in evaluations):
            means = [factor * summarise(e.metrics[name]).mean for e in evaluations]
            columns[title] = [fixed(mean, decimals(means, 3)) for mean in means]
    return columns
