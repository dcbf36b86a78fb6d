"""One training of a comparison, from untrained to evaluated, and the file that keeps them all."""

import json
import math
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from grpo_gym.evaluation.episodes import Evaluation, evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError, Count, Integer, Natural, checked_dataclass, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.curves import Curve, Point
from grpo_gym.trainers.comparison.ours import OurTraining, Training
from grpo_gym.trainers.comparison.settings import Contender, PeerSettings, Settings, describe
from grpo_gym.trainers.named_policies import baseline_action_function, table_names

Episodes = Annotated[Integer, Field(ge=1, le=1_000_000)]

EVALUATION_SEED = 5_000_000
"""Seed of the first episode after training."""
_CURVE_SEEDS = 1_000_000
"""How much further those of the curves begin."""
_MAX_ENVS = 128
_PACKAGES = ("grpo_gym", "torch", "gymnasium", "stable_baselines3", "sb3_contrib", "numpy")


@checked_dataclass
class Plan:
    """What all trainings of a comparison have in common."""

    env: str
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    total_steps: Count = 1_000_000
    """Environment steps of each training, rounded up to whole iterations."""
    evaluations: Count = 20
    """Points of each learning curve after the first, evenly in steps."""
    curve_episodes: Episodes = 200
    """Episodes of each point."""
    final_episodes: Episodes = 1000
    """Episodes after training, others than those of the curve."""
    deterministic: bool = True
    """Whether policies play their most probable actions, or samples, when they are evaluated."""
    evaluation_seed: Natural = EVALUATION_SEED
    """Seed of the first episode after training; the curve's begin a million further."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))


def new_training(settings: Settings, seed: int) -> Training:
    """An algorithm before it learns.

    Raises:
        ConfigError: If it cannot play the environment, or not with these settings.
    """
    if isinstance(settings, PeerSettings):
        from grpo_gym.trainers.comparison.peers import PeerTraining  # of the extra `compare`

        return PeerTraining(settings, seed)
    return OurTraining(settings, seed)


def run(
    contender: Contender,
    seed: int,
    plan: Plan,
    on_point: Callable[[Point], None] | None = None,
) -> dict[str, Any]:
    """Train and evaluate; nothing but the training counts for its seconds.

    Args:
        contender: The algorithm and its settings.
        seed: Of the training.
        plan: How long, and what is played.
        on_point: Called with each point of the curve after the first.

    Returns:
        `settings`, `tuned`, `parameters`, `policy_parameters`, `peak_memory_mb` of this process
        until the training ends, `steps`, `cpu_seconds`, `wall_seconds`, `weights_sha256`,
        `curve`, and `final`: `mean_return`, `sem` and `metrics`.
    """
    torch.set_num_threads(1)
    settings = contender.settings
    training = new_training(settings, seed)
    batch = make_batch(settings.env, settings.env_kwargs, _num_envs(plan))

    def play(episodes: int, first_seed: int) -> Evaluation:
        # A new one each time: its samples do not depend on earlier evaluations.
        return evaluate(training.action_function(plan.deterministic), batch, episodes, first_seed)

    def measure() -> float:
        return play(plan.curve_episodes, plan.evaluation_seed + _CURVE_SEEDS).mean_return

    curve = Curve(measure, plan.total_steps, plan.evaluations, on_point)
    curve.record(0)
    training.learn(plan.total_steps, curve.record)
    curve.record(training.num_steps, at_end=True)
    peak_memory_mb = _peak_memory_mb()
    return {
        "settings": describe(settings),
        "tuned": contender.tuned,
        "parameters": training.parameters,
        "policy_parameters": training.policy_parameters,
        "peak_memory_mb": peak_memory_mb,
        **{name: curve.points[-1][name] for name in ("steps", "cpu_seconds", "wall_seconds")},
        "weights_sha256": checkpoint.weights_sha256(training.weights().state_dict()),
        "curve": curve.points,
        "final": _final(play(plan.final_episodes, plan.evaluation_seed)),
    }


def play_baseline(name: str, plan: Plan) -> dict[str, Any]:
    """What a baseline comes to in the episodes after training: `mean_return` and `sem`."""
    batch = make_batch(plan.env, plan.env_kwargs, _num_envs(plan))
    action_function = baseline_action_function(name, plan.env, batch)
    final = _final(evaluate(action_function, batch, plan.final_episodes, plan.evaluation_seed))
    return {"mean_return": final["mean_return"], "sem": final["sem"]}


def open_results(
    path: Path,
    plan: Plan,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    report: Callable[[str], None],
) -> Results:
    """The file of a task, new or to go on with.

    Args:
        path: The file.
        plan: What is asked now.
        contenders: The algorithms asked for.
        seeds: Of the trainings of each.
        report: Called with a line about each measurement.

    Raises:
        ConfigError: If the file is of something else, or its runs were made otherwise.
    """
    try:
        results = Results(path, report)
    except ValueError as error:
        raise ConfigError(f"{path} must hold results, got {error}: choose another --out") from error
    if not results.values:
        return results
    stored = results.values.get("task") if isinstance(results.values, dict) else None
    if not isinstance(stored, Mapping):
        raise ConfigError(f"{path} must hold results of compare: choose another --out")
    asked = to_mapping(plan)
    refuse_difference(path, "--out", "task", {name: stored.get(name) for name in asked}, asked)
    for contender in contenders:
        now = _plain(describe(contender.settings))
        for seed in seeds:
            key = f"{contender.algorithm}/seed {seed}"
            if key in results.values:
                refuse_difference(
                    path, "--out", f"{key}: settings", results.values[key]["settings"], now
                )
    return results


def measure(
    results: Results,
    plan: Plan,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    processes: int,
    command: str,
) -> None:
    """Measure what is missing: baselines here, each training in a process of its own.

    Args:
        results: What `open_results` gave.
        plan: How long, and what is played.
        contenders: The algorithms.
        seeds: Of the trainings of each.
        processes: Trainings at a time; each uses one core.
        command: How this was asked for, to be kept.
    """
    results.values.setdefault("task", {**to_mapping(plan), **_surroundings(), "command": command})
    for name in table_names(plan.env, plan.env_kwargs):  # sooner played than a process has started
        results.measure(f"baseline/{name}", partial(play_baseline, name, plan))
    measurements: dict[str, Callable[[], Any]] = {}
    for seed in seeds:
        for contender in contenders:
            key = f"{contender.algorithm}/seed {seed}"
            measurements[key] = partial(_undisturbed, partial(run, contender, seed, plan))
    results.measure_all(measurements, processes)


def other_versions(results: Results) -> list[str]:
    """What differs between the packages that a file was begun with and those of today."""
    stored = results.values.get("task", {}).get("versions", {})
    return [
        f"{name} {stored[name]} -> {now}"
        for name, now in _versions().items()
        if name in stored and stored[name] != now
    ]


def refuse_difference(path: Path, option: str, place: str, stored: Any, now: Any) -> None:
    """Name the first difference between what a file has and what is asked.

    Args:
        path: The file.
        option: How another file is chosen.
        place: Where in it `stored` lies.
        stored: Plain values.
        now: Plain values.

    Raises:
        ConfigError: If there is one.
    """
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        for name in [*now, *(name for name in stored if name not in now)]:
            refuse_difference(path, option, f"{place}.{name}", stored.get(name), now.get(name))
    elif stored != now:
        raise ConfigError(
            f"{path}: {place} was {stored!r} there and is {now!r} now: choose another {option}, or "
            "ask for the same"
        )


def _undisturbed(work: Callable[[], Any]) -> Any:
    """Ctrl-C reaches every process of a terminal; the one that keeps results stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return work()


def _num_envs(plan: Plan) -> int:
    return min(max(plan.curve_episodes, plan.final_episodes), _MAX_ENVS)


def _final(evaluation: Evaluation) -> dict[str, Any]:
    summary = evaluation.summary()
    return {
        "mean_return": summary["return"]["mean"],
        "sem": summary["return"]["sem"],
        "metrics": {name: values["mean"] for name, values in summary["metrics"].items()},
    }


def _surroundings() -> dict[str, Any]:
    return {
        "versions": {**_versions(), "python": platform.python_version()},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _processor() -> str:
    """What the processor is called; Python itself does not know it on Linux."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _peak_memory_mb() -> float:
    """The most memory that this process has held, MiB; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts the process that started this one there
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def _plain(values: Any) -> Any:
    """As a JSON file gives it back."""
    return json.loads(json.dumps(values))
