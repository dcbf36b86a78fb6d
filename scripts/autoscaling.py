"""Measure AutoScaler: the shipped settings over several seeds, beside a sweep of HPA's targets.

All play the same days, which no training sees. An interrupted experiment resumes where it stopped.

    python scripts/autoscaling.py --part diurnal
    python scripts/autoscaling.py --part bursty
    python scripts/autoscaling_plot.py

Kubernetes' autoscaler and the other heuristics play twice: on their own terms, where they command
the number of replicas without constraints, and with the policy's actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import tyro

from grpo_gym.envs.autoscaler.baselines import make_baseline
from grpo_gym.evaluation.episodes import Evaluation, evaluate
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.presets import PRESETS

ENV = "AutoScaler-v0"
HEURISTICS: dict[str, dict[str, Any]] = {
    **{f"hpa {percent}": {"target_percent": percent} for percent in range(50, 100, 5)},
    **{name: {} for name in ("threshold", "seasonal_naive", "holt_winters", "clairvoyant")},
}
"""Settings of heuristics, by a label that begins with the heuristic's name."""
OWN_TERMS: dict[str, Any] = {"action": "replicas", "constraints": False}
"""What horizontal autoscalers are made for."""
REPORTED = {"reward": "chapter"}
"""The reward to report, whatever the training used; infos have the bill."""
Measures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """What to train and measure."""

    preset: str
    """Of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the environment."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes of the shipped settings, as `shipped_settings` takes them."""
    concurrencies: tuple[int, ...] = ()
    """Other workers per replica for the heuristics, where the policy can change them."""


PARTS = {
    "diurnal": Part("diurnal"),
    "diurnal-target": Part("diurnal-target"),
    "diurnal-joint": Part("diurnal-joint", concurrencies=(2, 3)),
    "bursty": Part("bursty"),
    "flash-crowd": Part("flash-crowd"),
    "dollars": Part("diurnal-target", changes={"training_env_kwargs": {"reward": "dollars"}}),
    # Published settings for a large network, which is slow on a CPU: a short training on hours.
    "chapter": Part(
        "diurnal",
        env_kwargs={"history": 60},
        changes={
            "policy": "temporal",
            "total_steps": 20_000,
            "grpo": {**PRESETS["chapter"], "num_groups": 4, "max_episode_steps": 60},
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    part: Literal[
        "diurnal", "diurnal-target", "diurnal-joint", "bursty", "flash-crowd", "dollars", "chapter"
    ]
    """What to measure, into autoscaling_<part>.json: a preset; dollars, which is diurnal-target
    with the other reward; or chapter, diurnal with published settings."""
    days: int = 1_000
    """Days that everybody plays; chapter's policy takes three seconds a day."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    part = PARTS[options.part]
    heuristics = {
        terms: partial(play_heuristics, env_kwargs, options.days)
        for terms, env_kwargs in terms_of(part).items()
    }
    trainings = {
        f"trained/seed {seed}": partial(train, part, seed, options.days)
        for seed in range(options.seeds)
    }
    path = options.results / f"autoscaling_{options.part}.json"
    experiments.measure(path, {**heuristics, **trainings}, options.processes)


def terms_of(part: Part) -> dict[str, dict[str, Any]]:
    """Arguments of the environments that heuristics play in, by name."""
    task = {"preset": part.preset, **part.env_kwargs, **REPORTED}
    terms = {"own terms": {**task, **OWN_TERMS}, "policy's actions": task}
    for workers in part.concurrencies:
        terms[f"own terms, {workers} workers"] = {**task, **OWN_TERMS, "concurrency": workers}
    return terms


def play_heuristics(env_kwargs: Mapping[str, Any], days: int) -> dict[str, Measures]:
    """Measures of each heuristic."""
    batch = make_batch(ENV, env_kwargs, min(days, 1_000))
    return {
        label: measures(play(label.split()[0], settings, batch, days))
        for label, settings in HEURISTICS.items()
    }


def play(name: str, settings: Mapping[str, Any], batch: Any, days: int) -> Evaluation:
    """Evaluate a heuristic."""
    baseline = make_baseline(name, batch.env, **settings)
    return evaluate(
        lambda observations, _, state, start: baseline.predict(observations, state, start),
        batch,
        days,
        EVALUATION_SEED,
    )


def train(part: Part, seed: int, days: int) -> dict[str, Any]:
    """Measures of the policy at the end of a training."""
    settings = experiments.shipped_settings(
        ENV, part.preset, env_kwargs=part.env_kwargs, **part.changes
    )
    trained = experiments.train(settings, seed)
    model = trained.model
    env_kwargs = {**settings.env_kwargs, **REPORTED}
    return {
        **measures(model.evaluate(days, seed=EVALUATION_SEED, env_kwargs=env_kwargs)),
        "training_steps": model.num_steps,
        "training_cpu_seconds": round(trained.cpu_seconds, 1),
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
    main()
