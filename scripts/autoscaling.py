"""Evaluate the shipped settings of AutoScaler over several seeds, and a sweep of HPA's targets.

All policies face the same days, which training never uses. An interrupted experiment resumes where
it stopped.

    python scripts/autoscaling.py --part diurnal
    python scripts/autoscaling.py --part bursty
    python scripts/autoscaling.py --figure docs/images/autoscaling.png  # of what has been measured

Kubernetes' autoscaler and the other heuristics are evaluated twice: on their own terms, where they
set the number of replicas without constraints, and with the policy's actions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from grpo_gym.envs.autoscaler.baselines import make_baseline
from grpo_gym.evaluation.episodes import Evaluation, evaluate
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.presets import PRESETS

PartName = Literal[
    "diurnal", "diurnal-target", "diurnal-joint", "bursty", "flash-crowd", "dollars", "chapter"
]
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
COST, VIOLATIONS = "cost $/day", "violations %"
Measures = dict[str, dict[str, Any]]
"""Mean and interval by name."""

PANELS = {
    "dollars": "diurnal-target: a calm day",
    "bursty": "bursty: eight bursts a day",
    "flash-crowd": "flash-crowd: demand multiplies",
}
"""Titles of the parts in the figure."""
SWEEPS = {
    "own terms": ("#0072B2", "Kubernetes' HPA, targets in %"),
    "policy's actions": ("#56B4E9", "The same by the policy's actions"),
}
MARKS = {
    "seasonal_naive": ("Seasonal naive", "v"),
    "holt_winters": ("Holt-Winters", "s"),
    "clairvoyant": ("Clairvoyant: knows demand", "*"),
}
MOST_VIOLATIONS = 25.0
"""Upper limit of the figure, in %: with a target of 95 % an autoscaler cannot scale up."""


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


PARTS: dict[PartName, Part] = {
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

    part: PartName | None = None
    """What to measure, into autoscaling_<part>.json: a preset; dollars, which is diurnal-target
    with the other reward; or chapter, diurnal with published settings."""
    days: int = 1_000
    """Days that everybody plays; chapter's policy takes three seconds a day."""
    figure: Path | None = None
    """Draw violations against cost to this file (needs matplotlib)."""


def main() -> None:
    """Measure what is missing, then draw."""
    options = tyro.cli(Options, description=__doc__)
    if options.part is not None:
        part = PARTS[options.part]
        heuristics = {
            terms: partial(play_heuristics, env_kwargs, options.days)
            for terms, env_kwargs in terms_of(part).items()
        }
        trainings = {"trained": partial(train, part, options.days)}
        options.measure(f"autoscaling_{options.part}", trainings, heuristics)
    if options.figure is not None:
        draw(options.results, options.figure)


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


def train(part: Part, days: int, seed: int) -> dict[str, Any]:
    """Measures of the policy after training."""
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
        VIOLATIONS: 100.0 * metrics["violation"],
        COST: steps * metrics["cost_dollars"],
        "bill $/day": steps * (metrics["cost_dollars"] + metrics["penalty_dollars"]),
        "lost %": 100.0 * metrics["lost"] / metrics["arrivals"],
    }
    summaries = {name: summarise(each) for name, each in values.items()}
    return {
        name: {"mean": round(each.mean, 5), "ci95": [round(limit, 5) for limit in each.ci95]}
        for name, each in summaries.items()
    }


def draw(folder: Path, out: Path) -> None:
    """Draw violations against cost, a panel for each task of `PANELS` that has been measured."""
    from matplotlib.figure import Figure

    paths = {part: folder / f"autoscaling_{part}.json" for part in PANELS}
    found = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}
    if not found:
        raise ConfigError(f"{folder} must hold autoscaling_<part>.json: measure a part first")
    figure = Figure(figsize=(5.3 * len(found), 5.2))
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (part, results) in zip(axes, found.items(), strict=True):
        draw_panel(axis, PANELS[part], results)
    axes[0].set_ylabel("Minutes with a 99th percentile above 200 ms, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    title = "AutoScaler-v0: fewer broken latency promises for less money is down and left\n"
    figure.suptitle(title, fontsize=13)
    subtitle = "Means of 1,000 unseen days; bars: 95 % intervals, where they exceed the mark"
    figure.text(0.5, 0.91, subtitle, ha="center", fontsize=9.5, color="#444444")
    figure.tight_layout(rect=(0.0, 0.12, 1.0, 0.98))
    figure.savefig(out, dpi=130)


def draw_panel(axis: Any, title: str, results: dict[str, Any]) -> None:
    """Draw one task: the sweep of HPA, other heuristics, and the trained policies."""
    for terms, (colour, label) in SWEEPS.items():
        sweep = {k.split()[-1]: point(v) for k, v in results[terms].items() if k[:4] == "hpa "}
        sweep = {percent: at for percent, at in sweep.items() if at[1] < MOST_VIOLATIONS}
        points = list(sweep.values())
        axis.plot(*zip(*points, strict=True), "o-", color=colour, ms=4, lw=1.2, label=label)
        if terms == "own terms":
            for percent, at in sweep.items():
                axis.annotate(percent, at, (4, 4), textcoords="offset points", fontsize=8)
    for name, (label, mark) in MARKS.items():
        at = point(results["own terms"][name])
        axis.plot(*at, mark, color="#666666", ms=8, label=label, ls="none")
    trained = [value for key, value in results.items() if key.startswith("trained/")]
    for seed, each in enumerate(trained):
        axis.errorbar(
            *point(each),
            errors(each, VIOLATIONS),
            errors(each, COST),
            fmt="D",
            color="#D55E00",
            ms=4,
            alpha=0.8,
            capsize=2,
            label="GRPO, one mark a seed" if seed == 0 else None,
        )
    axis.set(title=title, xlabel="Cost, $ a day", yscale="log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.grid(alpha=0.25, which="both")


def point(measured: Measures) -> tuple[float, float]:
    """Coordinates of a mark."""
    return measured[COST]["mean"], measured[VIOLATIONS]["mean"]


def errors(measured: Measures, name: str) -> list[list[float]]:
    """Distances from the mean to the ends of its interval."""
    mean, (low, high) = measured[name]["mean"], measured[name]["ci95"]
    return [[mean - low], [high - mean]]


if __name__ == "__main__":
    main()
