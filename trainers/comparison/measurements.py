"""Trainings of a comparison, and the file that keeps their results."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grpo_gym.evaluation.episodes import MAX_ENVS, Evaluation, evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.results import Results
from grpo_gym.trainers.comparison.contenders import Contender
from grpo_gym.trainers.comparison.curves import learn_with_curve
from grpo_gym.trainers.comparison.machine import machine, peak_memory_mb, versions
from grpo_gym.trainers.comparison.records import CurvePoint, FinalReturn, Plan, Task, TrainingResult
from grpo_gym.trainers.named_policies import evaluate_baseline, table_names

_CURVE_SEEDS = 1_000_000
"""Distance of the curve's episode seeds from those of the final evaluation."""


@dataclass(frozen=True)
class Comparison:
    """Trainings of several algorithms with one plan, as one result file keeps them."""

    plan: Plan
    contenders: Sequence[Contender]
    seeds: Sequence[int]
    """Seeds of the trainings of each contender."""

    def open_results(self, path: Path, report: Callable[[str], None]) -> Results:
        """Claim the result file, new or to be continued; `report` gets a line for each measurement.

        Raises:
            ConfigError: If the file holds something else, or was measured with another plan or
                other settings.
            InUseError: If another process has claimed it.
            OSError: If it cannot be written.
        """
        try:
            results = Results(path, report)
        except ValueError as error:
            raise ConfigError(
                f"{path} must hold results, got {error}: choose another --out"
            ) from error
        try:
            self._refuse_other_results(path, results)
        except BaseException:
            results.close()
            raise
        return results

    def _refuse_other_results(self, path: Path, results: Results) -> None:
        if not results.values:
            return
        stored = results.values.get("task")
        if not isinstance(stored, Mapping):
            raise ConfigError(f"{path} must hold results of compare: choose another --out")
        asked = to_mapping(self.plan)
        refuse_difference(path, "--out", "task", {name: stored.get(name) for name in asked}, asked)
        for key, (contender, _) in self._trainings().items():
            if key in results.values:
                measured = results.values[key]
                described = measured.get("settings") if isinstance(measured, Mapping) else None
                if not isinstance(described, Mapping):
                    raise ConfigError(
                        f"{path}: {key} must have settings, got {measured!r:.60}: choose another "
                        "--out"
                    )
                stored, place = contender.completed(described), f"{key}: settings"
                refuse_difference(path, "--out", place, stored, contender.describe())

    def measure(self, results: Results, processes: int, command: str) -> None:
        """Measure what is missing: baselines in this process, each training in one of its own.

        `results` come from `open_results`, and keep the command line with the task.
        """
        plan = self.plan
        task = Task(**to_mapping(plan), versions=versions(), machine=machine(), command=command)
        results.values.setdefault("task", to_mapping(task))
        # Baselines are played sooner than a process has started.
        for name in table_names(plan.env, plan.env_kwargs):
            results.measure(f"baseline/{name}", partial(play_baseline, name, plan))
        trainings = {
            key: partial(_train, contender, seed, plan)
            for key, (contender, seed) in self._trainings().items()
        }
        results.measure_all(trainings, processes)

    def _trainings(self) -> dict[str, tuple[Contender, int]]:
        """Contender and seed of each training, by its key in the file."""
        return {
            f"{contender.algorithm}/seed {seed}": (contender, seed)
            for seed in self.seeds
            for contender in self.contenders
        }


def train_and_evaluate(
    contender: Contender,
    seed: int,
    plan: Plan,
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> TrainingResult:
    """Train once; evaluations count neither as steps nor as time.

    `on_point` is called with each point of the curve after the first.
    """
    torch.set_num_threads(1)
    training = contender.new_training(seed)
    num_envs = min(max(plan.curve_episodes, plan.final_episodes), MAX_ENVS)
    with closing(make_batch(plan.env, contender.settings.env_kwargs, num_envs)) as batch:

        def play(episodes: int, first_seed: int) -> Evaluation:
            # A new action function each time, so that its samples depend on no earlier evaluation.
            action_function = training.action_function(plan.deterministic)
            return evaluate(action_function, batch, episodes, first_seed)

        def measure() -> float:
            return play(plan.curve_episodes, plan.evaluation_seed + _CURVE_SEEDS).mean_return

        curve = learn_with_curve(training, measure, plan.total_steps, plan.evaluations, on_point)
        memory = peak_memory_mb()
        final = play(plan.final_episodes, plan.evaluation_seed).summary()
    end = curve[-1]
    return TrainingResult(
        settings=contender.describe(),
        tuned=contender.tuned,
        parameters=training.parameters,
        policy_parameters=training.policy_parameters,
        peak_memory_mb=memory,
        steps=end.steps,
        cpu_seconds=end.cpu_seconds,
        wall_seconds=end.wall_seconds,
        weights_sha256=checkpoint.weights_sha256(training.network.state_dict()),
        curve=tuple(curve),
        final=FinalReturn(
            mean_return=final["return"]["mean"],
            sem=final["return"]["sem"],
            metrics={name: values["mean"] for name, values in final["metrics"].items()},
        ),
    )


def play_baseline(name: str, plan: Plan) -> dict[str, float]:
    """`mean_return` and `sem` of a baseline on the final episodes."""
    played = evaluate_baseline(
        name, plan.env, plan.env_kwargs, plan.final_episodes, plan.evaluation_seed
    )
    returns = played.summary()["return"]
    return {"mean_return": returns["mean"], "sem": returns["sem"]}


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


def _train(contender: Contender, seed: int, plan: Plan) -> dict[str, Any]:
    return to_mapping(train_and_evaluate(contender, seed, plan))
