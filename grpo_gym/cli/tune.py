"""`tune`: search for settings of GRPO, or of an algorithm of Stable-Baselines3, with one budget."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.resumable import TaskOptions, run_resumable
from grpo_gym.settings import Integer, checked_dataclass, to_mapping, to_yaml
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.comparison.contenders import Settings, find_contender
from grpo_gym.trainers.comparison.records import TrialBudget
from grpo_gym.trainers.comparison.settings import SB3Settings, check_algorithm, require
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import in_words
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.settings import TrainSettings


@checked_dataclass
class TuneOptions(TaskOptions):
    """What is searched, and where the results go."""

    algorithm: str = "grpo"
    """grpo, ppo, a2c, trpo, maskable_ppo or recurrent_ppo."""
    settings: str | None = None
    """Settings file of the first trial; by default the shipped one, if any."""
    trials: Annotated[Integer, Field(ge=1, le=100_000)] = 20
    """Trials in all; more than the study has continue it."""
    study: Path | None = None
    """SQLite file of the study, new or to be continued; by default
    tuning/<algorithm>-<env>[-<preset>].db."""
    out: Path | None = None
    """File for the best settings; by default that of the study with .yaml."""

    @property
    def study_path(self) -> Path:
        """The study's file."""
        return self.study or Path(f"tuning/{self.algorithm}-{self.task_name}.db")

    @property
    def out_path(self) -> Path:
        """The file for the best settings."""
        return self.out or self.study_path.with_suffix(".yaml")


_LINE = CommandLine(
    "tune",
    "Search for settings; every algorithm is searched by the same code with the same budget.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --env-kwargs preset=park --algorithm ppo --trials 20\n"
    "  --env CartPole-v1 --algorithm grpo --trials 30 --total-steps 5e4 --seeds-per-trial 3",
    {"search": TuneOptions, "budget": TrialBudget},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    return run_resumable(_LINE, arguments, _tune)


def _tune(configs: dict[str, Any], command: str, console: Console) -> None:
    """Search, and write the best settings to a file and to standard output."""
    options: TuneOptions = configs["search"]
    budget: TrialBudget = configs["budget"]
    check_algorithm(options.algorithm)
    require(("optuna",), "tune")
    from grpo_gym.trainers.comparison.search import Search  # of the extra `tune`

    check_environment(options.env, options.env_kwargs)
    contender = find_contender(options.algorithm, options.env, options.env_kwargs, options.settings)
    contender = contender.trained_for(budget.total_steps)
    contender.new_training(seed=0)
    claim_output(options.study_path, "--study")
    claim_output(options.out_path, "--out")
    search = Search(options.study_path, contender, budget)
    console.print(
        f"{options.study_path}: {options.trials} trials of {budget.total_steps:,} steps, "
        f"{options.processes} at a time"
    )
    if contender.from_task:
        console.print(in_words(contender.from_task))
    search.run(options.trials, options.processes, console.print)
    task = " ".join(f"{name}={value}" for name, value in options.env_kwargs.items())
    plural = "training" if budget.seeds_per_trial == 1 else "trainings"
    text = (
        f"# {options.algorithm} on {options.env} {task}".rstrip() + f". {search.summary()}.\n"
        f"# Each trial: {budget.seeds_per_trial} {plural} of {budget.total_steps:,} steps, "
        f"judged by the mean return of {budget.final_episodes:,} episodes. Made by\n"
        f"#   {command}\n"
    ) + _as_yaml(search.best_settings(), budget.total_steps)
    write_atomic(options.out_path, text.encode())
    console.print(f"settings: {options.out_path}")
    sys.stdout.write(text)


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
