"""Settings of a training run: from a configuration file, a preset, and the command line."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from grpo_gym.config import (
    ConfigError,
    Range,
    check_fields,
    from_mapping,
    load_yaml,
    parse_value,
    suggest,
)
from grpo_gym.trainers.config import PRESETS, GRPOConfig

Count = Annotated[int, Range(1)]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides a training run; `config.yaml` beside its checkpoints."""

    env: str = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    algo: Literal["grpo"] = "grpo"
    """The algorithm."""
    policy: Literal["mlp", "linear"] = "mlp"
    """The kind of policy."""
    total_steps: Annotated[float, Range(1)] = 1_000_000
    """Environment steps to train for, rounded up to whole iterations."""
    evaluations: Annotated[int, Range(0)] = 10
    """Evaluations during training, evenly spaced; the best policy is kept. 0: none."""
    evaluation_episodes: Count = 128
    """Episodes of each of them."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints."""
    final_episodes: Count = 1000
    """Episodes of the closing comparison with the baselines."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Settings of GRPO."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.total_steps != int(self.total_steps):
            raise ConfigError(f"total_steps must be a whole number, got {self.total_steps}")


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs of a command line as a mapping.

    Raises:
        ConfigError: If one is not of that form or a name comes twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} must be followed by NAME=VALUE pairs, got {pair!r}")
        if name in values:
            raise ConfigError(f"{option} must name {name!r} once, got it twice")
        values[name] = parse_value(text)
    return values


def default_config(env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings for an environment and its preset; empty if there are none."""
    name = env.split(":")[-1].replace("/", "-")
    candidates = [f"{name}.yaml"]
    if "preset" in env_kwargs:
        candidates.insert(0, f"{name}-{env_kwargs['preset']}.yaml")
    for candidate in candidates:
        resource = files("grpo_gym.configs") / candidate
        if resource.is_file():
            with as_file(resource) as path:
                return load_yaml(path)
    return {}


def parse_train(arguments: Sequence[str]) -> tuple[TrainSettings, "RunOptions"]:
    """Settings from the command line, over a preset, over a configuration file.

    Raises:
        ConfigError: If something is unknown or makes no sense.
        SystemExit: From the parser, for --help and malformed options.
    """
    first = _first_look(arguments)
    settings, source = _file_settings(first)
    grpo = dict(settings.pop("grpo", {}))
    if first.preset is not None:
        if first.preset not in PRESETS:
            raise ConfigError(
                f"--preset must be a known name, got {first.preset!r}."
                f"{suggest(first.preset, PRESETS)}"
            )
        grpo |= PRESETS[first.preset]
    base = from_mapping(TrainSettings, {**settings, "grpo": grpo}, source)
    parsed = tyro.cli(
        _Options,
        args=list(arguments),
        default=_Options.of(base, first),
        description="Train a policy with GRPO in any Gymnasium environment.",
    )
    return parsed.settings(base), parsed.run_options()


@dataclass(frozen=True)
class RunOptions:
    """What concerns this start of a run and not its result.

    Attributes:
        run_dir: Where to write, or None for a new folder under `runs/`.
        resume: The run to go on with, or None.
        quiet: Whether to show nothing but the closing table.
    """

    run_dir: Path | None
    resume: Path | None
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The command line of `train`."""

    env: str
    """Id of the environment, such as LoadBalancer-v0 or CartPole-v1."""
    env_kwargs: tuple[str, ...]
    """Arguments of the environment: NAME=VALUE ..., such as preset=park num_servers=5."""
    algo: Literal["grpo"]
    """The algorithm."""
    policy: Literal["mlp", "linear"]
    """The kind of policy."""
    config: Path | None
    """Settings file; by default the one shipped for the environment (and its preset)."""
    preset: str | None
    """A named variant of GRPO: default, grpo, dr_grpo, loop, magistral, dapo."""
    total_steps: float
    """Environment steps to train for, such as 1e6."""
    run_dir: Path | None
    """Folder to write; by default runs/<env>/<name>. It must be new or empty."""
    resume: Path | None
    """Go on with an interrupted run: its folder, and no other option."""
    quiet: bool
    """Show no progress."""
    evaluations: int
    """Evaluations during training; the best policy is kept. 0: none."""
    evaluation_episodes: int
    """Episodes of each of them."""
    checkpoint_every: int
    """Iterations between checkpoints."""
    final_episodes: int
    """Episodes of the closing comparison with the baselines."""
    grpo: tyro.conf.OmitArgPrefixes[GRPOConfig]

    @staticmethod
    def of(settings: TrainSettings, first: argparse.Namespace) -> "_Options":
        """The defaults that the file and the preset give."""
        pairs = tuple(f"{name}={value}" for name, value in settings.env_kwargs.items())
        return _Options(
            env=settings.env,
            env_kwargs=pairs,
            algo=settings.algo,
            policy=settings.policy,
            config=first.config,
            preset=first.preset,
            total_steps=settings.total_steps,
            run_dir=None,
            resume=None,
            quiet=False,
            evaluations=settings.evaluations,
            evaluation_episodes=settings.evaluation_episodes,
            checkpoint_every=settings.checkpoint_every,
            final_episodes=settings.final_episodes,
            grpo=settings.grpo,
        )

    def settings(self, base: TrainSettings) -> TrainSettings:
        """The run's settings."""
        pairs = tuple(f"{name}={value}" for name, value in base.env_kwargs.items())
        kwargs = (
            base.env_kwargs
            if self.env_kwargs == pairs
            else parse_pairs(self.env_kwargs, "--env-kwargs")
        )
        return TrainSettings(
            env=self.env,
            env_kwargs=kwargs,
            algo=self.algo,
            policy=self.policy,
            total_steps=self.total_steps,
            evaluations=self.evaluations,
            evaluation_episodes=self.evaluation_episodes,
            checkpoint_every=self.checkpoint_every,
            final_episodes=self.final_episodes,
            grpo=self.grpo,
        )

    def run_options(self) -> RunOptions:
        """What concerns this start only."""
        return RunOptions(self.run_dir, self.resume, self.quiet)


def _first_look(arguments: Sequence[str]) -> argparse.Namespace:
    """What decides which defaults the other options have."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--env")
    parser.add_argument("--env-kwargs", "--env_kwargs", nargs="*", default=None)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--preset")
    first, _ = parser.parse_known_args(list(arguments))
    return first


def _file_settings(first: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The settings of the file, with environment and arguments of the command line."""
    kwargs = None
    if first.env_kwargs is not None:
        kwargs = parse_pairs(first.env_kwargs, "--env-kwargs")
    if first.config is not None:
        settings, source = load_yaml(first.config), str(first.config)
    else:
        env = first.env or TrainSettings.__dataclass_fields__["env"].default
        settings, source = default_config(env, kwargs or {}), f"settings for {env}"
    if first.env is not None:
        if settings.get("env", first.env) != first.env and kwargs is None:
            settings.pop("env_kwargs", None)
        settings["env"] = first.env
    if kwargs is not None:
        settings["env_kwargs"] = kwargs
    return settings, source
