"""Progress on the terminal and metrics in TensorBoard.

Reporters are callbacks of `GRPO.learn`. docs/reference/metrics.md describes every metric.
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
    update = {} if stats.update is None else asdict(stats.update)
    return {
        **{f"rollout/{name}": value for name, value in stats.rollout.items()},
        "train/uniform_groups": stats.uniform_groups,
        "train/explained_variance": stats.explained_variance,
        "train/explained_variance_time_step": stats.explained_variance_time_step,
        "train/unchanged_iterations": float(stats.unchanged_iterations),
        "train/discount": stats.discount,
        **{f"train/{name}": float(value) for name, value in update.items()},
        "time/collect_seconds": stats.collect_seconds,
        "time/update_seconds": stats.update_seconds,
        "time/steps_per_second": _steps_per_second(stats),
        "time/iteration": float(stats.iteration),
    }


class ProgressReporter(contextlib.AbstractContextManager["ProgressReporter"]):
    """A live progress bar on a terminal; elsewhere a plain line every few seconds."""

    def __init__(self, console: Console | None = None) -> None:
        """Report to a console (default: standard error)."""
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = -math.inf
        self._rate = 0.0

    def start(self, model: Learner, total_steps: int) -> None:
        """Show the bar before the first iteration, which may have to compile, has ended."""
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
        end = model.schedule.end
        done = min(stats.num_steps, end)
        mean_return = f"{stats.rollout['return_mean']:.5g}"
        if self._bar is None:
            self.start(model, end)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=self._rate, mean_return=mean_return)
        elif done == end or time.monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            left = (end - done) / max(self._rate, 1e-9)
            self.console.print(
                f"{done:,}/{end:,} steps, {self._rate:,.0f} steps/s, return {mean_return}, "
                f"{left:.0f} s left"
            )
        if done == end:
            self.close()

    def close(self) -> None:
        """Remove the bar and restore the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *_: object) -> None:
        self.close()


class TensorBoardReporter(contextlib.AbstractContextManager["TensorBoardReporter"]):
    """Metrics of every iteration, and results of evaluations, as TensorBoard events.

    Use it in a `with` statement. Every method raises OSError if events cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """Open an event file in a folder.

        Events of an earlier session after `first_step`, the environment steps of the checkpoint
        from which training resumes, are hidden: they are about to be recorded again.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        self.folder = folder
        purge_step = first_step + 1 if _wait_until_newest(folder) else None
        self._thread_hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        try:
            with self._writing():
                self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        except OSError:
            threading.excepthook = self._thread_hook
            raise

    def __call__(self, model: Learner, stats: IterationStats) -> None:
        """Record one iteration."""
        self.add(scalars(stats), stats.num_steps)

    def add(self, values: Mapping[str, float], num_steps: int) -> None:
        """Record scalars by tag, except those that are not finite."""
        with self._writing():
            for tag, value in values.items():
                if math.isfinite(value):
                    self.writer.add_scalar(tag, value, num_steps)

    def add_frames(self, frames: np.ndarray, num_steps: int) -> None:
        """Record pictures of an episode, shape (frames, height, width, 3), uint8."""
        with self._writing():
            self.writer.add_images("eval/episode", frames, num_steps, dataformats="NHWC")

    def flush(self) -> None:
        """Write pending events, so that a checkpoint is never ahead of its events."""
        with self._writing():
            self.writer.flush()

    def close(self) -> None:
        """Write pending events and close the file."""
        try:
            with self._writing():
                self.writer.close()
        finally:
            threading.excepthook = self._thread_hook

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; an earlier exception takes precedence over one of closing."""
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
        """Keep the writer's thread from printing errors that its methods raise again."""
        if type(details.thread).__name__ != "_AsyncWriterThread":
            self._thread_hook(details)


def _wait_until_newest(folder: Path) -> bool:
    """Wait until a new event file sorts behind all others; whether there are others.

    TensorBoard reads event files in the order of their names. Those begin with the second in which
    the file was made, and go on with the process id: within one second the order may be wrong, and
    events of the earlier session would follow those that replace them.
    """
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    if not seconds:
        return False
    remaining = max(seconds) + 1 - time.time()
    if 0 < remaining <= 1:  # longer only if the clock was set back
        time.sleep(remaining)
    return True


def _steps_per_second(stats: IterationStats) -> float:
    return stats.rollout_steps / max(stats.collect_seconds + stats.update_seconds, 1e-9)
