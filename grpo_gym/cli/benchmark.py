"""`benchmark`: speed of environments and training on this machine, beside Gymnasium's CartPole.

Rates depend on the machine and its other work. Each is therefore the median of several repetitions,
interleaved with those of the others; compare ratios within one run.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.settings import Count, checked_dataclass
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.online import OnlineGRPO

Work = Callable[[], int]
"""Does some work and returns its number of environment steps."""


@checked_dataclass
class BenchmarkOptions:
    """How thoroughly to measure."""

    repetitions: Count = 5
    """Repetitions of each measurement."""
    num_envs: Count = 1024
    """Environments of the vectorised measurements."""
    json: Path | None = None
    """Write the rates to this file."""


_LINE = CommandLine(
    "benchmark",
    "Measure environment and training steps per second on one thread.",
    {"benchmark": BenchmarkOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options: BenchmarkOptions = _LINE.read(arguments)["benchmark"]
    if options.json is not None:
        claim_output(options.json, "--json")
    torch.set_num_threads(1)
    works = _works(options.num_envs)
    for work in works.values():
        work()  # compiles and warms up
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repetitions):
        for name, work in works.items():
            started = time.perf_counter()
            steps = work()
            rates[name].append(steps / (time.perf_counter() - started))
    Console().print(_table(rates))
    if options.json is not None:
        report = {"machine": _machine(), "steps_per_second": rates}
        write_atomic(options.json, json.dumps(report, indent=2).encode() + b"\n")
    return 0


def _works(num_envs: int) -> dict[str, Work]:
    return {
        "Gymnasium CartPole-v1, unwrapped": _single(gym.make("CartPole-v1").unwrapped, 20_000),
        "LoadBalancer-v0, unwrapped": _single(gym.make("LoadBalancer-v0").unwrapped, 20_000),
        f"Gymnasium CartPole-v1, vector, {num_envs}": _vector("CartPole-v1", num_envs, 200),
        f"LoadBalancer-v0, vector, {num_envs}": _vector("LoadBalancer-v0", num_envs, 800),
        "GRPO on LoadBalancer-v0, training": _training(),
        "online GRPO on LoadBalancer-v0, decisions": _online_decisions(),
    }


def _single(env: gym.Env[np.ndarray, np.int64], steps: int) -> Work:
    """Random actions in one environment, including resets."""
    actions = np.random.default_rng(0).integers(env.action_space.n, size=steps)  # type: ignore[attr-defined]
    env.reset(seed=0)

    def work() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return steps

    return work


def _vector(env_id: str, num_envs: int, steps: int) -> Work:
    """Random actions in a vector environment, including automatic resets."""
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    choices = env.single_action_space.n  # type: ignore[attr-defined]
    actions = np.random.default_rng(0).integers(choices, size=(64, num_envs))
    env.reset(seed=0)

    def work() -> int:
        for step in range(steps):
            env.step(actions[step % 64])
        return steps * num_envs

    return work


def _training() -> Work:
    """Whole training iterations with the default settings."""
    model = GRPO("mlp", "LoadBalancer-v0")

    def work() -> int:
        before = model.num_steps
        for _ in range(4):
            model.train_iteration()
        return model.num_steps - before

    return work


def _online_decisions() -> Work:
    """Decide, route, estimate and learn, one request after another, including resets."""
    model = OnlineGRPO("LoadBalancer-v0")

    def work() -> int:
        model.train_steps(400_000)
        return 400_000

    return work


def _table(rates: dict[str, list[float]]) -> Table:
    first = next(iter(rates.values()))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"environment steps/s on one thread, {len(first)} repetitions; {_machine()}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("median", "least", "most", "x CartPole"):
        table.add_column(name, justify="right")
    for name, values in rates.items():
        median = statistics.median(values)
        cells = [f"{value:,.0f}" for value in (median, min(values), max(values))]
        table.add_row(name, *cells, f"{median / statistics.median(first):.2f}")
    return table


def _machine() -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}, {versions}"
