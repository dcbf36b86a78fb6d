"""Showing and recording how training goes: terminal progress and TensorBoard.

Reporters are callbacks of `GRPO.learn`; nothing in the training loop knows them. Every metric
is described in docs/metrics.md.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_gym.trainers.grpo import GRPO, IterationStats

_PLAIN_SECONDS = 10.0


def scalars(stats: IterationStats) -> dict[str, float]:
    """Metrics of one iteration by TensorBoard tag."""
    values = {f"rollout/{name}": value for name, value in stats.rollout.items()}
    values["train/uniform_groups"] = stats.uniform_groups
    if stats.update is not None:
        values |= {f"train/{name}": float(v) for name, v in asdict(stats.update).items()}
    seconds = stats.collect_seconds + stats.update_seconds
    values["time/collect_seconds"] = stats.collect_seconds
    values["time/update_seconds"] = stats.update_seconds
    values["time/steps_per_second"] = stats.rollout_steps / max(seconds, 1e-9)
    values["time/iteration"] = float(stats.iteration)
    return values


class ProgressReporter:
    """A live progress bar on a terminal; a plain line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        """Show on a console (default: standard error)."""
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None
        self._last_line = -float("inf")
        self._rate = 0.0

    def __call__(self, model: GRPO, stats: IterationStats) -> None:
        """Show one iteration."""
        seconds = stats.collect_seconds + stats.update_seconds
        rate = stats.rollout_steps / max(seconds, 1e-9)
        self._rate = rate if self._rate == 0.0 else 0.9 * self._rate + 0.1 * rate
        if self.console.is_terminal:
            self._show_bar(model, stats)
        else:
            self._print_line(model, stats)
        if stats.num_steps >= model.schedule.end:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show_bar(self, model: GRPO, stats: IterationStats) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("[bold]training"),
                BarColumn(),
                TextColumn("{task.completed:,}/{task.total:,} steps"),
                TextColumn("{task.fields[rate]:,.0f}/s"),
                TextColumn("return {task.fields[mean_return]:.1f}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=model.schedule.end, rate=0, mean_return=0)
        self._progress.update(
            self._task,
            completed=min(stats.num_steps, model.schedule.end),
            rate=self._rate,
            mean_return=stats.rollout["return_mean"],
        )

    def _print_line(self, model: GRPO, stats: IterationStats) -> None:
        now = time.monotonic()
        finished = stats.num_steps >= model.schedule.end
        if now - self._last_line < _PLAIN_SECONDS and not finished:
            return
        self._last_line = now
        left = max(model.schedule.end - stats.num_steps, 0) / max(self._rate, 1e-9)
        self.console.print(
            f"{stats.num_steps:,}/{model.schedule.end:,} steps, {self._rate:,.0f} steps/s, "
            f"return {stats.rollout['return_mean']:.1f}, {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )


class TensorBoardReporter:
    """Scalars of every iteration, and what evaluations add, as TensorBoard events."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """Open an event file.

        Args:
            folder: Where it goes.
            first_step: Steps that were taken before; later ones of an earlier, interrupted
                session are hidden.
        """
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- takes a second

        self.writer = SummaryWriter(  # type: ignore[no-untyped-call]
            str(folder), purge_step=first_step + 1 if first_step else None
        )

    def __call__(self, model: GRPO, stats: IterationStats) -> None:
        """Record one iteration."""
        self.add(scalars(stats), stats.num_steps)

    def add(self, values: dict[str, float], num_steps: int) -> None:
        """Record scalars by tag."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, num_steps)  # type: ignore[no-untyped-call]

    def add_frames(self, frames: np.ndarray, num_steps: int) -> None:
        """Record pictures of an episode, shape (frames, height, width, 3), uint8."""
        self.writer.add_images(  # type: ignore[no-untyped-call]
            "eval/episode", frames, num_steps, dataformats="NHWC"
        )

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()  # type: ignore[no-untyped-call]


