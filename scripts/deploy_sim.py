"""Take a trained autoscaling policy through shadow, gradual and full in simulated days.

A guard stands between the policy and a cluster of AutoScaler-v0; the fallback is Kubernetes'
autoscaler at 80 % use. After some hours of shadow an operator promotes the policy, and the rest is
up to the guard, which is once stopped and started again from its file. In each scenario something
else is wrong with the policy. The same days are also played by the fallback alone, and by the
policy without a guard. Every finished run is written at once.

    python scripts/deploy_sim.py --out docs/results/deploy_sim.json
    python scripts/deploy_sim_plot.py

Without `--policy` one is trained first, in about a minute, with the shipped settings.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from deploy_sim_scenarios import (
    ENV,
    MAINTAIN,
    ONE_LESS,
    ONE_MORE,
    SCENARIOS,
    STEPS_PER_HOUR,
    Autoscaler,
    Behaviour,
    Cluster,
    Observation,
    Scenario,
    replicas_added,
)
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.deployment import (
    Constraint,
    Cooldown,
    Decision,
    Guard,
    GuardConfig,
    GuardError,
    MaximumChange,
    MinimumReplicas,
    Transition,
)
from grpo_gym.settings.config import ConfigError, from_mapping
from grpo_gym.storage.results import Results
from grpo_gym.trainers.named_policies import find_checkpoint, load_model
from grpo_gym.trainers.settings import TrainSettings, default_config

FALLBACK = "hpa_80"
FIRST_SEED = 7_000_000
"""Of the days; no training and no evaluation sees them."""
SAVE_EVERY = 720
"""Calls of the guard, six hours: simulated days are short. Changes of mode are saved at once."""
STRIP_STEPS = 10
"""Of demand and replicas every so many steps are kept, of the first seed, to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path
    """Results; what is there already is not measured again."""
    policy: Path | None = None
    """A checkpoint of a policy for AutoScaler-v0, or a run's folder; None: train one."""
    training_steps: int | None = None
    """Environment steps of that training; None: the shipped settings'."""
    scenarios: tuple[str, ...] = ()
    """Which of `SCENARIOS`; none: all."""
    seeds: int = 5
    """Runs of each scenario."""
    days: float = 5.0
    """Simulated days of a run."""
    shadow_hours: float = 2.0
    """Hours until the operator promotes; refused, the operator tries again every hour."""
    trouble_hour: float = 30.0
    """When those policies go wrong that do so in the middle."""
    restart_hour: float = 9.5
    """When the guard is stopped and started again."""
    outcome: Literal["reward", "dollars"] = "reward"
    """What the guard compares: the environment's reward, or minus the dollars of the step."""


