"""Learning curves: evaluations during a training that do not disturb it or its clock."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from grpo_gym.trainers.comparison.records import CurvePoint
from grpo_gym.trainers.comparison.training import Training


def learn_with_curve(
    training: Training,
    measure: Callable[[], float],
    total_steps: int,
    evaluations: int,
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> list[CurvePoint]:
    """Train, and evaluate from before the first step to after the last.

    The points lie evenly in environment steps: `evaluations` after the first, or fewer where one
    iteration passes several of them. `on_point` is called with each but the first.
    """
    points: list[CurvePoint] = []
    passed = 0
    cpu_start, wall_start = time.process_time(), time.perf_counter()

    def add_point(steps: int) -> None:
        nonlocal cpu_start, wall_start
        cpu, wall = time.process_time(), time.perf_counter()
        with _random_state_kept():
            point = CurvePoint(
                steps=steps,
                cpu_seconds=round(cpu - cpu_start, 3),
                wall_seconds=round(wall - wall_start, 3),
                mean_return=measure(),
            )
            if points:
                on_point(point)
        points.append(point)
        cpu_start += time.process_time() - cpu
        wall_start += time.perf_counter() - wall

    def record(steps: int) -> None:
        nonlocal passed
        before, passed = passed, steps * evaluations // total_steps
        if before < passed and steps < total_steps:
            add_point(steps)

    add_point(0)
    add_point(training.learn(total_steps, record))
    return points


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global random number generators, with which Stable-Baselines3 trains."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
