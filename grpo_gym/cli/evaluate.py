"""`evaluate`: play whole episodes with a trained policy or a baseline, and report statistics."""

import json
import sys
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.cli.options import SOURCE, CommandLine
from grpo_gym.cli.plotting import check_figures, check_plot, draw_episodes, record_episode
from grpo_gym.cli.signals import StopSignals
from grpo_gym.cli.tables import decimals, fixed, plain_table
from grpo_gym.evaluation.episodes import ActionFunction, Evaluation, evaluate
from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import make_batch, make_enumerated
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.native_batch import EnumeratedBatch
from grpo_gym.settings import ConfigError, Count, Natural, checked_dataclass, from_mapping, suggest
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.named_policies import (
    baseline_action_function,
    baseline_names,
    check_environment,
    find_checkpoint,
    is_deterministic,
    load_model,
)
from grpo_gym.trainers.online.trainer import OnlineGRPO

Model = GRPO | OnlineGRPO

_MAX_ENVS = 128
_MAX_WORLDS = 2048
_LONG_EPISODE = 10_000


@checked_dataclass
class EvaluateOptions:
    """Who plays, where, and how often."""

    policy: str | None = None
    """A baseline's name, a checkpoint file, or a run's folder."""
    env: str | None = None
    """Id of the environment; by default the one the policy was trained in."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, one by one over those of training."""
    episodes: Count = 1000
    """How many episodes to play."""
    seed: Natural = 0
    """Seed of the first episode; episode i has seed + i."""
    warmup: Natural = 0
    """First steps of each episode that are left out of the metrics (not of the return)."""
    stochastic: bool = False
    """Sample a trained policy's actions instead of taking the most probable."""
    exact: bool = False
    """Play every outside world once instead of `episodes` drawn ones: the exact mean of a policy
    that draws nothing, where the worlds can be listed (small Battleship boards)."""
    json: str | None = None
    """Write the statistics to this file."""
    plot: str | None = None
    """Draw the first episode to this .png, .pdf or .svg file (AutoScaler-v0; needs matplotlib)."""
    plot_beside: tuple[str, ...] = ()
    """Baselines that the figure shows beside the policy."""

    def __post_init__(self) -> None:
        if self.env is not None:
            object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))
        if self.plot_beside and self.plot is None:
            raise ConfigError("--plot-beside must come with --plot FILE")


_LINE = CommandLine(
    "evaluate",
    "Play whole episodes with a policy and report statistics.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --policy least_connections --episodes 1000 --seed 7\n"
    "  --policy runs/LoadBalancer-v0/grpo-seed0-... --json result.json\n"
    "  --env AutoScaler-v0 --policy hpa --episodes 10 --plot day.png --plot-beside clairvoyant",
    {"evaluation": EvaluateOptions},
)


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    with StopSignals().installed():
        env_id, kwargs, model = _resolve(options)
        if options.plot is not None:
            _plot(options, env_id, kwargs, model)
        if options.exact:
            batch: EnvBatch = make_enumerated(env_id, kwargs, _MAX_WORLDS)
            options = replace(
                options, episodes=cast(EnumeratedBatch, batch).num_initial_states, seed=0
            )
        else:
            batch = make_batch(env_id, kwargs, min(options.episodes, _batch_limit(env_id, kwargs)))
        action_function = _action_function(options, env_id, batch, model)
        evaluation = _play(options, action_function, batch)
        result = {
            "env": env_id,
            "env_kwargs": kwargs,
            "policy": options.policy,
            "episodes": options.episodes,
            "seed": options.seed,
            "warmup": options.warmup,
            "exact": options.exact,
            **evaluation.summary(exact=options.exact),
        }
        if options.json is not None:
            write_atomic(options.json, json.dumps(result, indent=2, default=str).encode() + b"\n")
    console = Console()
    which = ", which is all" if options.exact else f" from seed {options.seed}"
    title = f"{options.policy} on {env_id}: {options.episodes:,} episodes{which}"
    console.print(f"\n{title}", markup=False, highlight=False, soft_wrap=True)
    console.print(_table(result))
    return 0


