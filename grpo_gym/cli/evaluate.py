"""`evaluate`: play whole episodes with a trained policy or a baseline, and report statistics."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import field, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine, as_option
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.plotting import check_plot, draw_episode
from grpo_gym.cli.signals import StopSignals
from grpo_gym.cli.tables import statistics_table
from grpo_gym.evaluation.episodes import MAX_ENVS, ActionFunction, Evaluable, Evaluation, evaluate
from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import make_batch, make_enumerated
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import (
    ConfigError,
    EnvId,
    Episodes,
    Flag,
    Natural,
    checked_dataclass,
    suggest,
)
from grpo_gym.settings.effects import Needs, refuse_without_effect
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.named_policies import (
    baseline_action_function,
    baseline_names,
    check_environment,
    is_deterministic,
    load_policy,
)

_MAX_ENUMERATED = 2048
_LONG_EPISODE = 10_000


@checked_dataclass
class EvaluateOptions:
    """The policy, its environment, and the episodes."""

    policy: str = ""
    """A baseline's name, a checkpoint file, a run's folder, or pretrained:router."""
    env: EnvId | None = None
    """Id of the environment; by default the one the policy was trained in."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, each overriding one of training."""
    episodes: Episodes = 1000
    """How many episodes to play."""
    seed: Natural = 0
    """Seed of the first episode; episode i has seed + i."""
    warmup: Natural = 0
    """First steps of each episode, which metrics leave out (the return does not)."""
    stochastic: Flag = False
    """Sample a trained policy's actions instead of taking the most probable."""
    exact: Flag = False
    """Play every possible initial state once instead of `episodes` random ones: the exact mean of a
    deterministic policy, for environments that can enumerate them (small Battleship boards)."""
    versus: str | None = None
    """Another policy that plays the same episodes: the difference is shown with its own, paired
    interval."""
    json: Path | None = None
    """Write the statistics to this file."""
    plot: Path | None = None
    """Draw the first episode to this .png, .pdf or .svg file (AutoScaler-v0; needs matplotlib)."""
    plot_beside: tuple[str, ...] = ()
    """Baselines that the figure shows beside the policy."""


