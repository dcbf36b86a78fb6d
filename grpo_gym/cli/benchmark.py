"""`benchmark`: how fast environments and training are here, beside Gymnasium's CartPole.

Rates depend on the machine and on what else it does, so each is the median of several
repetitions that take turns, and ratios within one run are what to compare.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from grpo_gym.cli.failures import check_writable, reported
from grpo_gym.settings.config import ConfigError
from grpo_gym.storage.files import write_atomic
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.online import OnlineGRPO

Measurement = Callable[[], tuple[int, float]]
"""Does some work; returns environment steps and the seconds they took."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of `benchmark`."""

    repetitions: int = 5
    """Repetitions of each measurement."""
    num_envs: int = 1024
    """Environments of the vectorised measurements."""
    json: Path | None = None
    """Write the rates to this file."""


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(
        Options,
        args=list(given),
        description="Measure environment and training steps per second on one thread.",
    )
    for name in ("repetitions", "num_envs"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be >= 1")
    if options.json is not None:
        check_writable(options.json, "--json")
    torch.set_num_threads(1)
    measurements = _measurements(options.num_envs)
    for measure in measurements.values():
        measure()  # compiles and warms up
    rates: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(options.repetitions):
        for name, measure in measurements.items():
            steps, seconds = measure()
            rates[name].append(steps / seconds)
    Console().print(_table(rates))
    if options.json is not None:
        report = {"machine": _machine(), "steps_per_second": rates}
        write_atomic(options.json, json.dumps(report, indent=2).encode() + b"\n")
    return 0


def _measurements(num_envs: int) -> dict[str, Measurement]:
    return {
        "Gymnasium CartPole-v1, unwrapped": _single(gym.make("CartPole-v1").unwrapped, 20_000),
        "LoadBalancer-v0, unwrapped": _single(gym.make("LoadBalancer-v0").unwrapped, 20_000),
        f"Gymnasium CartPole-v1, vector, {num_envs}": _vector("CartPole-v1", num_envs, 200),
        f"LoadBalancer-v0, vector, {num_envs}": _vector("LoadBalancer-v0", num_envs, 800),
        "GRPO on LoadBalancer-v0, training": _training(),
        "online GRPO on LoadBalancer-v0, decisions": _online_decisions(),
    }


def _single(env: gym.Env[np.ndarray, np.int64], steps: int) -> Measurement:
    """Random actions in one environment, resets included."""
    actions = np.random.default_rng(0).integers(env.action_space.n, size=steps)  # type: ignore[attr-defined]
    env.reset(seed=0)

    def measure() -> tuple[int, float]:
        started = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return steps, time.perf_counter() - started

    return measure


def _vector(env_id: str, num_envs: int, steps: int) -> Measurement:
    """Random actions in a vector environment, automatic resets included."""
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    choices = env.single_action_space.n  # type: ignore[attr-defined]
    actions = np.random.default_rng(0).integers(choices, size=(64, num_envs))
    env.reset(seed=0)

    def measure() -> tuple[int, float]:
        started = time.perf_counter()
        for step in range(steps):
            env.step(actions[step % 64])
        return steps * num_envs, time.perf_counter() - started

    return measure


def _training() -> Measurement:
    """Whole iterations with the default settings: collecting, comparing, learning."""
    model = GRPO("mlp", "LoadBalancer-v0")

    def measure() -> tuple[int, float]:
        before, started = model.num_steps, time.perf_counter()
        for _ in range(4):
            model.train_iteration()
        return model.num_steps - before, time.perf_counter() - started

    return measure


def _online_decisions() -> Measurement:
    """Decide, route, estimate and learn, one request after another, new episodes included."""
    model = OnlineGRPO("LoadBalancer-v0")

    def measure() -> tuple[int, float]:
        started = time.perf_counter()
        model.train_steps(400_000)
        return 400_000, time.perf_counter() - started

    return measure


def _table(rates: dict[str, list[float]]) -> Table:
    first = statistics.median(next(iter(rates.values())))
    count = len(next(iter(rates.values())))
    table = Table(
        title=f"environment steps/s on one thread, {count} repetitions; {_machine()}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("median", "least", "most", "x CartPole"):
        table.add_column(name, justify="right")
    for name, values in rates.items():
        median = statistics.median(values)
        cells = [f"{value:,.0f}" for value in (median, min(values), max(values))]
        table.add_row(name, *cells, f"{median / first:.2f}")
    return table


def _machine() -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}, {versions}"
