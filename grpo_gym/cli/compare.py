"""`compare`: train GRPO and algorithms of Stable-Baselines3 alike, and report on them."""

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import field
from os import cpu_count
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.cli.options import SOURCE, CommandLine, invocation
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.settings import (
    ConfigError,
    Count,
    Integer,
    Natural,
    Number,
    checked_dataclass,
    from_mapping,
)
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.runs import (
    Plan,
    measure,
    new_training,
    open_results,
    other_versions,
)
from grpo_gym.trainers.comparison.settings import (
    Contender,
    check_algorithm,
    find_contender,
    require,
)
from grpo_gym.trainers.named_policies import check_environment


@checked_dataclass
class CompareOptions:
    """What is compared, how thoroughly, and where it is kept."""

    env: str = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park."""
    algorithms: tuple[str, ...] = ("grpo", "ppo")
    """Algorithms, with commas or spaces between them: grpo, ppo, a2c, trpo, maskable_ppo,
    recurrent_ppo."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings files instead of the shipped ones: ALGORITHM=FILE."""
    seeds: Count = 5
    """Trainings of each algorithm."""
    first_seed: Natural = 0
    """Seed of the first of them; with another one a result file gets more trainings."""
    total_steps: Count = 1_000_000
    """Environment steps of each training."""
    evaluations: Count = 20
    """Points of each learning curve."""
    curve_episodes: Annotated[Integer, Field(ge=1, le=1_000_000)] = 200
    """Episodes of each point."""
    final_episodes: Annotated[Integer, Field(ge=1, le=1_000_000)] = 1000
    """Episodes that every trained policy and baseline plays in the end."""
    stochastic: bool = False
    """Evaluate samples of the policies instead of their most probable actions."""
    processes: Count | None = None
    """Trainings at a time, each on one core; by default as many as there are cores."""
    out: tuple[str, ...] = ()
    """File of the results, new or to go on with; by default
    comparisons/<env>[-<preset>].json. With --no-train several: one report over all of them."""
    report: str | None = None
    """Folder of the report; by default one beside the results, of the same name."""
    threshold: Number | None = None
    """The return to which steps and seconds are counted; by default the report chooses it."""
    no_train: bool = False
    """Only report on the files of --out."""

    def __post_init__(self) -> None:
        names = tuple(name for word in self.algorithms for name in word.split(",") if name)
        object.__setattr__(self, "algorithms", names)
        object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"algorithms must name each once, got {','.join(names) or 'none'}")
        if len(self.out) > 1 and not self.no_train:
            raise ConfigError("--out must be one file unless --no-train is there")
        if self.no_train and not self.out:
            raise ConfigError("--no-train must come with --out FILE ..., the files to report on")

    @property
    def training_seeds(self) -> range:
        """Seeds of the trainings of each algorithm."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def files(self) -> list[Path]:
        """Files of results."""
        if self.out:
            return [Path(name) for name in self.out]
        return [Path("comparisons") / f"{task_name(self.env, self.env_kwargs)}.json"]

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.files[0].with_suffix("") if self.report is None else Path(self.report)

    @property
    def plan(self) -> Plan:
        """What all trainings have in common."""
        return Plan(
            env=self.env,
            env_kwargs=self.env_kwargs,
            total_steps=self.total_steps,
            evaluations=self.evaluations,
            curve_episodes=self.curve_episodes,
            final_episodes=self.final_episodes,
            deterministic=not self.stochastic,
        )


_LINE = CommandLine(
    "compare",
    "Train GRPO and algorithms of Stable-Baselines3 for the same steps, and report on them.\n\n"
    "For example:\n"
    "  --env LoadBalancer-v0 --algorithms grpo,ppo --seeds 5 --total-steps 1e6\n"
    "  --env Battleship-v0 --env-kwargs preset=microgrpo-5x5 --algorithms grpo,maskable_ppo\n"
    "  --no-train --out comparisons/*.json --report comparisons/all",
    {"comparison": CompareOptions},
)


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    require(("scipy", "matplotlib"), "compare")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with StopSignals().installed():
        if not options.no_train:
            try:
                _train(options, f"{invocation('compare')} {shlex.join(given)}", console)
            except Stopped as stop:
                command = f"{invocation('compare')} {shlex.join(given)}"
                console.print(f"stopped; go on with: {command}", markup=False)
                return 128 + stop.number
        from grpo_gym.trainers.comparison.report import write_report  # of the extra `compare`

        report = write_report(options.files, options.folder, options.threshold)
    console.print(f"report: {report}", markup=False)
    return 0


def task_name(env: str, env_kwargs: dict[str, Any]) -> str:
    """What files of a task are called."""
    name = env.replace("/", "-").replace(":", "-")
    return f"{name}-{env_kwargs['preset']}" if "preset" in env_kwargs else name


def _parse(arguments: Sequence[str]) -> CompareOptions:
    given = _LINE.parse(arguments)
    options = from_mapping(CompareOptions, given.values["comparison"], SOURCE)
    if given.help:
        _LINE.show_help({"comparison": options})
    return options


def _train(options: CompareOptions, command: str, console: Console) -> None:
    """Train what is missing; what cannot be is refused first."""
    contenders = _contenders(options)
    (path,) = options.files
    check_writable(path, "--out")

    def tell(line: str) -> None:
        console.print(_outcome(results, line), markup=False)

    results = open_results(path, options.plan, contenders, options.training_seeds, tell)
    if changed := other_versions(results):
        console.print(f"packages changed since {path} was begun: {', '.join(changed)}")
    processes = options.processes or cpu_count() or 1
    runs = options.seeds * len(contenders)
    console.print(f"{path}: {runs} trainings of {options.total_steps:,} steps, {processes} at once")
    for contender in contenders:
        if not contender.tuned:
            console.print(f"{contender.algorithm}: not tuned for this task; see grpo-gym tune")
    try:
        measure(results, options.plan, contenders, options.training_seeds, processes, command)
    except BrokenExecutor as error:
        raise MemoryError(
            f"a training's process was killed, with {processes} at once: give fewer --processes; "
            "what has finished is kept"
        ) from error


def _contenders(options: CompareOptions) -> list[Contender]:
    """The algorithms with their settings, each seen to be able to train.

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
        contender = find_contender(
            name, options.env, options.env_kwargs, None if file is None else str(file)
        )
        new_training(contender.settings, seed=0)
        contenders.append(contender)
    return contenders


def _outcome(results: Results, line: str) -> str:
    """A line of the results, with what was found."""
    value = results.values.get(line.removesuffix(": done"))
    if not isinstance(value, dict) or not line.endswith(": done"):
        return line
    found = value.get("final", value)
    text = f"{line.removesuffix('done')}{found['mean_return']:.4g} +- {found['sem']:.2g}"
    if "final" in value:
        text += f" after {value['steps']:,} steps, {value['cpu_seconds']:.0f} s"
    return text