@dataclass(frozen=True)
class Run:
    """What happened behind a guard."""

    cluster: Cluster
    """At the end."""
    transitions: tuple[Transition, ...]
    """Changes of mode or percentage."""
    refusals: list[float]
    """Hours at which the guard refused to be promoted."""
    arms: list[str | None]
    """Whose block each step was in; None in shadow, where there is no other."""
    sources: list[str]
    """Whose action each step executed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and draw it."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    console = Console(stderr=True, highlight=False)
    names = options.scenarios or tuple(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise ConfigError(f"scenarios must be from {', '.join(SCENARIOS)}, got {name!r}")
    good = trained_policy(options, console.print)
    results = Results(options.out, console.print)
    for seed in range(options.seeds):
        results.measure(f"{FALLBACK} alone/seed {seed}", partial(play_fallback, seed, options))
        for name in names:
            results.measure(f"{name}/seed {seed}", partial(measure, name, seed, good, options))
    for name in names:
        console.print(summary(name, results.values, options.seeds))
    return 0


def trained_policy(options: Options, report: Callable[[str], None]) -> Behaviour:
    """The policy of a checkpoint, or one trained now, as a callable."""
    if options.policy is not None:
        model = load_model(find_checkpoint(str(options.policy), ENV), ENV)
    else:
        settings = from_mapping(TrainSettings, {"env": ENV, **default_config(ENV, {})}, ENV)
        report("training a policy")
        model = GRPO(
            settings.policy,
            settings.env,
            env_kwargs=settings.env_kwargs,
            training_env_kwargs=settings.training_env_kwargs,
            config=settings.grpo,
        ).learn(options.training_steps or settings.total_steps)

    def act(observation: Observation) -> int:
        metrics, mask = observation["current_metrics"], observation["action_mask"]
        return int(model.predict(metrics, deterministic=True, action_masks=mask)[0])

    return act


# One run


def simulate(scenario: Scenario, seed: int, good: Behaviour, options: Options) -> Run:
    """Play a scenario behind a guard."""
    cluster = Cluster(FIRST_SEED + seed, total_steps(options))
    policy = as_time_goes(scenario, good, cluster, options)
    fallback = Autoscaler(FALLBACK, cluster)
    restart_step = round(options.restart_hour * STEPS_PER_HOUR)
    refusals, decisions = [], list[Decision]()
    with tempfile.TemporaryDirectory() as folder:
        path, further = Path(folder) / "guard.json", scenario.constraints
        make = partial(make_guard, policy, fallback, further, cluster, path, seed)
        guard = make()
        for step in range(total_steps(options)):
            if step == restart_step:
                guard.save()
                guard = make()
            if wants_promotion(guard, step, options):
                try:
                    guard.promote(f"the operator, after {cluster.hour:g} h of shadow")
                except GuardError:
                    refusals.append(cluster.hour)
            decision = guard.act(cluster.observation)
            cluster.step(decision.action)
            guard.report(outcome(cluster, options), decision)
            decisions.append(decision)
    return Run(
        cluster,
        guard.transitions,
        refusals,
        [None if each.mode == "shadow" else each.arm for each in decisions],
        [each.source for each in decisions],
    )


def make_guard(
    policy: Behaviour,
    fallback: Behaviour,
    constraints: tuple[Constraint, ...],
    cluster: Cluster,
    state_path: Path,
    seed: int,
) -> Guard:
    """A new guard, or one that goes on from its file."""
    return Guard(
        policy,
        fallback,
        GuardConfig(seed=seed, save_every=SAVE_EVERY),
        constraints=[
            MaximumChange(change=replicas_added),
            MinimumReplicas(change=replicas_added),
            Cooldown(change=replicas_added),
            *constraints,
        ],
        alternatives=(MAINTAIN, ONE_MORE, ONE_LESS),
        clock=lambda: cluster.now_s,
        state_path=state_path,
    )


def as_time_goes(
    scenario: Scenario, good: Behaviour, cluster: Cluster, options: Options
) -> Behaviour:
    """The good policy until the scenario's hour, then the other."""
    bad, trouble_hour = (
        scenario.behaviour(good, cluster),
        scenario.trouble_hour(options.trouble_hour),
    )

    def act(observation: Observation) -> int:
        is_bad = trouble_hour is not None and cluster.hour >= trouble_hour
        return (bad if is_bad else good)(observation)

    return act


def wants_promotion(guard: Guard, step: int, options: Options) -> bool:
    """Whether the operator tries now: once the shadow is over, every hour, until it worked."""
    waited = step - round(options.shadow_hours * STEPS_PER_HOUR)
    return waited >= 0 and waited % STEPS_PER_HOUR == 0 and not guard.transitions


def outcome(cluster: Cluster, options: Options) -> float:
    """Of the last step, higher is better."""
    return cluster.rewards[-1] if options.outcome == "reward" else -cluster.dollars[-1]


def play_alone(behaviour: Behaviour, cluster: Cluster) -> Cluster:
    """Play the rest of a cluster's days without a guard."""
    for _ in range(cluster.env.get_wrapper_attr("config").episode_steps):
        cluster.step(behaviour(cluster.observation))
    return cluster


def total_steps(options: Options) -> int:
    """Steps of a run."""
    return round(options.days * 24 * STEPS_PER_HOUR)


# What it came to


