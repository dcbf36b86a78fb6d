"""One policy for every fleet: train the router that ships, and measure it on fleets it never saw.

    python scripts/fleets.py --part router       # trains, in about ten minutes of two cores
    python scripts/fleets.py --part unseen       # 100 fleets against all heuristics
    python scripts/fleets.py --part large        # fleets of 32, 64 and 128 servers
    python scripts/fleets.py --part balancers    # several balancers that share the servers
    python scripts/fleets.py --part workers      # several workers a server
    python scripts/fleets.py --part traces --traces code code.csv conversation conv.csv
    python scripts/fleets.py --part learning     # flaky, and what sharing a fleet is worth
    python scripts/fleets.py --part fault        # one server of four is slow for a while
    python scripts/fleets_report.py              # tables, and docs/images/fleets.png

A heuristic is compared with the policy on the same episodes, and only if it knows no more: where
the policy does not see the servers' weights, they are equal for heuristics. What `--results` has is
not measured again, so an interrupted experiment resumes where it stopped.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from grpo_gym.envs.load_balancer.baselines import BASELINES
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.evaluation.episodes import Evaluation, play
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.trainers.named_policies import baseline_action_function, evaluate_baseline
from grpo_gym.trainers.pretrained import pretrained, router_file

ENV = "LoadBalancer-v0"
KINDS: dict[str, dict[str, bool]] = {
    "sizes and weights": {"observe_size": True, "observe_weights": True},
    "weights": {"observe_size": False, "observe_weights": True},
    "sizes": {"observe_size": True, "observe_weights": False},
    "neither": {"observe_size": False, "observe_weights": False},
}
"""What a balancer may know of requests and servers."""
CHANGES: dict[bool, dict[str, Any]] = {
    True: {
        "training_env_kwargs": {
            "workers": {"one_of": [1, 2, 4, 8, 16], "weights": [0.8, 0.05, 0.05, 0.05, 0.05]},
            "num_balancers": {"one_of": [1, 4, 16], "weights": [0.85, 0.1, 0.05]},
        }
    },
    False: {
        "total_steps": 9_000_000,
        "grpo": {"num_groups": 4, "group_size": 8, "learning_rate": 0.005},
    },
}
"""Changes of the shipped settings, by whether the sizes of requests are known; found likewise.

Without sizes, several workers and balancers in training cost more on other fleets than they gain.
"""
FIRST_FLEET = 1_000_000
"""Seed of the first unseen fleet; training draws fleets from other seeds."""
TRAINING_SEED = 0
LARGE = (32, 64, 128)
HEURISTICS = [
    name
    for name, baseline in BASELINES.items()
    if not baseline.privileged and "random" not in name and "round_robin" not in name
]
"""Rules that look at the servers; without a look, costs are several times as high."""
BALANCERS = (4, 16)
WORKERS = (4, 16)
GROUPING_STEPS = 2_000_000
FAULT = (400, 150, 250)
"""Requests an episode, and from which to which the fastest server is slow."""
Part = Literal["router", "unseen", "large", "balancers", "workers", "traces", "learning", "fault"]


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    part: Part
    """What to measure."""
    fleets: int = 100
    """Unseen fleets; a tenth of them for each variation."""
    episodes: int = 400
    """Episodes on each fleet."""
    traces: dict[str, Path] = field(default_factory=dict)
    """CSV files of recorded arrivals by name, with a column GeneratedTokens as size."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    if options.part == "router":
        train_router(options)
        return
    measurements = {
        "unseen": unseen,
        "large": large,
        "balancers": balancers,
        "workers": workers,
        "traces": traces,
        "learning": learning,
        "fault": fault,
    }[options.part](options)
    experiments.measure(
        options.results / f"fleets_{options.part}.json", measurements, options.processes
    )


def train_router(options: Options) -> None:
    """Train a network for each kind of observation, and keep the checkpoints that ship."""
    trainings = {kind: partial(train_kind, kind, TRAINING_SEED) for kind in KINDS}
    experiments.measure(options.results / "fleets_router.json", trainings, options.processes)


