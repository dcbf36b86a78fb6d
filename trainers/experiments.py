"""Experiments: trainings with the shipped settings over several seeds, measured and kept.

A script names its measurements and makes each of them from these steps:

    settings = shipped_settings("LoadBalancer-v0", "park")
    trained = train(settings, seed=0)
    trained.model.evaluate(10_000, seed=EVALUATION_SEED)

`measure` keeps every measurement in a JSON file as soon as it is made, so that an interrupted
experiment resumes where it stopped.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from grpo_gym.settings import Integer, Processes, check_value, from_mapping
from grpo_gym.storage.results import Results
from grpo_gym.trainers.grpo import GRPO, Callback
from grpo_gym.trainers.settings import TrainSettings, new_model
from grpo_gym.trainers.shipped import default_config

EVALUATION_SEED = 5_000_000
"""First seed of the evaluation episodes; no training uses these seeds."""


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Command-line options of an experiment in parts."""

    results: Path = Path("docs/results")
    """Folder of the JSON files, one for each part; what they hold is not measured again."""
    seeds: int = 5
    """Trainings of each setting, from seed 0; settings were tuned on seeds from 50."""
    processes: int = 2
    """Measurements to make at a time; each uses one core."""

    def __post_init__(self) -> None:
        """Refuse numbers that no machine and no patience would stand.

        Raises:
            ConfigError: If there are too few or too many seeds or processes.
        """
        check_value("processes", self.processes, Processes)
        check_value("seeds", self.seeds, Annotated[Integer, Field(ge=1, le=10_000)])

    def measure(
        self,
        name: str,
        trainings: Mapping[str, Callable[[int], Any]],
        others: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        """Make what `<results>/<name>.json` lacks: each training with each seed, and the others.

        Args:
            name: The file.
            trainings: By key; each takes a seed and returns plain values. Picklable, as the others.
            others: Measurements that need no seed, made first.
        """
        measurements = dict(others or {})
        for seed in range(self.seeds):
            for key, training in trainings.items():
                measurements[f"{key}/seed {seed}"] = partial(training, seed)
        measure(self.results / f"{name}.json", measurements, self.processes)


@dataclass(frozen=True)
class Trained:
    """A trained model and the time that training took."""

    model: GRPO
    """At the end of training."""
    wall_seconds: float
    """Elapsed time."""
    cpu_seconds: float
    """Processor time of this process."""


def shipped_settings(
    env: str,
    preset: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    training_env_kwargs: Mapping[str, Any] | None = None,
    grpo: Mapping[str, Any] | None = None,
    **changes: Any,
) -> TrainSettings:
    """The settings that ship with an environment and preset, with changes.

    Args:
        env: Id of the environment.
        preset: The environment's preset.
        env_kwargs: Merged into the shipped ones, as are the next two.
        training_env_kwargs: Arguments of the environment in training only.
        grpo: Fields of `GRPOConfig`.
        changes: Other fields of `TrainSettings`.

    Raises:
        ConfigError: If a field is unknown or a value breaks its rule.
    """
    kwargs = {} if preset is None else {"preset": preset}
    values = {"env": env, "env_kwargs": kwargs, **default_config(env, kwargs), **changes}
    further = {"env_kwargs": env_kwargs, "training_env_kwargs": training_env_kwargs, "grpo": grpo}
    for name, each in further.items():
        values[name] = {**values.get(name, {}), **(each or {})}
    return from_mapping(TrainSettings, values, f"shipped settings for {env}")


def train(
    settings: TrainSettings,
    seed: int,
    *,
    iterations: int | None = None,
    callback: Callback | Iterable[Callback] = (),
) -> Trained:
    """Train a new model.

    Args:
        settings: What to train, and for how many steps.
        seed: Of the training.
        iterations: Train for this many iterations instead.
        callback: Called after each iteration, as in `GRPO.learn`.

    Raises:
        ConfigError: If the settings cannot be used.
        SnapshotError: If groups are to branch where environments cannot be copied.
    """
    model = new_model(replace(settings, grpo=replace(settings.grpo, seed=seed)))
    with model:
        model.prepare()
        wall, cpu = time.perf_counter(), time.process_time()
        if iterations is None:
            model.learn(settings.total_steps, callback=callback)
        else:
            for _ in range(iterations):
                model.train_iteration()
    return Trained(model, time.perf_counter() - wall, time.process_time() - cpu)


def measure(
    path: Path, measurements: Mapping[str, Callable[[], Any]], processes: int | None = None
) -> dict[str, Any]:
    """Make the measurements that a results file lacks; report each on standard error.

    Args:
        path: The JSON file.
        measurements: By key; each returns plain values.
        processes: Measurements to make at a time, each in a fresh process; they must then be
            picklable. None: one after the other in this process.

    Returns:
        Everything in the file, by key.

    Raises:
        InUseError: If another process is measuring into the file.
    """
    with Results(path, Console(stderr=True, highlight=False).print) as results:
        if processes is None:
            for key, measurement in measurements.items():
                results.measure(key, measurement)
        else:
            results.measure_all(measurements, processes)
    return results.values
