"""`tune`: search for settings of GRPO, or of an algorithm of Stable-Baselines3, with one budget."""

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import field, fields, replace
from os import cpu_count
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.cli.compare import task_name
from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.cli.options import SOURCE, CommandLine, invocation
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.settings import Count, Integer, checked_dataclass, from_mapping, to_mapping, to_yaml
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.comparison.runs import new_training
from grpo_gym.trainers.comparison.settings import (
    PeerSettings,
    Settings,
    check_algorithm,
    find_contender,
    require,
)
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.settings import TrainSettings

Episodes = Annotated[Integer, Field(ge=1, le=1_000_000)]


@checked_dataclass
class TuneOptions:
    """What is searched, for how long, and where it is kept."""

    env: str = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park."""
    algorithm: str = "grpo"
    """grpo, ppo, a2c, trpo, maskable_ppo or recurrent_ppo."""
    settings: str | None = None
    """Settings file to begin with, the first trial; by default the shipped one, if any."""
    trials: Count = 20
    """Trials in all; more than the study has makes it go on."""
    total_steps: Count = 300_000
    """Environment steps of each training."""
    evaluations: Count = 10
    """Points of each learning curve, at which a trial below the median is given up."""
    curve_episodes: Episodes = 100
    """Episodes of each point."""
    final_episodes: Episodes = 500
    """Episodes after training; their mean return is a trial's value."""
    seeds_per_trial: Count = 1
    """Trainings of each trial, from seed 100; its value is their mean."""
    processes: Count | None = None
    """Trials at a time, each on one core; by default as many as there are cores."""
    study: str | None = None
    """SQLite file of the study, new or to go on with; by default
    tuning/<algorithm>-<env>[-<preset>].db."""
    out: str | None = None
    """File for the best settings; by default that of the study with .yaml."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))

    @property
    def study_path(self) -> Path:
        """The study's file."""
        name = f"{self.algorithm}-{task_name(self.env, self.env_kwargs)}.db"
        return Path("tuning") / name if self.study is None else Path(self.study)

    @property
    def out_path(self) -> Path:
        """The file for the best settings."""
        return self.study_path.with_suffix(".yaml") if self.out is None else Path(self.out)


_LINE = CommandLine(
    "tune",
    "Search for settings; every algorithm is searched by the same code with the same budget.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --env-kwargs preset=park --algorithm ppo --trials 20\n"
    "  --env CartPole-v1 --algorithm grpo --trials 30 --total-steps 5e4 --seeds-per-trial 3",
    {"search": TuneOptions},
)


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    command = f"{invocation('tune')} {shlex.join(given)}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    require(("optuna",), "tune")
    with StopSignals().installed():
        try:
            _search(options, command, console)
        except Stopped as stop:
            console.print(f"stopped; go on with: {command}", markup=False)
            return 128 + stop.number
    return 0


def _parse(arguments: Sequence[str]) -> TuneOptions:
    given = _LINE.parse(arguments)
    options = from_mapping(TuneOptions, given.values["search"], SOURCE)
    if given.help:
        _LINE.show_help({"search": options})
    check_algorithm(options.algorithm)
    for option, path in (("--study", options.study_path), ("--out", options.out_path)):
        check_writable(path, option)
    return options


def _search(options: TuneOptions, command: str, console: Console) -> None:
    from grpo_gym.trainers.comparison.search import (
        Budget,
        best_settings,
        found_by,
        open_study,
        search,
    )

    check_environment(options.env, options.env_kwargs)
    contender = find_contender(options.algorithm, options.env, options.env_kwargs, options.settings)
    new_training(contender.settings, seed=0)
    names = {each.name for each in fields(Budget)}
    budget = Budget(**{name: getattr(options, name) for name in names})
    path = options.study_path
    study = open_study(path, contender, budget)
    processes = options.processes or cpu_count() or 1
    console.print(
        f"{path}: {options.trials} trials of {budget.total_steps:,} steps, {processes} at once"
    )

    def tell(line: str) -> None:
        console.print(line, markup=False)

    try:
        search(path, study, contender, budget, options.trials, processes, tell)
    except BrokenExecutor as error:
        raise MemoryError(
            f"a trial's process was killed, with {processes} at once: give fewer --processes; "
            "what has finished is kept"
        ) from error
    best = best_settings(study, contender)
    text = _header(options, found_by(study), command) + _as_yaml(best, options.total_steps)
    write_atomic(options.out_path, text.encode())
    console.print(f"settings: {options.out_path}", markup=False)
    Console(highlight=False, soft_wrap=True).print(text, markup=False, end="")


def _header(options: TuneOptions, found: str, command: str) -> str:
    """How the settings were found, as comments."""
    task = " ".join(f"{name}={value}" for name, value in options.env_kwargs.items())
    lines = (
        f"{options.algorithm} on {options.env} {task}".rstrip() + f". {found}.",
        f"Each trial: {options.seeds_per_trial} training(s) of {options.total_steps:,} steps, "
        f"judged by the mean return of {options.final_episodes:,} episodes. Made by",
        f"  {command}",
    )
    return "".join(f"# {line}\n" for line in lines)


def _as_yaml(settings: Settings, total_steps: int) -> str:
    """Settings as a file of configs/, without what is as by default."""
    if isinstance(settings, PeerSettings):
        values = _changed(replace(settings, tuned=True), PeerSettings(env=settings.env))
        values = {"env": settings.env, "algorithm": settings.algorithm, **values}
    else:
        shown = replace(settings, total_steps=total_steps, grpo=GRPOConfig())
        values = {"env": settings.env, **_changed(shown, TrainSettings(env=settings.env))}
        values["total_steps"] = total_steps
        grpo = replace(settings.grpo, seed=GRPOConfig.seed)
        values["grpo"] = _changed(grpo, GRPOConfig())
    text: str = to_yaml(values)
    return text


def _changed(settings: Any, default: Any) -> dict[str, Any]:
    """Fields that are not as in others."""
    others = to_mapping(default)
    return {name: value for name, value in to_mapping(settings).items() if value != others[name]}
