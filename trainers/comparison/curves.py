"""Learning curves: evaluations during a training that do not disturb it or its clock."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from grpo_gym.trainers.comparison.records import CurvePoint


class Clock:
    """CPU time of this process and elapsed time, in seconds; it can be paused."""

    def __init__(self) -> None:
        """Start at zero."""
        self._cpu_start = time.process_time()
        self._wall_start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[tuple[float, float]]:
        """Stand still for the duration of the block; yields CPU seconds and elapsed seconds."""
        cpu_seconds = time.process_time() - self._cpu_start
        wall_seconds = time.perf_counter() - self._wall_start
        try:
            yield cpu_seconds, wall_seconds
        finally:
            self._cpu_start = time.process_time() - cpu_seconds
            self._wall_start = time.perf_counter() - wall_seconds


class Curve:
    """Mean returns from before a training to its end, evenly spaced in environment steps.

    Attributes:
        points: The evaluations so far.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        total_steps: int,
        evaluations: int,
        on_point: Callable[[CurvePoint], None] | None = None,
    ) -> None:
        """Start the clock.

        Args:
            measure: Plays episodes and returns their mean return.
            total_steps: Environment steps that the training will take.
            evaluations: Points after the first; fewer where one iteration passes several of them.
            on_point: Called with each point after the first.
        """
        self.points: list[CurvePoint] = []
        self._measure = measure
        self._total_steps = total_steps
        self._evaluations = evaluations
        self._on_point = on_point
        self._passed = -1
        self._clock = Clock()

    def record(self, steps: int, at_end: bool = False) -> None:
        """Evaluate if a point is due.

        Args:
            steps: Environment steps so far.
            at_end: Whether training is over, which is when the last point is due.
        """
        passed = steps * self._evaluations // self._total_steps
        if not at_end and (passed == self._passed or steps >= self._total_steps):
            return
        self._passed = passed
        with self._clock.paused() as (cpu_seconds, wall_seconds), _random_state_kept():
            point = CurvePoint(
                steps=steps,
                cpu_seconds=round(cpu_seconds, 3),
                wall_seconds=round(wall_seconds, 3),
                mean_return=self._measure(),
            )
            self.points.append(point)
            if self._on_point is not None and steps > 0:
                self._on_point(point)


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
