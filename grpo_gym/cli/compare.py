"""`compare`: train GRPO and algorithms of Stable-Baselines3 alike, and report on them."""

import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import field
from os import cpu_count
from pathlib import Path
from typing import Any

from rich.console import Console

from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.cli.options import CommandLine, invocation
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.settings import (
    ConfigError,
    EnvId,
    Flag,
    Natural,
    Number,
    checked_dataclass,
    to_mapping,
)
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.measurements import changed_versions, measure, open_results
from grpo_gym.trainers.comparison.records import Budget, Count, Plan
from grpo_gym.trainers.comparison.settings import (
    Contender,
    check_algorithm,
    find_contender,
    require,
)
from grpo_gym.trainers.comparison.training import new_training
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.settings import task_names


@checked_dataclass
class CompareOptions:
    """What is compared, and where the results go."""

    env: EnvId = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park."""
    algorithms: tuple[str, ...] = ("grpo", "ppo")
    """Algorithms, separated by commas or spaces: grpo, ppo, a2c, trpo, maskable_ppo,
    recurrent_ppo."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings files instead of the shipped ones: ALGORITHM=FILE."""
    seeds: Count = 5
    """Trainings of each algorithm."""
    first_seed: Natural = 0
    """Seed of the first of them; another one adds trainings to a result file."""
    stochastic: Flag = False
    """Evaluate samples of the policies instead of their most probable actions."""
    processes: Count | None = None
    """Trainings at a time, each on one core; by default one for each core."""
    out: tuple[str, ...] = ()
    """Result file, new or to be continued; by default comparisons/<env>[-<preset>].json. With
    --no-train, several files make one report."""
    report: str | None = None
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
    def files(self) -> list[Path]:
        """The result files."""
        default = f"comparisons/{task_names(self.env, self.env_kwargs)[0]}.json"
        return [Path(name) for name in self.out or (default,)]


_LINE = CommandLine(
    "compare",
    "Train GRPO and algorithms of Stable-Baselines3 for the same steps, and report on them.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --algorithms grpo,ppo --seeds 5 --total-steps 1e6\n"
    "  --env Battleship-v0 --env-kwargs preset=microgrpo-5x5 --algorithms grpo,maskable_ppo\n"
    "  --no-train --out comparisons/*.json --report comparisons/all",
    {"comparison": CompareOptions, "budget": Budget},
)


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = _LINE.read(words)
    options: CompareOptions = configs["comparison"]
    budget: Budget = configs["budget"]
    require(("matplotlib",), "compare")
    command = f"{invocation('compare')} {shlex.join(words)}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def work() -> None:
        if not options.no_train:
            _train(options, budget, command, console)
        from grpo_gym.trainers.comparison.report import write_report  # of the extra `compare`

        files = options.files
        folder = files[0].with_suffix("") if options.report is None else Path(options.report)
        console.print(f"report: {write_report(files, folder, options.threshold)}", markup=False)

    return run_resumable(work, command, console)


def run_resumable(work: Callable[[], None], command: str, console: Console) -> int:
    """Do work that the same command resumes after a stop; returns the exit status.

    Args:
        work: Keeps whatever it finishes.
        command: The command line.
        console: Where to say how to resume.

    Raises:
        MemoryError: If one of the work's processes was killed.
    """
    with StopSignals().installed():
        try:
            work()
        except Stopped as stop:
            console.print(f"stopped; resume with: {command}", markup=False)
            return 128 + stop.number
        except BrokenExecutor as error:
            raise MemoryError(
                "a process was killed: use fewer --processes; what is finished is kept"
            ) from error
    return 0


def _train(options: CompareOptions, budget: Budget, command: str, console: Console) -> None:
    """Train what is missing, after checking that all of it can be trained."""
    contenders = _contenders(options)
    (path,) = options.files
    check_writable(path, "--out")
    plan = Plan(
        **to_mapping(budget),
        env=options.env,
        env_kwargs=options.env_kwargs,
        deterministic=not options.stochastic,
    )
    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def tell(line: str) -> None:
        console.print(_outcome(results, line), markup=False)

    results = open_results(path, plan, contenders, seeds, tell)
    if changed := changed_versions(results):
        console.print(f"packages changed since {path} was begun: {', '.join(changed)}")
    processes = options.processes or cpu_count() or 1
    trainings = options.seeds * len(contenders)
    console.print(
        f"{path}: {trainings} trainings of {plan.total_steps:,} steps, {processes} at a time"
    )
    for contender in contenders:
        if not contender.tuned:
            console.print(f"{contender.algorithm}: not tuned for this task; see grpo-gym tune")
    measure(results, plan, contenders, seeds, processes, command)


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
        file = None if file is None else str(file)
        contender = find_contender(name, options.env, options.env_kwargs, file)
        new_training(contender.settings, seed=0)
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
