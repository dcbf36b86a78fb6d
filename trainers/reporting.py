"""Showing and recording how training goes: terminal progress and TensorBoard.

Reporters are callbacks of `GRPO.learn`; nothing in the training loop knows them. Every metric
is described in docs/metrics.md.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from grpo_gym.trainers.iteration import IterationStats, Learner

_PLAIN_SECONDS = 10.0
_RATE_SMOOTHING = 0.9


def scalars(stats: IterationStats) -> dict[str, float]:
    """Metrics of one iteration by TensorBoard tag."""
    values = {f"rollout/{name}": value for name, value in stats.rollout.items()}
    values["train/uniform_groups"] = stats.uniform_groups
    values["train/explained_variance"] = stats.explained_variance
    values["train/discount"] = stats.discount
    if stats.update is not None:
        values |= {f"train/{name}": float(v) for name, v in asdict(stats.update).items()}
    values["time/collect_seconds"] = stats.collect_seconds
    values["time/update_seconds"] = stats.update_seconds
    values["time/steps_per_second"] = _steps_per_second(stats)
    values["time/iteration"] = float(stats.iteration)
    return values


class ProgressReporter:
    """A live progress bar on a terminal; a plain line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        """Show on a console (default: standard error)."""
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = -math.inf
        self._rate = 0.0

    def start(self, model: Learner, total_steps: int) -> None:
        """Show the bar already before the first iteration is done, which may have to compile."""
        if not self.console.is_interactive or self.console.quiet:
            return
        self._bar = Progress(
            TextColumn("{task.completed:,}/{task.total:,} steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TextColumn("return {task.fields[mean_return]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            expand=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            "", total=total_steps, completed=model.num_steps, rate=0.0, mean_return="-"
        )

    def __call__(self, model: Learner, stats: IterationStats) -> None:
        """Show one iteration."""
        rate = _steps_per_second(stats)
        smoothed = _RATE_SMOOTHING * self._rate + (1.0 - _RATE_SMOOTHING) * rate
        self._rate = smoothed if self._rate else rate
        finished = stats.num_steps >= model.schedule.end
        if self.console.is_interactive:
            self._show_bar(model, stats)
        elif finished or time.monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(self._line(model, stats))
        if finished:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "ProgressReporter":
        """Nothing is shown yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it should be, whatever happened."""
        self.close()

    def _show_bar(self, model: Learner, stats: IterationStats) -> None:
        if self._bar is None:
            self.start(model, model.schedule.end)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=min(stats.num_steps, model.schedule.end),
                rate=self._rate,
                mean_return=f"{stats.rollout['return_mean']:.5g}",
            )

    def _line(self, model: Learner, stats: IterationStats) -> str:
        end = model.schedule.end
        left = max(end - stats.num_steps, 0) / max(self._rate, 1e-9)
        return (
            f"{min(stats.num_steps, end):,}/{end:,} steps, {self._rate:,.0f} steps/s, "
            f"return {stats.rollout['return_mean']:.5g}, {left:.0f} s left"
        )


class TensorBoardReporter:
    """Scalars of every iteration, and what evaluations add, as TensorBoard events.

    Use it in a `with` statement. Every method raises OSError where events cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """Open an event file.

        Args:
            folder: Where it goes.
            first_step: Steps taken before. What an earlier session, killed after its last
                checkpoint, recorded beyond them is hidden: it is about to be recorded again.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        self.folder = folder
        again = any(folder.glob("events.out.tfevents.*"))
        self._thread_hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        try:
            with self._writing():
                purge_step = first_step + 1 if again else None
                self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        except OSError:
            threading.excepthook = self._thread_hook
            raise

    def __call__(self, model: Learner, stats: IterationStats) -> None:
        """Record one iteration."""
        self.add(scalars(stats), stats.num_steps)

    def add(self, values: Mapping[str, float], num_steps: int) -> None:
        """Record scalars by tag; what has no value is left out."""
        with self._writing():
            for tag, value in values.items():
                if math.isfinite(value):
                    self.writer.add_scalar(tag, value, num_steps)

    def add_frames(self, frames: np.ndarray, num_steps: int) -> None:
        """Record pictures of an episode, shape (frames, height, width, 3), uint8."""
        with self._writing():
            self.writer.add_images("eval/episode", frames, num_steps, dataformats="NHWC")

    def flush(self) -> None:
        """Write what is pending, so that a checkpoint is never ahead of its events."""
        with self._writing():
            self.writer.flush()

    def close(self) -> None:
        """Write what is pending, and nothing more."""
        try:
            with self._writing():
                self.writer.close()
        finally:
            threading.excepthook = self._thread_hook

    def __enter__(self) -> "TensorBoardReporter":
        """Nothing more to open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; what went wrong before is what counts."""
        with contextlib.suppress(*([] if kind is None else [OSError])):
            self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot write events: {error.strerror or error}: free space, then resume"
            raise OSError(error.errno, reason, str(self.folder)) from error

    def _on_thread_error(self, details: threading.ExceptHookArgs) -> None:
        """The writer's thread hands its error on to us, so it need not print it as well."""
        if type(details.thread).__name__ != "_AsyncWriterThread":
            self._thread_hook(details)


def _steps_per_second(stats: IterationStats) -> float:
    return stats.rollout_steps / max(stats.collect_seconds + stats.update_seconds, 1e-9)
