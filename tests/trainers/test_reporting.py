"""Reporters: what a terminal shows, what a log file gets, and what TensorBoard reads back."""

import errno
import io
import math
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from grpo_gym.trainers import reporting
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.learning.update import UpdateStats
from grpo_gym.trainers.reporting import ProgressReporter, TensorBoardReporter, scalars

UPDATE = UpdateStats(
    loss=-0.1,
    kl=0.01,
    reference_kl=0.0,
    entropy=1.0,
    clip_low_share=0.1,
    clip_high_share=0.2,
    gradient_norm=0.5,
    advantage_mean=0.0,
    advantage_std=1.0,
    epochs=3,
    learning_rate=1e-3,
)
MODEL: Any = SimpleNamespace(num_steps=0, schedule=SimpleNamespace(start=0, end=1000))


OF_BASELINES = {"train/explained_variance", "train/explained_variance_time_step"}


def iteration(
    number: int, update: UpdateStats | None = UPDATE, explained_variance: float = math.nan
) -> IterationStats:
    return IterationStats(
        iteration=number,
        num_steps=100 * number,
        rollout_steps=100,
        rollout={"return_mean": -12.3456789, "error": 0.5},
        update=update,
        uniform_groups=0.25,
        explained_variance=explained_variance,
        discount=0.99,
        collect_seconds=0.15,
        update_seconds=0.05,
    )


def console(**options: Any) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, soft_wrap=True, highlight=False, **options), text


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_scalars_by_tag() -> None:
    values = scalars(iteration(3))
    assert values["rollout/return_mean"] == -12.3456789
    assert values["rollout/error"] == 0.5
    assert values["train/uniform_groups"] == 0.25
    assert values["train/clip_high_share"] == 0.2
    assert values["train/epochs"] == 3.0
    assert values["time/steps_per_second"] == pytest.approx(100 / 0.2)
    assert values["time/iteration"] == 3.0


def test_an_iteration_without_an_update_has_no_update_metrics() -> None:
    tags = [tag for tag in scalars(iteration(1, update=None)) if tag.startswith("train/")]
    explained = ["explained_variance", "explained_variance_time_step"]
    names = ["uniform_groups", *explained, "unchanged_iterations", "discount"]
    assert tags == [f"train/{name}" for name in names]


def test_without_a_terminal_a_line_comes_first_last_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([*[0.0] * 2, *range(1, 100)])
    monkeypatch.setattr(reporting.time, "monotonic", lambda: float(next(clock)))
    shown, text = console(width=80)
    with ProgressReporter(shown) as progress:
        progress.start(MODEL, 1000)
        for number in range(1, 11):
            progress(MODEL, iteration(number))
    lines = text.getvalue().splitlines()
    assert lines[0] == "100/1,000 steps, 500 steps/s, return -12.346, 2 s left"
    assert lines[-1] == "1,000/1,000 steps, 500 steps/s, return -12.346, 0 s left"
    assert len(lines) == 2
    assert "\x1b" not in text.getvalue()


def test_the_last_line_does_not_say_more_steps_than_asked_for() -> None:
    shown, text = console(width=80)
    ProgressReporter(shown)(MODEL, iteration(11))
    assert text.getvalue().startswith("1,000/1,000 steps")


def test_on_a_terminal_there_is_one_live_line_of_80_columns() -> None:
    shown, text = console(width=80, force_terminal=True)
    with ProgressReporter(shown) as progress:
        progress.start(MODEL, 1_000_000)
        assert "0/1,000,000 steps" in text.getvalue(), "before the first iteration, which compiles"
        for number in (1, 5):
            progress(MODEL, iteration(number))
    final = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", text.getvalue()).rstrip("\n")
    final = re.split(r"[\r\n]", final)[-1]
    assert "500/1,000,000 steps" in final
    assert "500/s" in final
    assert "return -12.346" in final
    assert final.rstrip().endswith("left")
    assert len(final) <= 80
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h") == 1


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown, text = console(width=80, force_terminal=True)
    with ProgressReporter(shown) as progress:
        progress.start(MODEL, 1000)
        progress(MODEL, iteration(1))
    assert text.getvalue().startswith("100/1,000 steps")
    assert "\x1b" not in text.getvalue()


