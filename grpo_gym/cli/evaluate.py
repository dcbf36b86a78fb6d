"""`evaluate`: play whole episodes with a trained policy or a baseline, and report statistics."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from grpo_gym.actors import baseline_actor, baseline_names, find_checkpoint, unknown_policy
from grpo_gym.cli.failures import reported
from grpo_gym.cli.settings import parse_pairs
from grpo_gym.config import ConfigError, write_atomic
from grpo_gym.evaluation import Actor, Evaluation, evaluate
from grpo_gym.groups import EnvBatch, make_batch
from grpo_gym.trainers.grpo import GRPO

_MAX_ENVS = 128


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of `evaluate`."""

    policy: str
    """A baseline's name, a checkpoint, or a run's folder."""
    env: str | None = None
    """Id of the environment; by default the one the policy was trained in."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment: NAME=VALUE ...; by default those of training."""
    episodes: int = 1000
    """How many episodes to play."""
    seed: int = 0
    """Seed of the first episode; episode i has seed + i."""
    warmup: int = 0
    """First steps of each episode that are left out of the metrics (not of the return)."""
    stochastic: bool = False
    """Sample a trained policy's actions instead of taking the most probable."""
    json: Path | None = None
    """Write the statistics to this file."""


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(
        Options, args=list(given), description="Play episodes with a policy and report statistics."
    )
    env_id, kwargs, model = _resolve(options)
    batch = make_batch(env_id, kwargs, max(1, min(options.episodes, _batch_limit(kwargs))))
    actor = _actor(options, env_id, batch, model)
    evaluation = _play(options, actor, batch)
    result = {
        "env": env_id,
        "env_kwargs": kwargs,
        "policy": options.policy,
        "episodes": options.episodes,
        "seed": options.seed,
        "warmup": options.warmup,
        **evaluation.summary(),
    }
    if options.json is not None:
        write_atomic(options.json, json.dumps(result, indent=2).encode() + b"\n")
    Console().print(_table(result))
    return 0


def _resolve(options: Options) -> tuple[str, dict[str, Any], GRPO | None]:
    kwargs = parse_pairs(options.env_kwargs, "--env-kwargs")
    env_id = options.env
    if env_id is not None and options.policy in baseline_names(env_id):
        return env_id, kwargs, None
    checkpoint = find_checkpoint(options.policy)
    if checkpoint is None:
        if env_id is None:
            raise ConfigError(f"--env must be given with a baseline, got only {options.policy!r}")
        raise unknown_policy(options.policy, env_id)
    model = GRPO.load(checkpoint, env_id, env_kwargs=kwargs or None)
    return str(model.env_source), model.env_kwargs, model


def _actor(options: Options, env_id: str, batch: EnvBatch, model: GRPO | None) -> Actor:
    if model is None:
        return baseline_actor(options.policy, env_id, batch, options.seed)
    return model.actor(deterministic=not options.stochastic, seed=options.seed)


def _play(options: Options, actor: Actor, batch: EnvBatch) -> Evaluation:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("episodes", total=options.episodes)
        return evaluate(
            actor,
            batch,
            options.episodes,
            options.seed,
            options.warmup,
            lambda done: progress.update(task, completed=done),
        )


def _batch_limit(kwargs: dict[str, Any]) -> int:
    """Environments side by side: fewer where an episode's trace is long."""
    length = kwargs.get("episode_length", 0)
    long = isinstance(length, (int, float)) and length > 10_000
    return _MAX_ENVS // 4 if long else _MAX_ENVS


def _table(result: dict[str, Any]) -> Table:
    rows = {"return": result["return"], "length": result["length"], **result["metrics"]}
    table = Table(
        title=f"{result['policy']} on {result['env']}: {result['episodes']} episodes from seed "
        f"{result['seed']}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("mean", "s.e.", "median", "IQM", "95 % interval"):
        table.add_column(name, justify="right")
    for name, summary in rows.items():
        mean, sem, median, iqm, (low, high) = summary.values()
        table.add_row(name, *map(_cell, (mean, sem, median, iqm)), f"{_cell(low)} to {_cell(high)}")
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
