"""Measure AutoScaler: the shipped settings over several seeds, beside a sweep of HPA's targets.

All play the same days, which no training sees. Every finished piece is written to a JSON file at
once, so an interrupted experiment goes on where it stopped.

    python scripts/autoscaling.py --part diurnal
    python scripts/autoscaling.py --part bursty
    python scripts/autoscaling_plot.py

Kubernetes' autoscaler and the other heuristics play twice: on their own terms, where they say how
many replicas there are to be and nothing keeps them from it, and with the actions of the policy.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.envs.autoscaler.baselines import make_baseline
from grpo_gym.evaluation.episodes import ActionFunction, Evaluation, evaluate
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.batches import NativeBatch, make_batch
from grpo_gym.settings.config import from_mapping, replace
from grpo_gym.storage.results import Results
from grpo_gym.trainers.presets import PRESETS
from grpo_gym.trainers.settings import TrainSettings, default_config

ENV = "AutoScaler-v0"
EVALUATION_SEED = 5_000_000
TARGETS_PERCENT = range(50, 100, 5)
OTHERS = ("threshold", "seasonal_naive", "holt_winters", "clairvoyant")
OWN_TERMS: dict[str, Any] = {"action": "replicas", "constraints": False}
"""What horizontal autoscalers are made for."""
JUDGED = {"reward": "chapter"}
"""The reward that is reported, whatever was trained with; the bill is in the infos."""
Measures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """What is trained and measured.

    Attributes:
        preset: Of the environment.
        env_kwargs: Further arguments of it.
        training_env_kwargs: Over those of the settings.
        training: Settings over those of the file: of `TrainSettings`.
        grpo: Settings over those of the file: of `GRPOConfig`.
        concurrencies: Other numbers of workers a replica that heuristics are measured with, where
            the policy changes it.
    """

    preset: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    training_env_kwargs: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)
    concurrencies: tuple[int, ...] = ()


PARTS = {
    "diurnal": Part("diurnal"),
    "diurnal-target": Part("diurnal-target"),
    "diurnal-joint": Part("diurnal-joint", concurrencies=(2, 3)),
    "bursty": Part("bursty"),
    "flash-crowd": Part("flash-crowd"),
    "dollars": Part("diurnal-target", training_env_kwargs={"reward": "dollars"}),
    # Published settings for a large network: slow on a CPU, so short, and on an hour at a time.
    "chapter": Part(
        "diurnal",
        env_kwargs={"history": 60},
        training={"policy": "temporal", "total_steps": 20_000},
        grpo={**PRESETS["chapter"], "num_groups": 4, "max_episode_steps": 60},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    part: str
    """What to measure: diurnal, diurnal-target, diurnal-joint, bursty, flash-crowd; dollars, which
    is diurnal-target with the other reward; or chapter, diurnal with published settings."""
    results: Path = Path("docs/results")
    """Folder of the JSON files, autoscaling_<part>.json."""
    seeds: int = 5
    """Trainings, from seed 0; settings were found on seed 50."""
    days: int = 1_000
    """Days that everybody plays; chapter's policy takes three seconds a day."""
    processes: int = 2
    """Measurements at a time; each uses one core."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    console = Console(stderr=True, highlight=False)
    if options.part not in PARTS:
        console.print(f"error: --part must be one of {', '.join(PARTS)}, got {options.part}")
        return 2
    part = PARTS[options.part]
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for terms, kwargs in terms_of(part).items():
        runs[terms] = partial(play_heuristics, kwargs, options.days)
    for seed in range(options.seeds):
        runs[f"trained/seed {seed}"] = partial(train, part, seed, options.days)
    path = options.results / f"autoscaling_{options.part}.json"
    Results(path, console.print).measure_all(runs, options.processes)
    return 0


def heuristics() -> dict[str, dict[str, Any]]:
    """Settings of heuristics, by a name that begins with theirs."""
    swept = {f"hpa {percent}": {"target_percent": percent} for percent in TARGETS_PERCENT}
    return {**swept, **{name: {} for name in OTHERS}}


def terms_of(part: Part) -> dict[str, dict[str, Any]]:
    """Environments that heuristics play in, by name."""
    task = {"preset": part.preset, **part.env_kwargs, **JUDGED}
    terms = {"own terms": {**task, **OWN_TERMS}, "policy's actions": task}
    for workers in part.concurrencies:
        terms[f"own terms, {workers} workers"] = {**task, **OWN_TERMS, "concurrency": workers}
    return terms


def play_heuristics(env_kwargs: Mapping[str, Any], days: int) -> dict[str, Measures]:
    """What each heuristic comes to."""
    batch = make_batch(ENV, env_kwargs, min(days, 1_000))
    if not isinstance(batch, NativeBatch):
        raise TypeError(f"{ENV} must be native, got {type(batch).__name__}")
    return {
        name: measures(
            evaluate(action_function(name, settings, batch), batch, days, EVALUATION_SEED)
        )
        for name, settings in heuristics().items()
    }


def action_function(name: str, settings: Mapping[str, Any], batch: NativeBatch) -> ActionFunction:
    """A heuristic that decides in these environments."""
    baseline = make_baseline(name.split(maxsplit=1)[0], batch.env, **settings)

    def act(
        observations: np.ndarray, _: np.ndarray | None, state: Any, episode_start: np.ndarray
    ) -> tuple[np.ndarray, Any]:
        actions: tuple[np.ndarray, Any] = baseline.predict(observations, state, episode_start)
        return actions

    return act


def train(part: Part, seed: int, days: int) -> dict[str, Any]:
    """What the policy at the end of a training comes to."""
    torch.set_num_threads(1)
    kwargs = {"preset": part.preset}
    values = {"env": ENV, "env_kwargs": kwargs, **default_config(ENV, kwargs), **part.training}
    settings = from_mapping(TrainSettings, values, part.preset)
    env_kwargs = {**settings.env_kwargs, **part.env_kwargs}
    model = GRPO(
        settings.policy,
        ENV,
        env_kwargs=env_kwargs,
        training_env_kwargs={**settings.training_env_kwargs, **part.training_env_kwargs},
        config=replace(settings.grpo, seed=seed, **part.grpo),
    )
    started = time.process_time()
    model.learn(settings.total_steps)
    seconds = time.process_time() - started
    judged = model.evaluate(days, seed=EVALUATION_SEED, env_kwargs={**env_kwargs, **JUDGED})
    return {
        **measures(judged),
        "training_steps": model.num_steps,
        "training_cpu_seconds": round(seconds, 1),
        "weights_sha256": model.weights_sha256(),
    }


def measures(evaluation: Evaluation) -> Measures:
    """Means over days and their 95 % intervals."""
    steps, metrics = evaluation.lengths, evaluation.metrics
    values = {
        "reward a step": evaluation.returns / steps,
        "violations %": 100.0 * metrics["violation"],
        "cost $/day": steps * metrics["cost_dollars"],
        "bill $/day": steps * (metrics["cost_dollars"] + metrics["penalty_dollars"]),
        "lost %": 100.0 * metrics["lost"] / metrics["arrivals"],
    }
    summaries = {name: summarise(each) for name, each in values.items()}
    return {
        name: {"mean": round(each.mean, 5), "ci95": [round(limit, 5) for limit in each.ci95]}
        for name, each in summaries.items()
    }


if __name__ == "__main__":
    sys.exit(main())