def train_kind(kind: str, seed: int) -> dict[str, Any]:
    """Train with the shipped settings of fleets, and write the checkpoint without its optimizer."""
    changes = CHANGES[KINDS[kind]["observe_size"]]
    settings = experiments.shipped_settings(ENV, "fleets", env_kwargs=KINDS[kind], **changes)
    trained = experiments.train(settings, seed)
    trained.model.optimizer.reset()
    trained.model.training_env_kwargs.clear()  # users go on learning on fleets of their own
    path = router_file(settings.env_kwargs)
    trained.model.save(path)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "steps": trained.model.num_steps,
        "wall_seconds": trained.wall_seconds,
        "cpu_seconds": trained.cpu_seconds,
        "weights_sha256": trained.model.weights_sha256(),
    }


def unseen(options: Options) -> dict[str, Callable[[], Any]]:
    """Fleets like those of training."""
    return {
        f"fleet {index}": partial(compare, {"fleet_seed": FIRST_FLEET + index}, options.episodes)
        for index in range(options.fleets)
    }


def large(options: Options) -> dict[str, Callable[[], Any]]:
    """Fleets of more servers than any in training."""
    return variations(options, {f"{count} servers": {"num_servers": count} for count in LARGE})


def balancers(options: Options) -> dict[str, Callable[[], Any]]:
    """Several balancers, each with its own view: they sample, because equal views would herd."""
    changes = {f"{count} balancers": {"num_balancers": count} for count in BALANCERS}
    return variations(options, changes, sampled=True)


def workers(options: Options) -> dict[str, Callable[[], Any]]:
    """Servers that serve several requests side by side."""
    return variations(options, {f"{count} workers": {"workers": count} for count in WORKERS})


def traces(options: Options) -> dict[str, Callable[[], Any]]:
    """Recorded arrivals and sizes instead of drawn ones."""
    recorded = {"arrivals_size_column": "GeneratedTokens"}
    return variations(
        options,
        {name: {"arrivals_csv": str(path), **recorded} for name, path in options.traces.items()},
    )


