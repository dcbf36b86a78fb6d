"""Settings of a training run, from options, a preset of GRPO, a settings file, and defaults."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.cli.options import SOURCE, CommandLine, Given, as_option
from grpo_gym.registration import descriptor_of
from grpo_gym.settings import (
    ConfigError,
    Flag,
    Integer,
    checked_dataclass,
    from_mapping,
    load_yaml,
    suggest,
    to_mapping,
)
from grpo_gym.settings.effects import Needs, refuse_without_effect, without_effect
from grpo_gym.trainers.config import OF_THE_MACHINE, GRPOConfig
from grpo_gym.trainers.defaults import in_words
from grpo_gym.trainers.effects import needs_of, needs_of_environment, refuse_both
from grpo_gym.trainers.online.config import OnlineConfig
from grpo_gym.trainers.presets import PRESETS
from grpo_gym.trainers.processes import check_size
from grpo_gym.trainers.settings import TrainSettings, settings_from_task
from grpo_gym.trainers.shipped import default_config

_log = logging.getLogger(__name__)

_NEEDS = (
    Needs(("evaluation_episodes",), "--evaluations > 0", lambda settings: settings.evaluations > 0),
    Needs(
        ("final_episodes",),
        "a closing table is to come: demonstrations of --algo online have none",
        lambda settings: (
            settings.algo == "grpo" or not demonstration_steps(settings.env, settings.env_kwargs)
        ),
    ),
)
_OF_GRPO = (
    "preset",
    "processes",
    "policy",
    "policy_kwargs",
    "training_env_kwargs",
    "evaluations",
    "evaluation_episodes",
    "checkpoint_every",
)
"""Options that online GRPO does not have, beside those of `GRPOConfig`."""


@checked_dataclass
class RunOptions:
    """Where settings come from and where results go."""

    config: Path | None = None
    """Settings file; by default the one shipped for the environment (and its preset), if any."""
    preset: str | None = None
    """A named variant of GRPO, over the file's settings: default, grpo, dr_grpo, rloo, loop, dapo,
    magistral, lite_ppo, reinforce_pp, gspo, tic, cispo, gpg_time, gr2po, gigpo, vine,
    trust_region, chapter."""
    run_dir: Path | None = None
    """Folder to write, new or empty; by default a new one under runs/<env>/."""
    resume: Path | None = None
    """Folder of a run to continue; with it only --quiet, --processes, --workers,
    --worker-timeout-s, --device, and --total-steps to make it longer."""
    online_kwargs: dict[str, Any] = field(default_factory=dict)
    """Settings of --algo online: learning_rate, group_size, exploration, weight_limit, step_limit,
    importance_weights, estimates."""
    processes: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """Processes on this machine that share the work, with the same result. At most num_groups and
    gradient_shards; processes times torch_threads should not exceed the cores."""
    quiet: Flag = False
    """Show no progress."""

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            hint = suggest(self.preset, PRESETS)
            raise ConfigError(f"preset must be a known name, got {self.preset!r}.{hint}")


_LINE = CommandLine(
    "train",
    "Train a policy with GRPO for a Gymnasium environment; compare it with baselines.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --env-kwargs preset=park num_servers=10 --seed 1\n"
    "  --env CartPole-v1 --total-steps 1e5 --preset loop --learning-rate 1e-3\n"
    "  --env LoadBalancer-v0 --algo online --env-kwargs preset=tiny-grpo",
    {"run": RunOptions, "training": TrainSettings, "grpo": GRPOConfig},
)


def parse_train(arguments: Sequence[str]) -> tuple[TrainSettings, RunOptions]:
    """Settings from the command line, which override a preset, which overrides a settings file.

    With `--resume`, the settings that count are those in the run's folder instead.

    Raises:
        ConfigError: If an option is unknown or a value breaks its rule.
        SystemExit: With status 0 after --help.
    """
    given = _LINE.parse(arguments)
    run = from_mapping(RunOptions, given.values["run"], SOURCE)
    if run.resume is None:
        settings = _settings(run, given)
    else:
        _refuse_other_options(given)
        machine = given.values["grpo"]
        settings = _resumed_settings(run.resume, given.values["training"], machine)
    if given.help:
        _LINE.show_help({"run": run, "training": settings, "grpo": settings.grpo})
    check_size(run.processes, settings.grpo)
    return settings, run


def saved_settings(folder: Path) -> TrainSettings:
    """The settings of the run in a folder.

    Raises:
        ConfigError: If the folder is not one of a run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"--resume must be followed by a run's folder, got {folder}: it has no {path.name}, so "
            "there is nothing to resume; start a run there with --run-dir"
        )
    return from_mapping(TrainSettings, load_yaml(path), str(path))


def demonstration_steps(env: str, env_kwargs: Mapping[str, Any]) -> int:
    """How long online GRPO shows its policy as it learns in this task by default; 0: not at all."""
    descriptor = descriptor_of(env)
    demonstrations = {} if descriptor is None else descriptor.demonstrations
    return demonstrations.get(str(env_kwargs.get("preset")), 0)


