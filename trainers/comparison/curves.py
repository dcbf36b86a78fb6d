"""What a training has learned after so many steps and seconds, measured without disturbing it."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

Point = dict[str, int | float]
"""`steps` of the environment, `cpu_seconds`, `wall_seconds`, `mean_return`."""


class Clock:
    """Seconds of this process' processor and of the wall, which can be stopped for a while."""

    def __init__(self) -> None:
        """Start at zero."""
        self._cpu_start = time.process_time()
        self._wall_start = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds of the processor and of the wall since the start, without the stops."""
        return time.process_time() - self._cpu_start, time.perf_counter() - self._wall_start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[tuple[float, float]]:
        """What happens within takes no time; gives what the clock reads."""
        cpu_seconds, wall_seconds = self.read()
        try:
            yield cpu_seconds, wall_seconds
        finally:
            self._cpu_start = time.process_time() - cpu_seconds
            self._wall_start = time.perf_counter() - wall_seconds


class Curve:
    """Mean returns during a training, evenly in environment steps, from before it to its end.

    Attributes:
        points: What was measured.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        total_steps: int,
        evaluations: int,
        on_point: Callable[[Point], None] | None = None,
    ) -> None:
        """Begin; the clock runs from now on.

        Args:
            measure: Plays episodes; their mean return.
            total_steps: Environment steps that the training is to take.
            evaluations: Points after the first; fewer where an iteration takes more steps than lie
                between two of them.
            on_point: Called with each point after the first.
        """
        self.points: list[Point] = []
        self._measure = measure
        self._total_steps = total_steps
        self._evaluations = evaluations
        self._on_point = on_point
        self._passed = -1
        self._clock = Clock()

    def record(self, steps: int, at_end: bool = False) -> None:
        """Measure if it is time to.

        Args:
            steps: Environment steps so far.
            at_end: Whether the training is over; its last point is that.
        """
        passed = steps * self._evaluations // self._total_steps
        early = passed == self._passed or steps >= self._total_steps
        if early and not at_end:
            return
        self._passed = passed
        with self._clock.stopped() as (cpu_seconds, wall_seconds), undisturbed():
            point: Point = {
                "steps": steps,
                "cpu_seconds": round(cpu_seconds, 3),
                "wall_seconds": round(wall_seconds, 3),
                "mean_return": self._measure(),
            }
            self.points.append(point)
            if self._on_point is not None and steps > 0:
                self._on_point(point)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the global random numbers as they were, which Stable-Baselines3 learns with."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