def test_a_quiet_console_shows_nothing() -> None:
    for terminal in (True, False):
        shown, text = console(width=80, force_terminal=terminal, quiet=True)
        with ProgressReporter(shown) as progress:
            progress.start(MODEL, 1000)
            progress(MODEL, iteration(1))
        assert text.getvalue() == ""


def test_tensorboard_reads_scalars_and_pictures_back(tmp_path: Path) -> None:
    frames = np.zeros((2, 8, 10, 3), np.uint8)
    with TensorBoardReporter(tmp_path) as board:
        board(MODEL, iteration(1))
        board.add({"eval/return_mean": 3.5, "eval/nothing": float("nan")}, 100)
        board.add_frames(frames, 100)
    events = read(tmp_path)
    recorded = {*scalars(iteration(1)), "eval/return_mean"} - OF_BASELINES
    assert set(events.Tags()["scalars"]) == recorded
    assert [(e.step, e.value) for e in events.Scalars("eval/return_mean")] == [(100, 3.5)]
    (image,) = events.Images("eval/episode")
    assert (image.width, image.height) == (20, 8)


def test_what_was_flushed_is_there_whatever_happens_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RecordWriter.write

    def slowly(writer: Any, data: Any) -> None:
        time.sleep(0.02)
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", slowly)
    with TensorBoardReporter(tmp_path) as board:
        board(MODEL, iteration(1))
        board.flush()
        # What is read is what a process that is killed here would leave.
        found = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
        assert set(found) == set(scalars(iteration(1))) - OF_BASELINES


def test_the_explained_variance_is_recorded_where_there_is_one(tmp_path: Path) -> None:
    with TensorBoardReporter(tmp_path) as board:
        board(MODEL, iteration(1))
        board(MODEL, iteration(2, explained_variance=0.75))
    recorded = read(tmp_path).Scalars("train/explained_variance")
    assert [(event.step, event.value) for event in recorded] == [(200, 0.75)]


@pytest.mark.parametrize("saved", [0, 200])
def test_steps_after_the_last_checkpoint_are_not_doubled(saved: int, tmp_path: Path) -> None:
    with TensorBoardReporter(tmp_path) as board:
        for number in (1, 2, 3):
            board(MODEL, iteration(number))
    with TensorBoardReporter(tmp_path, saved) as board:
        for number in range(saved // 100 + 1, 5):
            board(MODEL, iteration(number))
    steps = [event.step for event in read(tmp_path).Scalars("rollout/return_mean")]
    assert steps == [100, 200, 300, 400]


def test_events_of_a_resumed_run_follow_the_earlier_ones_even_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard reads files by name, and "10" sorts before "9"."""
    for process, first_step in (("9", 0), ("10", 100)):
        monkeypatch.setattr(event_file_writer.os, "getpid", lambda process=process: process)
        with TensorBoardReporter(tmp_path, first_step) as board:
            for number in (1, 2) if first_step == 0 else (2, 3):
                board(MODEL, iteration(number))
    recorded = read(tmp_path).Scalars("rollout/return_mean")
    assert [event.step for event in recorded] == [100, 200, 300]


def test_a_disk_that_is_full_is_one_error_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hook = threading.excepthook
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    message = "cannot write events: No space left on device"
    with pytest.raises(OSError, match=message) as caught, TensorBoardReporter(tmp_path) as board:
        for number in range(1, 100):
            board(MODEL, iteration(number))
    assert caught.value.filename == str(tmp_path)
    assert capsys.readouterr().err == "", "the writer's thread prints no traceback"
    assert threading.excepthook is hook


def test_what_went_wrong_first_is_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError, match="first"), TensorBoardReporter(tmp_path) as board:
        monkeypatch.setattr(board.writer, "close", lambda: (_ for _ in ()).throw(OSError("then")))
        raise KeyError("first")