def _settings(run: RunOptions, given: Given) -> TrainSettings:
    """The file's settings, changed by the preset, changed by the options."""
    options, grpo_options = given.values["training"], given.values["grpo"]
    base, source = _file_settings(run, options)
    if run.preset is not None:
        grpo = {**to_mapping(base.grpo), **PRESETS[run.preset]}
        base = replace(base, grpo=from_mapping(GRPOConfig, grpo, source))
    changed = {**to_mapping(base), **options, **_env_kwargs(base, options)}
    if changed["algo"] == "online":
        _refuse_options_of_grpo(given)
        if "seed" in run.online_kwargs:
            raise ConfigError("--online-kwargs has no seed: give --seed")
        online = {**to_mapping(base.online), **run.online_kwargs, **grpo_options}
        changed["online"] = from_mapping(OnlineConfig, online, SOURCE)
        grpo_options = {"seed": changed["online"].seed}
    elif run.online_kwargs:
        raise ConfigError("--online-kwargs must come with --algo online")
    changed["grpo"] = from_mapping(GRPOConfig, {**to_mapping(base.grpo), **grpo_options}, SOURCE)
    settings = from_mapping(TrainSettings, changed, SOURCE)
    if settings.algo == "grpo":
        settings = _with_settings_from_task(settings, run, grpo_options)
        is_native = descriptor_of(settings.env) is not None
        needs = [*needs_of(settings.policy), *needs_of_environment(not is_native)]
        refuse_without_effect(settings.grpo, needs, grpo_options, as_option)
        refuse_both(grpo_options, options.get("policy_kwargs", {}), settings.policy)
        if run.config is not None:
            # Only said: earlier versions wrote such files.
            idle = without_effect(settings.grpo, needs, to_mapping(settings.grpo))
            for name, condition in idle:
                _log.warning("%s has no effect unless %s", name, condition)
    refuse_without_effect(settings, _NEEDS, options, as_option)
    return settings


def _with_settings_from_task(
    settings: TrainSettings, run: RunOptions, given: Mapping[str, Any]
) -> TrainSettings:
    """Where no file has settings, those that suit the task; they are shown in one line."""
    if run.config is not None or default_config(settings.env, settings.env_kwargs):
        return settings
    found = settings_from_task(settings, {*PRESETS[run.preset or "default"], *given})
    if not found:
        return settings
    Console(stderr=True, quiet=run.quiet, highlight=False, soft_wrap=True).print(in_words(found))
    grpo = from_mapping(GRPOConfig, {**to_mapping(settings.grpo), **found}, SOURCE)
    return replace(settings, grpo=grpo)


def _resumed_settings(
    folder: Path, options: Mapping[str, Any], machine: Mapping[str, Any]
) -> TrainSettings:
    """The settings of a run that goes on, perhaps for more steps or on another machine."""
    saved = saved_settings(folder)
    if saved.algo == "online":
        raise ConfigError(
            "--resume must be followed by a run of --algo grpo: online runs take seconds; repeat "
            f"this one with --config {folder}/config.yaml"
        )
    grpo = {**to_mapping(saved.grpo), **machine}
    settings = from_mapping(TrainSettings, {**to_mapping(saved), **options, "grpo": grpo}, SOURCE)
    if settings.total_steps < saved.total_steps:
        raise ConfigError(
            f"--total-steps must be >= {saved.total_steps} with --resume, got "
            f"{settings.total_steps}: a run can only be made longer"
        )
    return settings


def _file_settings(run: RunOptions, options: Mapping[str, Any]) -> tuple[TrainSettings, str]:
    """The file's settings, and what errors call the file."""
    env = options.get("env", TrainSettings.env)
    if run.config is not None:
        source = str(run.config)
        return from_mapping(TrainSettings, load_yaml(run.config), source), source
    source = f"shipped settings for {env}"
    if options.get("algo") == "online":  # shipped settings are GRPO's
        steps = demonstration_steps(env, options.get("env_kwargs", {}))
        return TrainSettings(env=env, total_steps=steps or TrainSettings.total_steps), source
    values = {"env": env, **default_config(env, options.get("env_kwargs", {}))}
    return from_mapping(TrainSettings, values, source), source


def _env_kwargs(base: TrainSettings, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options' arguments over the file's, which hold for its own environment and preset."""
    preset = base.env_kwargs.get("preset")
    same_env = options.get("env", base.env).removeprefix("grpo_gym:") == base.env
    same_preset = options.get("env_kwargs", {}).get("preset", preset) == preset
    from_file = to_mapping(base) if same_env and same_preset else {}
    return {
        name: {**from_file.get(name, {}), **options.get(name, {})}
        for name in ("env_kwargs", "training_env_kwargs")
    }


def _refuse_options_of_grpo(given: Given) -> None:
    """Refuse options that online GRPO would ignore; it shares only `--seed`."""
    known = {*_OF_GRPO, *(field.name for field in fields(GRPOConfig))} - {"seed"}
    for name in given.names():
        if name in known:
            raise ConfigError(
                f"{as_option(name)} is for --algo grpo: settings of --algo online follow "
                "--online-kwargs"
            )


def _refuse_other_options(given: Given) -> None:
    for name in given.names():
        if name not in ("resume", "processes", "quiet", "total_steps", *OF_THE_MACHINE):
            raise ConfigError(
                f"--resume must come without {as_option(name)}: a run goes on with its own settings"
            )
