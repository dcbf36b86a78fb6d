"""Measure online GRPO: the tiny-grpo demonstration over seeds and server orders, and `flaky`.

A demonstration makes 3000 decisions; server 0 is degraded from step 1000 to 2000. It passes if the
policy (without exploration) assigns that server a probability of at least .85 at step 500, prefers
another server within 200 steps of the fault, and assigns server 0 at least .80 at step 2500. Every
measurement is stored immediately, so an interrupted experiment resumes where it stopped.

    python scripts/online_demo.py --out docs/results/online.json
"""

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.trainers.experiments import EVALUATION_SEED, measure
from grpo_gym.trainers.named_policies import baseline_names, evaluate_baseline
from grpo_gym.trainers.online import TINY_GRPO, OnlineConfig, OnlineGRPO
from grpo_gym.trainers.online.loop import settled_at

FIRST_SEED = 100
"""The first training seed; settings were tuned on seeds 0 to 7."""
CONFIGS = {
    "default": OnlineConfig(),
    "published program": TINY_GRPO,
    "without importance weights": OnlineConfig(importance_weights=False),
    "without limits": OnlineConfig(weight_limit=None, step_limit=None),
    "with a limit on the weights only": OnlineConfig(step_limit=None),
    "with a limit on the steps only": OnlineConfig(weight_limit=None),
}
_PER_SERVER = ("base_latency_ms", "latency_per_request_ms", "error_rates", "load_decay")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path
    """File of the results; what it holds is not measured again."""
    seeds: int = 100
    """Demonstrations with the servers in the original order."""
    permutation_seeds: int = 10
    """Demonstrations with each of the 24 orders of the servers."""
    flaky_seeds: int = 10
    """Trainings on flaky."""
    flaky_steps: int = 1_000_000
    """Decisions of each of them."""
    episodes: int = 10_000
    """Evaluation episodes of each policy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    orders = list(itertools.permutations(range(4)))
    work: dict[str, Callable[[], Any]] = {
        f"tiny-grpo/{name}": partial(demonstrate, config, orders[:1], seeds)
        for name, config in CONFIGS.items()
    }
    work["tiny-grpo/all 24 orders of the servers"] = partial(
        demonstrate, OnlineConfig(), orders, seeds[: options.permutation_seeds]
    )
    for name in baseline_names("LoadBalancer-v0"):
        work[f"flaky/baseline/{name}"] = partial(play_baseline, name, options.episodes)
    for seed in seeds[: options.flaky_seeds]:
        work[f"flaky/trained/seed {seed}"] = partial(train, seed, options)
    measure(options.out, work)
    return 0


def demonstrate(
    config: OnlineConfig, orders: Sequence[Sequence[int]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Statistics of demonstrations, one per order of the servers and seed."""
    runs = []
    for order, seed in itertools.product(orders, seeds):
        model = OnlineGRPO(env_kwargs=reordered(order), config=config, seed=seed)
        policies = np.empty((model.simulator.config.episode_length, len(order)))
        rewards = model.train_steps(len(policies), policies)
        runs.append(describe(policies[:, np.argsort(order)], rewards, model))
    summary = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        bounds = (min(values), statistics.median(values), max(values))
        summary[name] = [value if math.isfinite(value) else None for value in bounds]
    passed = sum(
        run["p0 at 500"] >= 0.85 and run["steps to server 1"] <= 200 and run["p0 at 2500"] >= 0.80
        for run in runs
    )
    return {"runs": len(runs), "as demanded": passed, "min, median, max": summary}


def reordered(order: Sequence[int]) -> dict[str, Any]:
    """Arguments of `tiny-grpo` with server order[i] of the original at place i."""
    original = make_config("tiny-grpo")
    schedule = [[order.index(server), *rest] for server, *rest in original.fault_schedule]
    settings = {name: original.per_server(name)[list(order)].tolist() for name in _PER_SERVER}
    return {"preset": "tiny-grpo", "fault_schedule": schedule, **settings}


def describe(policies: np.ndarray, rewards: np.ndarray, model: OnlineGRPO) -> dict[str, float]:
    """Describe one demonstration; the step of an event that never happens is infinite.

    `policies`, shape (3000, 4), has the servers in their original order; `rewards` is (3000,).
    """
    likeliest = policies.argmax(axis=1)
    to_server_1 = np.flatnonzero(likeliest[1000:2000] == 1)
    recovered = likeliest[1999] != 0 and likeliest[2999] == 0
    return {
        "p0 at 500": float(policies[499, 0]),
        "p1 at 1500": float(policies[1499, 1]),
        "p0 at 2500": float(policies[2499, 0]),
        "steps to server 1": int(to_server_1[0]) if len(to_server_1) else math.inf,
        "steps to recovery": settled_at(policies, 2000, 3000) - 2000.0 if recovered else math.inf,
        "reward to 500": float(rewards[:500].mean()),
        "reward 1000 to 1500": float(rewards[1000:1500].mean()),
        "reward 2000 to 2500": float(rewards[2000:2500].mean()),
        "largest weight": float(np.abs(model.policy.weights).max()),
    }


def play_baseline(name: str, episodes: int) -> dict[str, Any]:
    """Statistics of a baseline on flaky."""
    evaluation = evaluate_baseline(name, "LoadBalancer-v0", {}, episodes, EVALUATION_SEED)
    returns: dict[str, Any] = evaluation.summary()["return"]
    return returns


def train(seed: int, options: Options) -> dict[str, Any]:
    """Statistics on flaky of the policy after training."""
    model = OnlineGRPO(seed=seed).learn(options.flaky_steps)
    evaluation = model.evaluate(options.episodes, seed=EVALUATION_SEED)
    return {**evaluation.summary()["return"], "weights_sha256": model.weights_sha256()}


if __name__ == "__main__":
    sys.exit(main())
