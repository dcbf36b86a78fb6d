"""How the cost of training grows with one setting at a time, and the memory that it takes.

Every measurement is made in a process of its own, whose peak memory is that of the measurement.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from grpo_gym.trainers.comparison.machine import peak_memory_mb
from grpo_gym.trainers.experiments import shipped_settings
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.settings import new_model

BATCHES = (1, 4, 16, 64)
GROUP_SIZES = (4, 16, 64, 256)
WIDTHS = (16, 64, 256, 1024)
SERVERS = (2, 8, 32, 128, 512, 1024)
BOARDS = (5, 8, 10, 12, 16)
WORKERS = (0, 1, 2)
PROCESSES = (1, 2, 4)
_README = "README's settings"
Measurements = dict[str, Callable[[], dict[str, Any]]]


def growth_measurements(seconds: float, cores: int) -> Measurements:
    """Measurements of costs by key, "what varies/value"; picklable.

    Args:
        seconds: Least duration of each, after an iteration to warm up.
        cores: Of this machine: no measurement uses more processes.
    """

    def row(env: str, preset: str | None = None, **changes: Any) -> Callable[[], dict[str, Any]]:
        return partial(training_cost, env, preset, changes, seconds)

    balancer = "LoadBalancer-v0"
    rows: Measurements = {f"memory/{_README}": row(balancer)}
    for groups in BATCHES:
        rows[f"num_groups/{groups}"] = row(balancer, grpo={"num_groups": groups})
    for members in GROUP_SIZES:
        small = {"num_groups": 2, "group_size": members}
        rows[f"group_size/{members}"] = row(balancer, grpo=small)
    for width in WIDTHS:
        rows[f"hidden_sizes/{width},{width}"] = row(
            balancer, grpo={"num_groups": 2, "hidden_sizes": [width, width]}
        )
    small = {"num_groups": 2, "group_size": 16, "num_minibatches": 4}
    for servers in SERVERS:
        world = {"num_servers": servers, "episode_length": 50}
        for policy in ("mlp", "servers"):
            rows[f"servers, {policy}/{servers}"] = row(
                balancer, env_kwargs=world, policy=policy, grpo=small
            )
    for side in BOARDS:
        rows[f"board/{side} x {side}"] = row(
            "Battleship-v0", "uniform-5x5", env_kwargs={"board_size": side}, grpo={"num_groups": 1}
        )
    for workers in WORKERS if find_spec("Box2D") else ():
        rows[f"workers, LunarLander-v3/{workers}"] = row(
            "LunarLander-v3", grpo={"workers": workers, "max_episode_steps": 200}
        )
    for processes in PROCESSES:
        if processes <= cores:
            rows[f"processes/{processes}"] = partial(process_cost, processes, seconds)
    return rows


def training_cost(
    env: str, preset: str | None, changes: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """What a training's iterations cost on one thread.

    Args:
        env: Id of the environment.
        preset: Its preset.
        changes: Of the settings that ship with it; as `shipped_settings` takes them.
        seconds: Least duration, after an iteration to warm up.

    Returns:
        `steps_per_second`, `collect_us` and `update_us`, microseconds a step: medians over
        iterations; `iterations`, their number; `peak_memory_mb` of this process.
    """
    torch.set_num_threads(1)
    with new_model(shipped_settings(env, preset, **changes)) as model:
        model.train_iteration()
        iterations: list[IterationStats] = []
        started = time.perf_counter()
        while not iterations or time.perf_counter() - started < seconds:
            iterations.append(model.train_iteration())
    collect = median(each.collect_seconds / each.rollout_steps for each in iterations)
    update = median(each.update_seconds / each.rollout_steps for each in iterations)
    return {
        "steps_per_second": median(
            each.rollout_steps / (each.collect_seconds + each.update_seconds) for each in iterations
        ),
        "collect_us": 1e6 * collect,
        "update_us": 1e6 * update,
        "iterations": len(iterations),
        "peak_memory_mb": peak_memory_mb(),
    }


def process_cost(processes: int, seconds: float) -> dict[str, Any]:
    """What `train --processes` costs: a long run less a short one, so that neither's start counts.

    Returns:
        `steps_per_second`, None if other work took longer than the steps; `peak_memory_mb` of the
        largest process.
    """
    few = 2 * _steps_of_an_iteration()
    many = few + max(few, int(300_000 * processes * seconds) // few * few)
    _seconds_of_run(processes, few)  # compiles what is not cached yet
    short, long = _seconds_of_run(processes, few), _seconds_of_run(processes, many)
    return {
        "steps_per_second": (many - few) / (long - short) if long > short else None,
        "peak_memory_mb": _peak_memory_of_children_mb(),
    }


def _steps_of_an_iteration() -> int:
    config = shipped_settings("LoadBalancer-v0").grpo
    return config.num_envs * 400


def _seconds_of_run(processes: int, total_steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--env": "LoadBalancer-v0",
            "--processes": processes,
            "--total-steps": total_steps,
            "--evaluations": 0,
            "--final-episodes": 0,
            "--run-dir": Path(folder) / "run",
        }
        words = [str(word) for option in options.items() for word in option]
        started = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "grpo_gym", "train", *words, "--quiet"],
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr)
        return time.perf_counter() - started


def _peak_memory_of_children_mb() -> float | None:
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
