"""Take a trained autoscaling policy through shadow, gradual and full in simulated days.

A guard controls a policy on a cluster of AutoScaler-v0; the fallback is Kubernetes' autoscaler at
80 % utilisation. After some hours in shadow mode, an operator promotes the policy. The guard makes
all further changes of mode, and is once stopped and restarted from its file. Each scenario has a
different fault in the policy. For reference, the fallback alone and the policy without a guard run
on the same days.
An interrupted experiment resumes where it stopped.

    python scripts/deploy_sim.py --out docs/results/deploy_sim.json
        --figure docs/images/deploy_sim.png

Without `--policy`, the script first trains one with the shipped settings in about a minute.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from deploy_sim_plot import STRIP_KEY, STRIP_STEPS, draw
from deploy_sim_scenarios import (
    ALTERNATIVES,
    CONSTRAINTS,
    ENV,
    SCENARIOS,
    STEPS_PER_HOUR,
    Behaviour,
    Cluster,
    Observation,
    Scenario,
    autoscaler,
)

from grpo_gym.deployment import Decision, Guard, GuardConfig, GuardError, Transition
from grpo_gym.settings import ConfigError
from grpo_gym.trainers import experiments
from grpo_gym.trainers.named_policies import find_checkpoint, load_model

FALLBACK = "hpa_80"
FIRST_SEED = 7_000_000
"""First seed of the days; no training and no evaluation uses these seeds."""
SAVE_EVERY = 720
"""Calls of the guard between savings, six hours; changes of mode are saved at once."""


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
    """Hours until the operator promotes; when refused, the operator tries again every hour."""
    trouble_hour: float = 30.0
    """When policies go wrong that do so later."""
    restart_hour: float = 9.5
    """When the guard is stopped and restarted."""
    outcome: Literal["reward", "dollars"] = "reward"
    """What the guard compares: the environment's reward, or minus the dollars of the step."""
    figure: Path | None = None
    """Draw the runs of the first seed to this file (needs matplotlib)."""

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return round(self.days * 24 * STEPS_PER_HOUR)


@dataclass(frozen=True)
class Run:
    """The record of one run with a guard."""

    cluster: Cluster
    """At the end."""
    transitions: tuple[Transition, ...]
    """Changes of mode or percentage."""
    refusals: Sequence[float]
    """Hours at which the guard refused a promotion."""
    decisions: Sequence[Decision]
    """One for each step."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print a summary of each scenario."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    names = options.scenarios or tuple(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise ConfigError(f"scenarios must be from {', '.join(SCENARIOS)}, got {name!r}")
    measurements = {}
    fallback = partial(autoscaler, FALLBACK)
    for seed in range(options.seeds):
        measurements[f"{FALLBACK} alone/seed {seed}"] = partial(play_alone, fallback, seed, options)
        for name in names:
            measurements[f"{name}/seed {seed}"] = partial(measure, name, seed, options)
    values = experiments.measure(options.out, measurements)
    for name in names:
        print(summary(name, values, options.seeds))
    if options.figure is not None:
        draw({name: values[f"{name}/seed 0"] for name in names}).savefig(options.figure, dpi=80)


@cache
def trained_policy(options: Options) -> Behaviour:
    """The policy of a checkpoint, or a newly trained one."""
    if options.policy is not None:
        model: Any = load_model(find_checkpoint(str(options.policy), ENV), ENV)
    else:
        print("training a policy")
        settings = experiments.shipped_settings(ENV)
        steps = options.training_steps or settings.total_steps
        model = experiments.train(replace(settings, total_steps=steps), seed=0).model

    def act(observation: Observation) -> int:
        metrics, mask = observation["current_metrics"], observation["action_mask"]
        return int(model.predict(metrics, deterministic=True, action_masks=mask)[0])

    return act


# One run


def simulate(scenario: Scenario, seed: int, good: Behaviour, options: Options) -> Run:
    """Run a scenario with a guard."""
    cluster = Cluster(FIRST_SEED + seed, options.steps)
    policy = policy_over_time(scenario, good, options, cluster)
    fallback = autoscaler(FALLBACK, cluster)
    refusals, decisions = list[float](), list[Decision]()
    with tempfile.TemporaryDirectory() as folder:

        def start_guard() -> Guard:
            return Guard(
                policy,
                fallback,
                # No result may depend on how busy the machine is.
                GuardConfig(seed=seed, save_every=SAVE_EVERY, policy_deadline_ms=None),
                constraints=(*CONSTRAINTS, *scenario.constraints),
                alternatives=ALTERNATIVES,
                clock=lambda: cluster.now_s,
                state_path=Path(folder) / "guard.json",
            )

        guard = start_guard()
        for step in range(options.steps):
            if step == round(options.restart_hour * STEPS_PER_HOUR):
                guard.close()
                guard = start_guard()
            if wants_promotion(guard, step, options):
                try:
                    guard.promote(f"the operator, after {cluster.hour:g} h of shadow")
                except GuardError:
                    refusals.append(cluster.hour)
            decision = guard.act(cluster.observation)
            cluster.step(decision.action)
            guard.report(outcome(cluster, options), decision)
            decisions.append(decision)
    return Run(cluster, guard.transitions, refusals, decisions)


def policy_over_time(
    scenario: Scenario, good: Behaviour, options: Options, cluster: Cluster
) -> Behaviour:
    """The good policy until the scenario's hour, then its bad one."""
    bad, trouble_hour = scenario.behaviour(good, cluster), hour_of_trouble(scenario, options)

    def act(observation: Observation) -> int:
        return (bad if cluster.hour >= trouble_hour else good)(observation)

    return act


