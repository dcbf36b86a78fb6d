"""`compare`: train GRPO and algorithms of Stable-Baselines3 alike, and report on them."""

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine, as_option
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.resumable import TaskOptions, run_resumable
from grpo_gym.settings import (
    ConfigError,
    Flag,
    Integer,
    Natural,
    Number,
    checked_dataclass,
    to_mapping,
)
from grpo_gym.settings.effects import Needs, refuse_without_effect
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.contenders import Contender, find_contender
from grpo_gym.trainers.comparison.measurements import Comparison, changed_versions
from grpo_gym.trainers.comparison.records import Budget, Plan
from grpo_gym.trainers.comparison.settings import check_algorithm, require
from grpo_gym.trainers.comparison.task_results import training_note
from grpo_gym.trainers.defaults import in_words
from grpo_gym.trainers.named_policies import check_environment


@checked_dataclass
class CompareOptions(TaskOptions):
    """What is compared, and where the results go."""

    algorithms: tuple[str, ...] = ("grpo", "ppo")
    """Algorithms, separated by commas or spaces: grpo, ppo, a2c, trpo, maskable_ppo,
    recurrent_ppo."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings files instead of the shipped ones: ALGORITHM=FILE."""
    seeds: Annotated[Integer, Field(ge=1, le=10_000)] = 5
    """Trainings of each algorithm."""
    first_seed: Natural = 0
    """Seed of the first of them; another one adds trainings to a result file."""
    stochastic: Flag = False
    """Evaluate samples of the policies instead of their most probable actions."""
    out: tuple[Path, ...] = ()
    """Result file, new or to be continued; by default comparisons/<env>[-<preset>].json. With
    --no-train, several files make one report."""
    report: Path | None = None
    """Folder of the report; by default named after the results, beside them."""
    threshold: Number | None = None
    """The return to which steps and seconds are counted; by default the report chooses it."""
    no_train: Flag = False
    """Only report on the files of --out."""

    def __post_init__(self) -> None:
        names = tuple(name for word in self.algorithms for name in word.split(",") if name)
        object.__setattr__(self, "algorithms", names)
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"algorithms must name each once, got {','.join(names) or 'none'}")
        if len(self.out) > 1 and not self.no_train:
            raise ConfigError("--out must be one file, except with --no-train")
        if self.no_train and not self.out:
            raise ConfigError("--no-train must come with --out FILE ..., the files to report on")

    @property
    def files(self) -> tuple[Path, ...]:
        """The result files."""
        return self.out or (Path(f"comparisons/{self.task_name}.json"),)


_LINE = CommandLine(
    "compare",
    "Train GRPO and algorithms of Stable-Baselines3 for the same steps, and report on them.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --algorithms grpo,ppo --seeds 5 --total-steps 1e6\n"
    "  --env Battleship-v0 --env-kwargs preset=microgrpo-5x5 --algorithms grpo,maskable_ppo\n"
    "  --no-train --out comparisons/*.json --report comparisons/all",
    {"comparison": CompareOptions, "budget": Budget},
)


_TRAINING = ("env", "env_kwargs", "algorithms", "settings", "seeds", "first_seed", "stochastic")
"""Options that say how to train."""


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    return run_resumable(_LINE, arguments, _compare)


def _compare(configs: dict[str, Any], command: str, console: Console) -> None:
    options: CompareOptions = configs["comparison"]
    _refuse_training_options(options, configs["budget"])
    require(("matplotlib",), "compare")
    from grpo_gym.trainers.comparison.report import FILE_NAME, write_report  # of the extra

    files = options.files
    folder = options.report or files[0].with_suffix("")
    train = None if options.no_train else _prepare(options, configs["budget"], command, console)
    claim_output(folder / FILE_NAME, "--report")
    if train is not None:
        train()
    console.print(f"report: {write_report(files, folder, options.threshold)}")


def _refuse_training_options(options: CompareOptions, budget: Budget) -> None:
    """Refuse options that say how to train if nothing is to be trained.

    Raises:
        ConfigError: If there is one.
    """
    for config, names in ((options, _TRAINING), (budget, tuple(vars(budget)))):
        needs = Needs(names, "--no-train is left out too", lambda _: not options.no_train)
        refuse_without_effect(config, [needs], names, as_option)


def _prepare(
    options: CompareOptions, budget: Budget, command: str, console: Console
) -> Callable[[], None]:
    """What trains all that is missing, after checking that it can be trained."""
    contenders = [found.trained_for(budget.total_steps) for found in _contenders(options)]
    (path,) = options.files
    plan = Plan(
        **to_mapping(budget),
        env=options.env,
        env_kwargs=options.env_kwargs,
        deterministic=not options.stochastic,
    )
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    comparison = Comparison(plan, contenders, seeds)
    results: Results = claim_output(
        path,
        "--out",
        lambda path: comparison.open_results(
            path, lambda line: console.print(_outcome(results, line))
        ),
    )
    if changed := changed_versions(results):
        console.print(f"packages changed since {path} was begun: {', '.join(changed)}")
    console.print(
        f"{path}: {options.seeds * len(contenders)} trainings of {plan.total_steps:,} steps, "
        f"{options.processes} at a time"
    )
    for contender in contenders:
        if not contender.tuned:
            console.print(f"{contender.algorithm}: not tuned for this task; see grpo-gym tune")
        if training_kwargs := contender.settings.training_env_kwargs:
            console.print(training_note(contender.algorithm, training_kwargs))
        if contender.from_task:
            console.print(in_words(contender.from_task))
    return partial(comparison.measure, results, options.processes, command)


def _contenders(options: CompareOptions) -> list[Contender]:
    """The algorithms with their settings, each checked to be able to train.

    Raises:
        ConfigError: If one is unknown, or cannot play the environment.
    """
    for name in (*options.algorithms, *options.settings):
        check_algorithm(name)
    for name in options.settings:
        if name not in options.algorithms:
            raise ConfigError(f"--settings {name}=... must come with {name} among --algorithms")
    check_environment(options.env, options.env_kwargs)
    contenders = []
    for name in options.algorithms:
        file = options.settings.get(name)
        contender = find_contender(name, options.env, options.env_kwargs, file and str(file))
        contender.new_training(seed=0)
        contenders.append(contender)
    return contenders


def _outcome(results: Results, line: str) -> str:
    """A line of the results, with what was measured."""
    key, _, rest = line.partition(": ")
    value = results.values.get(key)
    if rest != "done" or not isinstance(value, dict):
        return line
    final = value.get("final", value)
    text = f"{key}: {final['mean_return']:.4g} +- {final['sem']:.2g}"
    if "final" in value:
        text += f" after {value['steps']:,} steps, {value['cpu_seconds']:.0f} s"
    return text