_NEEDS = (
    Needs(("plot_beside",), "--plot FILE is given", lambda options: options.plot is not None),
    Needs(("episodes",), "--exact is left out too", lambda options: not options.exact),
    Needs(
        ("seed",),
        "--exact is left out too",
        lambda options: not options.exact or options.plot is not None,
    ),
)
_LINE = CommandLine(
    "evaluate",
    "Play whole episodes with a policy and report statistics.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --policy least_connections --episodes 1000 --seed 7\n"
    "  --policy runs/LoadBalancer-v0/grpo-seed0-... --json result.json\n"
    "  --policy runs/LoadBalancer-v0/grpo-seed0-... --versus least_connections\n"
    "  --env AutoScaler-v0 --policy hpa --episodes 10 --plot day.png --plot-beside clairvoyant",
    {"evaluation": EvaluateOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _parse(arguments)
    with StopSignals().installed():
        env_id, kwargs, model = _resolve(options)
        if options.plot is not None:
            _plot(options, env_id, kwargs, model)
        batch: EnvBatch
        if options.exact:
            batch = make_enumerated(env_id, kwargs, _MAX_ENUMERATED)
            options = replace(options, episodes=batch.num_initial_states, seed=0)
        else:
            batch = make_batch(env_id, kwargs, min(options.episodes, _batch_limit(env_id, kwargs)))
        rival = None if options.versus is None else _rival(options, env_id, kwargs, batch)
        evaluation = _evaluate(options, _player(options, env_id, batch, model), batch)
        if options.warmup >= evaluation.lengths.max():
            raise ConfigError(
                f"--warmup must be less than the {evaluation.lengths.max()} steps of the longest "
                f"episode, got {options.warmup}: it left nothing to measure"
            )
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
        if rival is not None:
            difference = evaluation.difference(_evaluate(options, rival, batch))
            result["versus"] = options.versus
            result["difference"] = difference.summary(exact=options.exact)
        if options.json is not None:
            write_atomic(options.json, json.dumps(result, indent=2, default=str).encode() + b"\n")
    console = Console()
    which = ", which is all" if options.exact else f" from seed {options.seed}"
    title = f"{options.policy} on {env_id}: {options.episodes:,} episodes{which}"
    console.print(f"\n{title}", markup=False, highlight=False, soft_wrap=True)
    console.print(statistics_table(result))
    if rival is not None:
        title = f"{options.policy} minus {options.versus}, episode by episode"
        console.print(title, markup=False, highlight=False, soft_wrap=True)
        console.print(statistics_table({**result, **result["difference"]}))
    return 0


def _parse(arguments: Sequence[str]) -> EvaluateOptions:
    options: EvaluateOptions = _LINE.read(arguments)["evaluation"]
    refuse_without_effect(options, _NEEDS, vars(options), as_option)
    if not options.policy:
        raise ConfigError(
            "--policy must be given: a baseline's name with --env, a checkpoint file, a run's "
            "folder, or pretrained:router"
        )
    if options.json is not None:
        claim_output(options.json, "--json")
    if options.plot is not None:
        check_plot(options.plot)
    return options


def _resolve(options: EvaluateOptions) -> tuple[str, dict[str, Any], Evaluable | None]:
    """The environment, its arguments, and the model; None if a baseline plays."""
    policy, env_id, kwargs = options.policy, options.env, options.env_kwargs
    if env_id is not None:
        check_environment(env_id, kwargs)
        if policy in baseline_names(env_id):
            if options.stochastic:
                raise ConfigError(f"--stochastic must come with a trained policy, got {policy}")
            return env_id, kwargs, None
    model = load_policy(policy, env_id, kwargs)
    return str(model.env_source), model.env_kwargs, model


def _player(
    options: EvaluateOptions, env_id: str, batch: EnvBatch, model: Evaluable | None
) -> ActionFunction:
    if model is not None:
        if options.exact and options.stochastic:
            raise ConfigError("--exact must come without --stochastic: samples have no exact mean")
        return model.action_function(deterministic=not options.stochastic, seed=options.seed)
    if options.exact and not is_deterministic(options.policy, env_id):
        raise ConfigError(f"--exact must come with a deterministic policy, got {options.policy}")
    return baseline_action_function(options.policy, env_id, batch, options.seed)


def _rival(
    options: EvaluateOptions, env_id: str, kwargs: dict[str, Any], batch: EnvBatch
) -> ActionFunction:
    """The policy to compare with, in the environments of the first one."""
    name = cast(str, options.versus)
    model = None if name in baseline_names(env_id) else load_policy(name, env_id, kwargs)
    spaces = batch.single_observation_space, batch.single_action_space
    if model is not None and (model.observation_space, model.action_space) != spaces:
        raise ConfigError(
            f"--versus must be a policy for the spaces of {env_id} with env_kwargs {kwargs}, got "
            f"{name}, which has others"
        )
    return _player(replace(options, policy=name), env_id, batch, model)


def _plot(
    options: EvaluateOptions, env_id: str, kwargs: dict[str, Any], model: Evaluable | None
) -> None:
    """Draw the first episode, as the policy and the baselines beside it play it."""
    for name in options.plot_beside:
        if name not in baseline_names(env_id):
            hint = suggest(name, baseline_names(env_id))
            raise ConfigError(f"--plot-beside must name baselines of {env_id}, got {name!r}.{hint}")
    with closing(cast(NativeBatch, make_batch(env_id, kwargs, 1))) as batch:
        players = {options.policy: _player(options, env_id, batch, model)}
        for name in options.plot_beside:
            players[name] = baseline_action_function(name, env_id, batch, options.seed)
        path = cast(Path, options.plot)
        write_atomic(path, draw_episode(players, env_id, batch, options.seed, path))


def _evaluate(
    options: EvaluateOptions, action_function: ActionFunction, batch: EnvBatch
) -> Evaluation:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task("episodes", total=options.episodes)

        def show(done: int) -> None:
            progress.update(task, completed=done)

        return evaluate(
            action_function, batch, options.episodes, options.seed, options.warmup, show
        )


def _batch_limit(env_id: str, kwargs: dict[str, Any]) -> int:
    """Environments side by side: fewer if traces are long and need much memory."""
    descriptor = descriptor_of(env_id)
    if descriptor is None:
        return MAX_ENVS
    with closing(cast(NativeBatch, make_batch(env_id, kwargs, 1))) as batch:
        length = descriptor.episode_length(batch.env.config)
    return MAX_ENVS // 4 if length > _LONG_EPISODE else MAX_ENVS
