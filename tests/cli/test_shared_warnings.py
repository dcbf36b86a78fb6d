"""What processes that follow in silence warn of is said once, by process 0."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli.shared_warnings import SharedWarnings
from thread_processes import Room, ThreadProcesses, in_threads


def lost(number: int) -> logging.LogRecord:
    text = "iteration 1: worker %d of 2 was killed"
    return logging.LogRecord("", logging.WARNING, "", 0, text, (number,), None)


def test_what_process_0_has_not_said_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def train(processes: ThreadProcesses) -> None:
        shared = SharedWarnings(processes)
        for iteration in range(3):
            if iteration < 2:  # each raises the first warning, and all but process 0 another one
                for text in ("slow", "über")[: 1 + (processes.rank > 0)]:
                    shared._note(UserWarning(text), UserWarning, "env.py", 1)
                shared.emit(lost(iteration + 1))
            anything: Any = None
            shared(anything, anything)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        in_threads(3, train)
    assert [record.getMessage() for record in caplog.records] == [
        "UserWarning: über",
        "process 1: iteration 1: worker 1 of 2 was killed",
        "process 2: iteration 1: worker 1 of 2 was killed",
        "process 1: iteration 1: worker 2 of 2 was killed",
        "process 2: iteration 1: worker 2 of 2 was killed",
    ]
    assert {str(each.message) for each in shown} == {"slow", "über"}  # Python's, as ever


def test_it_listens_while_training_lasts() -> None:
    logger, show = logging.getLogger("grpo_gym.trainers.redraws"), warnings.showwarning
    with SharedWarnings(ThreadProcesses(1, Room(2))) as shared:
        assert shared in logger.handlers
        assert warnings.showwarning == shared._note
    assert shared not in logger.handlers
    assert warnings.showwarning is show


WARNS = """
import multiprocessing
import warnings
import gymnasium as gym
from probe_envs import Context

class Warns(Context):
    def reset(self, **given):
        warnings.warn("an old sensor")
        if multiprocessing.parent_process() is not None:
            warnings.warn("a broken sensor")
        return super().reset(**given)

gym.register("Warns-v0", entry_point=Warns)
"""


@pytest.mark.slow  # starts two processes that load torch
def test_of_real_processes(tmp_path: Path) -> None:
    (tmp_path / "warned.py").write_text(WARNS)
    options = ["--env", "warned:Warns-v0", "--total-steps", "1e3", "--final-episodes", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "grpo_gym", "train", *options, "--processes", "2"],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1] / 'shared'}"},
    )  # fmt: skip
    assert "old sensor" in done.stderr
    assert done.stderr.count("a broken sensor") == 1
