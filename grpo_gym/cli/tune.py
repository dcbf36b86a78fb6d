"""`tune`: search for settings of GRPO, or of an algorithm of Stable-Baselines3, with one budget."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import field, replace
from os import cpu_count
from pathlib import Path
from typing import Any

from rich.console import Console

from grpo_gym.cli.compare import run_resumable
from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.cli.options import CommandLine, invocation
from grpo_gym.settings import EnvId, checked_dataclass, to_mapping, to_yaml
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.comparison.records import Count, TrialBudget
from grpo_gym.trainers.comparison.settings import (
    SB3Settings,
    Settings,
    check_algorithm,
    find_contender,
    require,
)
from grpo_gym.trainers.comparison.training import new_training
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.settings import TrainSettings, task_names


@checked_dataclass
class TuneOptions:
    """What is searched, and where the results go."""

    env: EnvId = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park."""
    algorithm: str = "grpo"
    """grpo, ppo, a2c, trpo, maskable_ppo or recurrent_ppo."""
    settings: str | None = None
    """Settings file of the first trial; by default the shipped one, if any."""
    trials: Count = 20
    """Trials in all; more than the study has continue it."""
    processes: Count | None = None
    """Trials at a time, each on one core; by default one for each core."""
    study: str | None = None
    """SQLite file of the study, new or to be continued; by default
    tuning/<algorithm>-<env>[-<preset>].db."""
    out: str | None = None
    """File for the best settings; by default that of the study with .yaml."""

    @property
    def study_path(self) -> Path:
        """The study's file."""
        name = f"{self.algorithm}-{task_names(self.env, self.env_kwargs)[0]}.db"
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
    {"search": TuneOptions, "budget": TrialBudget},
)


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = _LINE.read(words)
    options: TuneOptions = configs["search"]
    budget: TrialBudget = configs["budget"]
    check_algorithm(options.algorithm)
    check_writable(options.study_path, "--study")
    check_writable(options.out_path, "--out")
    require(("optuna",), "tune")
    command = f"{invocation('tune')} {shlex.join(words)}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return run_resumable(lambda: _search(options, budget, command, console), command, console)


def _search(options: TuneOptions, budget: TrialBudget, command: str, console: Console) -> None:
    """Search, and write the best settings to a file and to standard output."""
    # of the extra `tune`
    from grpo_gym.trainers.comparison.search import best_settings, open_study, search, summary

    check_environment(options.env, options.env_kwargs)
    contender = find_contender(options.algorithm, options.env, options.env_kwargs, options.settings)
    new_training(contender.settings, seed=0)
    path = options.study_path
    study = open_study(path, contender, budget)
    processes = options.processes or cpu_count() or 1
    console.print(
        f"{path}: {options.trials} trials of {budget.total_steps:,} steps, {processes} at a time"
    )

    def tell(line: str) -> None:
        console.print(line, markup=False)

    search(path, study, contender, budget, options.trials, processes, tell)
    best = best_settings(study, contender)
    text = _header(options, budget, summary(study), command) + _as_yaml(best, budget.total_steps)
    write_atomic(options.out_path, text.encode())
    console.print(f"settings: {options.out_path}", markup=False)
    Console(highlight=False, soft_wrap=True).print(text, markup=False, end="")


def _header(options: TuneOptions, budget: TrialBudget, found: str, command: str) -> str:
    """How the settings were found, as comments."""
    task = " ".join(f"{name}={value}" for name, value in options.env_kwargs.items())
    lines = (
        f"{options.algorithm} on {options.env} {task}".rstrip() + f". {found}.",
        f"Each trial: {budget.seeds_per_trial} training(s) of {budget.total_steps:,} steps, "
        f"judged by the mean return of {budget.final_episodes:,} episodes. Made by",
        f"  {command}",
    )
    return "".join(f"# {line}\n" for line in lines)


def _as_yaml(settings: Settings, total_steps: int) -> str:
    """Settings as a file of configs/, without what equals the defaults."""
    values: dict[str, Any] = {"env": settings.env}
    if isinstance(settings, SB3Settings):
        values["algorithm"] = settings.algorithm
        values |= _changed(replace(settings, tuned=True), SB3Settings(env=settings.env))
    else:
        shown = replace(settings, total_steps=total_steps, grpo=GRPOConfig())
        values |= _changed(shown, TrainSettings(env=settings.env))
        values["total_steps"] = total_steps
        values["grpo"] = _changed(replace(settings.grpo, seed=GRPOConfig.seed), GRPOConfig())
    text: str = to_yaml(values)
    return text


def _changed(settings: Any, default: Any) -> dict[str, Any]:
    """Fields that differ from the default."""
    defaults = to_mapping(default)
    return {name: value for name, value in to_mapping(settings).items() if value != defaults[name]}
