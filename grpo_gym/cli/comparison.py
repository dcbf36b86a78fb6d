"""The closing table: a trained policy beside the baselines, on the same episodes."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from grpo_gym.actors import baseline_actor, baseline_names, privileged_names
from grpo_gym.evaluation import Evaluation, evaluate, summarise
from grpo_gym.groups import make_batch
from grpo_gym.trainers.grpo import GRPO

SEED = 1_000_000
"""First seed of the closing comparison; training never sees these episodes."""
_MAX_ENVS = 128


def compare_with_baselines(checkpoint: Path, episodes: int, console: Console) -> None:
    """Evaluate a checkpoint and every baseline of its environment, and print a table."""
    model = GRPO.load(checkpoint)
    env_id = str(model.env_source)
    results = {}
    for name in ["trained policy", *baseline_names(env_id)]:
        batch = make_batch(env_id, model.env_kwargs, min(episodes, _MAX_ENVS))
        trained = name == "trained policy"
        actor = model.actor() if trained else baseline_actor(name, env_id, batch)
        results[name] = evaluate(actor, batch, episodes, SEED)
        batch.close()
    console.print(_table(env_id, results, privileged_names(env_id), episodes))


def _table(
    env_id: str, results: dict[str, Evaluation], privileged: set[str], episodes: int
) -> Table:
    metrics = [name for name in ("response_time_ms", "error") if _has(results, name)]
    note = "; * sees what no policy in production could" if privileged else ""
    table = Table(
        title=f"{env_id}: {episodes} episodes from seed {SEED}{note}", title_justify="left"
    )
    table.add_column("policy")
    for name in ("return", "95 % interval", "length", *metrics):
        table.add_column(name, justify="right")
    ordered = sorted(results.items(), key=lambda item: -item[1].mean_return)
    for name, evaluation in ordered:
        summary = summarise(evaluation.returns)
        cells = [
            name + (" *" if name in privileged else ""),
            f"{summary.mean:.2f}",
            f"{summary.ci95[0]:.2f} to {summary.ci95[1]:.2f}",
            f"{evaluation.lengths.mean():.1f}",
            *(f"{np.nanmean(evaluation.metrics[metric]):.4g}" for metric in metrics),
        ]
        table.add_row(*cells, style="bold green" if name == "trained policy" else None)
    return table


def _has(results: dict[str, Evaluation], name: str) -> Any:
    return all(name in evaluation.metrics for evaluation in results.values())