def _parse(arguments: Sequence[str]) -> EvaluateOptions:
    given = _LINE.parse(arguments)
    options = from_mapping(EvaluateOptions, given.values["evaluation"], SOURCE)
    if given.help:
        _LINE.show_help({"evaluation": options})
    if options.policy is None:
        raise ConfigError(
            "--policy must be given: a baseline's name with --env, a checkpoint file, or a run's "
            "folder"
        )
    if options.json is not None:
        check_writable(Path(options.json), "--json")
    if options.plot is not None:
        check_plot(Path(options.plot))
    return options


def _resolve(options: EvaluateOptions) -> tuple[str, dict[str, Any], Model | None]:
    """The environment, its arguments, and the model unless a baseline plays."""
    policy, env_id, kwargs = str(options.policy), options.env, options.env_kwargs
    if env_id is not None:
        check_environment(env_id, kwargs)
        if policy in baseline_names(env_id):
            return env_id, kwargs, None
    checkpoint = find_checkpoint(policy, env_id)
    model = load_model(checkpoint, env_id)
    if kwargs:
        model = load_model(checkpoint, env_id, _over(model.env_kwargs, kwargs))
    return str(model.env_source), model.env_kwargs, model


def _over(trained: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments one by one over those of training; another preset starts afresh."""
    same_preset = given.get("preset", trained.get("preset")) == trained.get("preset")
    return {**trained, **given} if same_preset else given


def _action_function(
    options: EvaluateOptions, env_id: str, batch: EnvBatch, model: Model | None
) -> ActionFunction:
    if model is None:
        if options.exact and not is_deterministic(str(options.policy), env_id):
            raise ConfigError(
                f"--exact must come with a policy that draws nothing, got {options.policy}"
            )
        return baseline_action_function(str(options.policy), env_id, batch, options.seed)
    if options.exact and options.stochastic:
        raise ConfigError("--exact must come without --stochastic: samples have no exact mean")
    return model.action_function(deterministic=not options.stochastic, seed=options.seed)


def _plot(
    options: EvaluateOptions, env_id: str, kwargs: dict[str, Any], model: Model | None
) -> None:
    """Draw the first episode, as the policy and the baselines beside it play it."""
    check_figures(env_id)
    for name in options.plot_beside:
        if name not in baseline_names(env_id):
            hint = suggest(name, baseline_names(env_id))
            raise ConfigError(f"--plot-beside must name baselines of {env_id}, got {name!r}.{hint}")
    batch = make_batch(env_id, kwargs, 1)
    try:
        action_functions = {str(options.policy): _action_function(options, env_id, batch, model)}
        for name in options.plot_beside:
            action_functions[name] = baseline_action_function(name, env_id, batch, options.seed)
        episodes = {
            name: record_episode(action_function, env_id, batch, options.seed)
            for name, action_function in action_functions.items()
        }
        path = Path(str(options.plot))
        write_atomic(path, draw_episodes(episodes, env_id, batch, options.seed, path))
    finally:
        batch.close()


def _play(options: EvaluateOptions, action_function: ActionFunction, batch: EnvBatch) -> Evaluation:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task("episodes", total=options.episodes)
        return evaluate(
            action_function,
            batch,
            options.episodes,
            options.seed,
            options.warmup,
            lambda done: progress.update(task, completed=done),
        )


def _batch_limit(env_id: str, kwargs: dict[str, Any]) -> int:
    """Environments side by side: fewer where an episode's trace is long."""
    descriptor = descriptor_of(env_id)
    if descriptor is None:
        return _MAX_ENVS
    one: Any = make_batch(env_id, kwargs, 1)
    length = descriptor.episode_length(one.env.unwrapped.config)
    one.close()
    return _MAX_ENVS // 4 if length > _LONG_EPISODE else _MAX_ENVS


def _table(result: dict[str, Any]) -> Table:
    rows = {"return": result["return"], "length": result["length"], **result["metrics"]}
    table = plain_table("", "mean", "s.e.", "median", "IQM", "95 % low", "high")
    for name, summary in rows.items():
        # Where all episodes are alike there is no error, and mean and error may be far apart.
        places = decimals([summary["sem"] or summary["mean"]], 2)
        places = 4 if result["exact"] else min(places, decimals([summary["mean"]], 5))
        numbers = [summary[key] for key in ("mean", "sem", "median", "iqm")]
        table.add_row(name, *(fixed(number, places) for number in [*numbers, *summary["ci95"]]))
    return table
