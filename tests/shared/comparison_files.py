"""Result files of a comparison, made up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def curve(steps: Sequence[float], returns: Sequence[float], steps_per_second: float) -> list[Any]:
    return [
        {
            "steps": int(step),
            "cpu_seconds": step / steps_per_second,
            "wall_seconds": 1.1 * step / steps_per_second,
            "mean_return": float(value),
        }
        for step, value in zip(steps, returns, strict=True)
    ]


def training(
    final: float,
    start: float = 0.0,
    total: int = 1000,
    steps_per_second: float = 10.0,
    reached_at: float = 0.5,
    **changes: Any,
) -> dict[str, Any]:
    """A training whose return rises evenly from the start and stays at its final value."""
    steps = np.linspace(0.0, total, 11)
    returns = start + (final - start) * np.minimum(steps / (reached_at * total), 1.0)
    return {
        "settings": {"learning_rate": 3e-4, "hidden_sizes": [64, 64]},
        "tuned": True,
        "parameters": 9000,
        "policy_parameters": 4500,
        "peak_memory_mb": 512.0,
        "steps": total,
        "cpu_seconds": total / steps_per_second,
        "wall_seconds": 1.1 * total / steps_per_second,
        "curve": curve(list(steps), list(returns), steps_per_second),
        "final": {"mean_return": float(final), "sem": 0.1, "metrics": {"error": 0.01}},
        **changes,
    }


def task(env: str = "CartPole-v1", **env_kwargs: Any) -> dict[str, Any]:
    return {
        "env": env,
        "env_kwargs": env_kwargs,
        "total_steps": 1000,
        "evaluations": 10,
        "evaluation_seed": 2_000_000,
        "curve_episodes": 200,
        "final_episodes": 1000,
        "deterministic": True,
        "versions": {"grpo_gym": "0.1.0", "python": "3.12"},
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux"},
        "command": f"grpo-gym compare --env {env}",
    }


def write(
    path: Path,
    trainings: Mapping[str, Sequence[Mapping[str, Any]]],
    baselines: Mapping[str, float] | None = None,
    head: Mapping[str, Any] | None = None,
) -> Path:
    """A result file with these trainings of each algorithm, seeds from 0."""
    values: dict[str, Any] = {"task": head or task()}
    for name, mean in (baselines or {}).items():
        values[f"baseline/{name}"] = {"mean_return": mean, "sem": 0.5}
    for algorithm, each in trainings.items():
        values |= {f"{algorithm}/seed {seed}": one for seed, one in enumerate(each)}
    path.write_text(json.dumps(values))
    return path