def play_fallback(seed: int, options: Options) -> dict[str, Any]:
    """The fallback alone on the days of a seed."""
    cluster = Cluster(FIRST_SEED + seed, total_steps(options))
    return worth(play_alone(Autoscaler(FALLBACK, cluster), cluster))


def measure(name: str, seed: int, good: Behaviour, options: Options) -> dict[str, Any]:
    """One run of a scenario, and its policy without a guard on the same days."""
    scenario = SCENARIOS[name]
    run = simulate(scenario, seed, good, options)
    values = {**describe(run, scenario, options), "guarded": worth(run.cluster)}
    # What never answers cannot act alone.
    if name != "fails":
        cluster = Cluster(FIRST_SEED + seed, total_steps(options))
        policy = as_time_goes(scenario, good, cluster, options)
        values["policy alone"] = worth(play_alone(policy, cluster))
    if seed == 0:
        for series in ("demand", "replicas"):
            values[f"{series} every {STRIP_STEPS} minutes"] = strip(getattr(run.cluster, series))
    return values


def worth(cluster: Cluster) -> dict[str, float]:
    """What a cluster's days came to."""
    return {
        "reward per step": mean(cluster.rewards),
        "dollars per day": mean(cluster.dollars) * 24 * STEPS_PER_HOUR,
    }


def strip(series: Sequence[float]) -> str:
    """Some of a series' values, in one line of the results."""
    return " ".join(f"{value:.0f}" for value in series[::STRIP_STEPS])


def describe(run: Run, scenario: Scenario, options: Options) -> dict[str, Any]:
    """When the mode changed, and why."""
    started, full, back = (
        next((each.time_s / 3600.0 for each in run.transitions if each.to_mode == mode), None)
        for mode in ("gradual", "full", "shadow")
    )
    trouble_hour = scenario.trouble_hour(options.trouble_hour)
    dangerous = None if trouble_hour is None or started is None else max(trouble_hour, started)
    return {
        "hours to full": None if full is None or started is None else full - started,
        "hours to pull back": None if back is None or dangerous is None else back - dangerous,
        "pulled back without trouble": back is not None and (dangerous is None or back < dangerous),
        "promotions refused": len(run.refusals),
        "mode at the end": run.transitions[-1].to_mode if run.transitions else "shadow",
        "percentage of actions by the policy": 100.0 * mean([s == "policy" for s in run.sources]),
        "reward per step by arm": {arm: arm_reward(run, arm) for arm in ("policy", "fallback")},
        "transitions: hour, mode, percentage, by, reason": [
            [round(each.time_s / 3600.0, 3), each.to_mode, each.to_percentage, each.by, each.reason]
            for each in run.transitions
        ],
    }


def arm_reward(run: Run, arm: str) -> float | None:
    """Mean reward of an arm's steps outside shadow; None without any."""
    rewards = [
        reward for reward, each in zip(run.cluster.rewards, run.arms, strict=True) if each == arm
    ]
    return mean(rewards) if rewards else None


def mean(values: Sequence[float]) -> float:
    """Their mean, as JSON has it."""
    return float(np.mean(values))


def summary(name: str, values: Mapping[str, Any], seeds: int) -> str:
    """A scenario's runs in a few lines."""
    runs = [values[f"{name}/seed {seed}"] for seed in range(seeds)]
    alone = [values[f"{FALLBACK} alone/seed {seed}"] for seed in range(seeds)]
    lines = [f"{name}: {SCENARIOS[name].description}"]
    for key in ("hours to full", "hours to pull back"):
        hours = [run[key] for run in runs if run[key] is not None]
        if hours:
            lines.append(
                f"  {key}: median {statistics.median(hours):.2f}, {min(hours):.2f} to "
                f"{max(hours):.2f}, in {len(hours)} of {len(runs)} runs"
            )
    for key in ("reward per step", "dollars per day"):
        means = {"fallback alone": mean([each[key] for each in alone])}
        for who in ("guarded", "policy alone"):
            if who in runs[0]:
                means[who] = mean([run[who][key] for run in runs])
        each = ", ".join(f"{who} {value:.4g}" for who, value in means.items())
        lines.append(f"  {key}: {each}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