def variations(
    options: Options, by_name: Mapping[str, Mapping[str, Any]], sampled: bool = False
) -> dict[str, Callable[[], Any]]:
    """Each variation of the first fleets."""
    return {
        f"{name}/fleet {index}": partial(
            compare, {"fleet_seed": FIRST_FLEET + index, **changes}, options.episodes, sampled
        )
        for index in range(options.fleets // 10)
        for name, changes in by_name.items()
    }


def compare(env_kwargs: Mapping[str, Any], episodes: int, sampled: bool = False) -> dict[str, Any]:
    """Mean costs on one fleet: the policy's by kind, and those of heuristics that know no more.

    The policy takes its most probable action, or samples.
    """
    kwargs = {"preset": "fleets", "infos": "basic", **env_kwargs}
    fleet = make_config(**kwargs)
    heuristics = {
        weights: {
            name: evaluate_baseline(name, ENV, {**kwargs, **equal}, episodes, EVALUATION_SEED)
            for name in HEURISTICS
        }
        for weights, equal in ((True, {}), (False, {"weights": 1.0}))
    }
    return {
        "servers": fleet.num_servers,
        "utilisation": fleet.utilisation,
        "size_distribution": fleet.size_distribution,
        "arrival_process": fleet.arrival_process,
        "heuristics": {
            "with weights" if weights else "without": {
                name: round(-each.mean_return, 2) for name, each in by_name.items()
            }
            for weights, by_name in heuristics.items()
        },
        **{
            kind: against(
                pretrained("router", {**kwargs, **observed}).evaluate(
                    episodes, seed=EVALUATION_SEED, deterministic=not sampled
                ),
                heuristics[observed["observe_weights"]],
            )
            for kind, observed in KINDS.items()
        },
    }


def against(policy: Evaluation, heuristics: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Costs, and what the policy saves of the best heuristic's on the same episodes."""
    best = max(heuristics, key=lambda name: heuristics[name].mean_return)
    saved = policy.returns - heuristics[best].returns
    return {
        "policy": round(-policy.mean_return, 2),
        "best": best,
        "ratio": round(policy.mean_return / heuristics[best].mean_return, 4),
        "saved": round(float(saved.mean()), 3),
        "saved_sem": round(float(saved.std(ddof=1) / len(saved) ** 0.5), 4),
    }


def learning(options: Options) -> dict[str, Callable[[], Any]]:
    """The policy on the one fleet of flaky; and what it is worth that a group shares its fleet."""
    measurements: dict[str, Callable[[], Any]] = {}
    for seed in range(options.seeds):
        measurements[f"flaky/seed {seed}"] = partial(train_on_flaky, seed)
        for grouping in ("shared", "unrelated"):
            measurements[f"fleets/{grouping}/seed {seed}"] = partial(train_grouped, grouping, seed)
    return measurements


def train_on_flaky(seed: int) -> dict[str, Any]:
    """Train the policy `servers`, which sees weights, with the settings that ship for `mlp`."""
    settings = experiments.shipped_settings(
        ENV, env_kwargs={"observe_weights": True}, policy="servers"
    )
    trained = experiments.train(settings, seed)
    evaluation = trained.model.evaluate(10_000, seed=EVALUATION_SEED)
    return {
        "return": evaluation.mean_return,
        "steps": trained.model.num_steps,
        "cpu_seconds": trained.cpu_seconds,
    }


def train_grouped(grouping: Literal["shared", "unrelated"], seed: int) -> dict[str, Any]:
    """Costs on unseen fleets during a training, of groups on one fleet and trace, or on many."""
    settings = experiments.shipped_settings(
        ENV, "fleets", grpo={"grouping": grouping}, total_steps=GROUPING_STEPS
    )
    curve: dict[str, list[float]] = {"steps": [], "cost": []}

    def evaluate(model: GRPO, stats: IterationStats) -> None:
        if stats.num_steps >= (len(curve["steps"]) + 1) * GROUPING_STEPS / 8:
            evaluation = model.evaluate(2_000, seed=EVALUATION_SEED)
            curve["steps"].append(stats.num_steps)
            curve["cost"].append(-evaluation.mean_return)

    experiments.train(settings, seed, callback=evaluate)
    return curve


def fault(options: Options) -> dict[str, Callable[[], Any]]:
    """What policies do when the fastest of flaky's servers is slow for a while."""
    policies = ("pretrained:router", "least_connections", "shortest_expected_delay", "c3")
    return {policy: partial(through_a_fault, policy, 10 * options.episodes) for policy in policies}


def through_a_fault(policy: str, episodes: int) -> dict[str, list[float]]:
    """By request: the share that goes to the slow server, and the mean response time in ms."""
    length, first, last = FAULT
    kwargs = {
        "preset": "flaky",
        "infos": "basic",
        "observe_weights": True,
        "mean_time_to_failure_ms": None,
        "episode_length": length,
        "fault_schedule": ((3, "slow", first, last),),
    }
    shares, responses = np.zeros(length), np.zeros(length)
    with closing(make_batch(ENV, kwargs, episodes)) as batch:
        if policy.startswith("pretrained:"):
            act = pretrained("router", kwargs).action_function()
        else:
            act = baseline_action_function(policy, ENV, batch)
        chosen = np.zeros(episodes, np.int64)

        def watch(*arguments: Any) -> Any:
            actions, state = act(*arguments)
            chosen[:] = actions
            return actions, state

        seeds = (EVALUATION_SEED + np.arange(episodes)).tolist()
        steps = play(watch, batch, seeds, np.ones(episodes, np.bool_))
        for t, (_, step) in enumerate(steps):
            shares[t] = (chosen == 3).mean()
            responses[t] = step.infos["response_time_ms"].mean()
    return {"share": shares.round(4).tolist(), "response_ms": responses.round(2).tolist()}


if __name__ == "__main__":
    main()
