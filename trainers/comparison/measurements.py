"""Trainings of a comparison, and the file that keeps their results."""

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grpo_gym.evaluation.episodes import Evaluation, evaluate
from grpo_gym.rollouts.batches import EnvBatch, make_batch
from grpo_gym.settings import ConfigError, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.curves import Curve
from grpo_gym.trainers.comparison.machine import machine, peak_memory_mb, versions
from grpo_gym.trainers.comparison.records import (
    CurvePoint,
    FinalReturn,
    Plan,
    Task,
    TrainingResult,
)
from grpo_gym.trainers.comparison.settings import Contender, describe
from grpo_gym.trainers.comparison.training import new_training
from grpo_gym.trainers.named_policies import baseline_action_function, table_names

_CURVE_SEEDS = 1_000_000
"""Distance of the curve's episode seeds from those of the final evaluation."""
_MAX_ENVS = 128


def train_and_evaluate(
    contender: Contender,
    seed: int,
    plan: Plan,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> TrainingResult:
    """Train once; evaluations count neither as steps nor as time.

    `on_point` is called with each point of the curve after the first.
    """
    torch.set_num_threads(1)
    training = new_training(contender.settings, seed)
    batch = _evaluation_batch(plan, contender.settings.env_kwargs)

    def play(episodes: int, first_seed: int) -> Evaluation:
        # A new action function each time, so that its samples depend on no earlier evaluation.
        action_function = training.action_function(plan.deterministic)
        return evaluate(action_function, batch, episodes, first_seed)

    def measure() -> float:
        return play(plan.curve_episodes, plan.evaluation_seed + _CURVE_SEEDS).mean_return

    curve = Curve(measure, plan.total_steps, plan.evaluations, on_point)
    curve.record(0)
    training.learn(plan.total_steps, curve.record)
    curve.record(training.num_steps, at_end=True)
    end = curve.points[-1]
    return TrainingResult(
        settings=describe(contender.settings),
        tuned=contender.tuned,
        parameters=training.parameters,
        policy_parameters=training.policy_parameters,
        peak_memory_mb=peak_memory_mb(),
        steps=end.steps,
        cpu_seconds=end.cpu_seconds,
        wall_seconds=end.wall_seconds,
        weights_sha256=checkpoint.weights_sha256(training.network.state_dict()),
        curve=tuple(curve.points),
        final=_final_return(play(plan.final_episodes, plan.evaluation_seed)),
    )


def play_baseline(name: str, plan: Plan) -> dict[str, float]:
    """`mean_return` and `sem` of a baseline on the final episodes."""
    batch = _evaluation_batch(plan, plan.env_kwargs)
    action_function = baseline_action_function(name, plan.env, batch)
    final = _final_return(
        evaluate(action_function, batch, plan.final_episodes, plan.evaluation_seed)
    )
    return {"mean_return": final.mean_return, "sem": final.sem}


def open_results(
    path: Path,
    plan: Plan,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    report: Callable[[str], None],
) -> Results:
    """Open the result file of a task, new or to be continued.

    Args:
        path: The file.
        plan: What is asked for now.
        contenders: The algorithms asked for.
        seeds: Seeds of the trainings of each.
        report: Called with a line about each measurement.

    Raises:
        ConfigError: If the file holds something else, or was measured with another plan or other
            settings.
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
        settings = describe(contender.settings)
        for seed in seeds:
            key = f"{contender.algorithm}/seed {seed}"
            if key in results.values:
                measured = results.values[key]["settings"]
                refuse_difference(path, "--out", f"{key}: settings", measured, settings)
    return results


def measure(
    results: Results,
    plan: Plan,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    processes: int,
    command: str,
) -> None:
    """Measure what is missing: baselines in this process, each training in one of its own.

    Args:
        results: From `open_results`, with the same arguments.
        plan: How long to train, and what to evaluate on.
        contenders: The algorithms.
        seeds: Seeds of the trainings of each.
        processes: Trainings at a time; each uses one core.
        command: The command line, to be kept in the file.
    """
    task = Task(**to_mapping(plan), versions=versions(), machine=machine(), command=command)
    results.values.setdefault("task", to_mapping(task))
    for name in table_names(plan.env, plan.env_kwargs):  # sooner played than a process has started
        results.measure(f"baseline/{name}", partial(play_baseline, name, plan))
    trainings = {
        f"{contender.algorithm}/seed {seed}": partial(_train_uninterrupted, contender, seed, plan)
        for seed in seeds
        for contender in contenders
    }
    results.measure_all(trainings, processes)


def changed_versions(results: Results) -> list[str]:
    """Packages whose versions differ from those that a file was begun with."""
    stored = results.values.get("task", {}).get("versions", {})
    return [
        f"{name} {stored[name]} -> {now}"
        for name, now in versions().items()
        if stored.get(name, now) != now
    ]


def refuse_difference(path: Path, option: str, place: str, stored: Any, now: Any) -> None:
    """Refuse plain values that differ from those stored at a place of a file.

    Raises:
        ConfigError: At the first difference; it names the option that chooses another file.
    """
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        for name in {**now, **stored}:
            refuse_difference(path, option, f"{place}.{name}", stored.get(name), now.get(name))
    elif stored != now:
        raise ConfigError(
            f"{path}: {place} was {stored!r} there and is {now!r} now: choose another {option}, or "
            "ask for the same"
        )


def _train_uninterrupted(contender: Contender, seed: int, plan: Plan) -> dict[str, Any]:
    # Ctrl-C reaches every process of a terminal; the one that keeps results stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return to_mapping(train_and_evaluate(contender, seed, plan))


def _evaluation_batch(plan: Plan, env_kwargs: Mapping[str, Any]) -> EnvBatch:
    num_envs = min(max(plan.curve_episodes, plan.final_episodes), _MAX_ENVS)
    return make_batch(plan.env, env_kwargs, num_envs)


def _final_return(evaluation: Evaluation) -> FinalReturn:
    summary = evaluation.summary()
    return FinalReturn(
        mean_return=summary["return"]["mean"],
        sem=summary["return"]["sem"],
        metrics={name: values["mean"] for name, values in summary["metrics"].items()},
    )