def hour_of_trouble(scenario: Scenario, options: Options) -> float:
    """When the policy turns bad, in hours since the start; infinite: never."""
    return {"from the start": 0.0, "later": options.trouble_hour, "never": math.inf}[scenario.when]


def wants_promotion(guard: Guard, step: int, options: Options) -> bool:
    """Whether the operator tries to promote: after the shadow hours, hourly until it works."""
    waited = step - round(options.shadow_hours * STEPS_PER_HOUR)
    return waited >= 0 and waited % STEPS_PER_HOUR == 0 and not guard.transitions


def outcome(cluster: Cluster, options: Options) -> float:
    """Outcome of the last step; higher is better."""
    return cluster.rewards[-1] if options.outcome == "reward" else -cluster.dollars[-1]


# Results


def play_alone(
    make_behaviour: Callable[[Cluster], Behaviour], seed: int, options: Options
) -> dict[str, float]:
    """Means of a behaviour without a guard on the days of a seed."""
    cluster = Cluster(FIRST_SEED + seed, options.steps)
    behaviour = make_behaviour(cluster)
    for _ in range(options.steps):
        cluster.step(behaviour(cluster.observation))
    return means(cluster)


def measure(name: str, seed: int, options: Options) -> dict[str, Any]:
    """One run of a scenario, and its policy without a guard on the same days."""
    scenario, good = SCENARIOS[name], trained_policy(options)
    run = simulate(scenario, seed, good, options)
    values = {**describe(run, scenario, options), "guarded": means(run.cluster)}
    if name != "fails":  # a policy that only raises cannot act alone
        policy = partial(policy_over_time, scenario, good, options)
        values["policy alone"] = play_alone(policy, seed, options)
    if seed == 0:
        for series in ("demand", "replicas"):
            strip = getattr(run.cluster, series)[::STRIP_STEPS]
            values[STRIP_KEY.format(series)] = " ".join(f"{value:.0f}" for value in strip)
    return values


def means(cluster: Cluster) -> dict[str, float]:
    """Mean reward and costs of a cluster's days."""
    return {
        "reward per step": float(np.mean(cluster.rewards)),
        "dollars per day": float(np.mean(cluster.dollars)) * 24 * STEPS_PER_HOUR,
    }


def describe(run: Run, scenario: Scenario, options: Options) -> dict[str, Any]:
    """The changes of mode, with their reasons."""
    started, full, back = (
        next((each.time_s / 3600.0 for each in run.transitions if each.to_mode == mode), math.inf)
        for mode in ("gradual", "full", "shadow")
    )
    dangerous = max(hour_of_trouble(scenario, options), started)
    by_policy = [each.source == "policy" for each in run.decisions]
    return {
        "hours to full": duration(started, full),
        "hours to pull back": duration(dangerous, back),
        "pulled back without trouble": back < dangerous,
        "promotions refused": len(run.refusals),
        "mode at the end": run.transitions[-1].to_mode if run.transitions else "shadow",
        "percentage of actions by the policy": 100.0 * float(np.mean(by_policy)),
        "reward per step by arm": {arm: arm_reward(run, arm) for arm in ("policy", "fallback")},
        "transitions: hour, mode, percentage, by, reason": [
            [round(each.time_s / 3600.0, 3), each.to_mode, each.to_percentage, each.by, each.reason]
            for each in run.transitions
        ],
    }


def duration(start: float, end: float) -> float | None:
    """Hours from start to end; None if one of them never came."""
    return end - start if max(start, end) < math.inf else None


def arm_reward(run: Run, arm: str) -> float | None:
    """Mean reward of an arm's steps outside shadow; None without any."""
    steps = zip(run.cluster.rewards, run.decisions, strict=True)
    rewards = [reward for reward, each in steps if each.mode != "shadow" and each.arm == arm]
    return float(np.mean(rewards)) if rewards else None


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
    players = {"fallback alone": alone}
    for player in ("guarded", "policy alone"):
        if player in runs[0]:
            players[player] = [run[player] for run in runs]
    for key in ("reward per step", "dollars per day"):
        each = (f"{who} {np.mean([run[key] for run in of]):.4g}" for who, of in players.items())
        lines.append(f"  {key}: {', '.join(each)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
