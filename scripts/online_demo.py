"""Measure online GRPO: the tiny-grpo demonstration over seeds and labels, flaky, and its speed.

Each demonstration is 3000 decisions; server 0 is degraded from 1000 to 2000. It counts when the
policy (without exploration) gives that server at least .85 at step 500, another one is the most
likely within 200 steps after the fault, and the server has at least .80 again at step 2500. Every
finished piece is written at once, so an interrupted experiment goes on where it stopped.

    python scripts/online_demo.py --out docs/results/online.json
"""

import itertools
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.storage.results import Results
from grpo_gym.trainers.named_policies import baseline_action_function, baseline_names
from grpo_gym.trainers.online import TINY_GRPO, OnlineConfig, OnlineGRPO, changed_at

EVALUATION_SEED = 5_000_000
FIRST_SEED = 100
"""The first training seed; settings were found on seeds 0 to 7."""
_PER_SERVER = ("base_latency_ms", "latency_per_request_ms", "error_rates", "load_decay")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path
    """Results; what is there already is not measured again."""
    seeds: int = 100
    """Demonstrations with the original labels."""
    permutation_seeds: int = 10
    """Demonstrations with each of the 24 orders of the servers."""
    flaky_seeds: int = 10
    """Trainings on flaky."""
    flaky_steps: int = 1_000_000
    """Decisions of each of them."""
    episodes: int = 10_000
    """Episodes that every policy is evaluated on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    results = Results(options.out, Console(stderr=True, highlight=False).print)
    seeds, original = range(FIRST_SEED, FIRST_SEED + options.seeds), [(0, 1, 2, 3)]
    for name, config in {
        "default": OnlineConfig(),
        "published program": TINY_GRPO,
        "without importance weights": OnlineConfig(importance_weights=False),
        "without limits": OnlineConfig(weight_limit=None, step_limit=None),
        "with a limit on the weights only": OnlineConfig(step_limit=None),
        "with a limit on the steps only": OnlineConfig(weight_limit=None),
    }.items():
        results.measure(f"tiny-grpo/{name}", partial(demonstrate, config, original, seeds))
    orders = list(itertools.permutations(range(4)))
    permuted = partial(demonstrate, OnlineConfig(), orders, seeds[: options.permutation_seeds])
    results.measure("tiny-grpo/all 24 orders of the servers", permuted)
    for name in baseline_names("LoadBalancer-v0"):
        results.measure(f"flaky/baseline/{name}", partial(play_baseline, name, options))
    for seed in seeds[: options.flaky_seeds]:
        results.measure(f"flaky/trained/seed {seed}", partial(train, seed, options))
    results.measure("decisions per second", measure_speed)
    return 0


def reordered(order: Sequence[int]) -> dict[str, Any]:
    """Arguments of `tiny-grpo` with server order[i] of the original at place i."""
    original = make_config("tiny-grpo")
    schedule = [[order.index(server), *rest] for server, *rest in original.fault_schedule]
    settings = {name: original.per_server(name)[list(order)].tolist() for name in _PER_SERVER}
    return {"preset": "tiny-grpo", "fault_schedule": schedule, **settings}


def demonstrate(
    config: OnlineConfig, orders: Sequence[Sequence[int]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Statistics of demonstrations, one of each order and seed."""
    runs = []
    for order, seed in itertools.product(orders, seeds):
        model = OnlineGRPO(env_kwargs=reordered(order), config=config, seed=seed)
        policies = np.empty((model.simulator.config.episode_length, len(order)))
        rewards = model.train_steps(len(policies), policies)
        runs.append(describe(policies[:, np.argsort(order)], rewards, model))
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    summary = {
        name: [_or_none(pick(values)) for pick in (min, statistics.median, max)]
        for name, values in columns.items()
    }
    passed = sum(
        run["p0 at 500"] >= 0.85 and run["steps to server 1"] <= 200 and run["p0 at 2500"] >= 0.80
        for run in runs
    )
    return {"runs": len(runs), "as demanded": passed, "min, median, max": summary}


def describe(policies: np.ndarray, rewards: np.ndarray, model: OnlineGRPO) -> dict[str, float]:
    """One demonstration, its columns in the original order of the servers."""
    to_server_1 = np.flatnonzero(policies[1000:2000].argmax(axis=1) == 1)
    return {
        "p0 at 500": float(policies[499, 0]),
        "p1 at 1500": float(policies[1499, 1]),
        "p0 at 2500": float(policies[2499, 0]),
        "steps to server 1": int(to_server_1[0]) if len(to_server_1) else math.inf,
        "steps to recovery": _steps_to_recovery(policies),
        "reward to 500": float(rewards[:500].mean()),
        "reward 1000 to 1500": float(rewards[1000:1500].mean()),
        "reward 2000 to 2500": float(rewards[2000:2500].mean()),
        "largest weight": float(np.abs(model.policy.weights).max()),
    }


def _or_none(steps: float) -> float | None:
    """JSON has no infinity: what never happened is null."""
    return steps if math.isfinite(steps) else None


def _steps_to_recovery(policies: np.ndarray) -> float:
    """Steps after which server 0 stays the most likely one; infinite if it does not, or was."""
    if policies[1999].argmax() == 0 or policies[2999].argmax() != 0:
        return math.inf
    return float(changed_at(policies, 2000, 3000) - 2000)


def play_baseline(name: str, options: Options) -> dict[str, Any]:
    """Statistics of a baseline on flaky."""
    batch = make_batch("LoadBalancer-v0", {}, min(options.episodes, 128))
    action_function = baseline_action_function(name, "LoadBalancer-v0", batch)
    return evaluate(action_function, batch, options.episodes, EVALUATION_SEED).summary()["return"]


def train(seed: int, options: Options) -> dict[str, Any]:
    """Statistics on flaky of the policy at the end of training."""
    model = OnlineGRPO(seed=seed).learn(options.flaky_steps)
    evaluation = model.evaluate(options.episodes, seed=EVALUATION_SEED)
    return {**evaluation.summary()["return"], "weights_sha256": model.weights_sha256()}


def measure_speed(decisions: int = 1_000_000, repetitions: int = 7) -> dict[str, Any]:
    """Decisions a second on flaky, everything included."""
    model, rates = OnlineGRPO(), []
    model.train_steps(1_000)
    for _ in range(repetitions):
        started = time.perf_counter()
        model.train_steps(decisions)
        rates.append(round(decisions / (time.perf_counter() - started)))
    return {"median": statistics.median(rates), "repetitions": rates}


if __name__ == "__main__":
    sys.exit(main())
