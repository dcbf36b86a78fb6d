"""Warnings of processes that follow in silence: process 0 says each of them once."""

import json
import logging
import warnings
from contextlib import AbstractContextManager
from typing import Any, TextIO

import torch

from grpo_gym.trainers import redraws
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.processes.interface import Processes

_log = logging.getLogger(__name__)


class SharedWarnings(logging.Handler, AbstractContextManager["SharedWarnings"]):
    """A callback of `GRPO.learn` for every process, which listens in a `with` statement.

    It hears of lost workers, which are of one process alone, and of Python's warnings, such as
    those of environments, which most often all processes raise. All other warnings of a training
    are the same in process 0.
    """

    def __init__(self, processes: Processes) -> None:
        """Begin with nothing said.

        Args:
            processes: Those that train together.
        """
        super().__init__(logging.WARNING)
        self._processes = processes
        self._logger = logging.getLogger(redraws.__name__)
        self._show = warnings.showwarning
        self._new: list[str] = []
        self._said: set[str] = set()

    def __enter__(self) -> "SharedWarnings":
        self._show, warnings.showwarning = warnings.showwarning, self._note
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        warnings.showwarning = self._show

    def __call__(self, model: Any, stats: IterationStats) -> None:
        """Exchange what is new; process 0 says what nobody has said yet."""
        own, self._new = self._new, []
        self._said.update(own)
        leads = self._processes.rank == 0
        written = json.dumps(own).encode() if own and not leads else b""
        length = self._processes.agree(len(written))
        if not length:
            return
        row = torch.zeros(1, length, dtype=torch.uint8)
        row[0, : len(written)] = torch.tensor(list(written), dtype=torch.uint8)
        rows = self._processes.gather(row, self._processes.size).numpy()
        for other in rows if leads else ():
            text = other.tobytes().rstrip(b"\0")
            for message in json.loads(text) if text else ():
                if message not in self._said:
                    self._said.add(message)
                    _log.warning("%s", message)

    def emit(self, record: logging.LogRecord) -> None:
        """Note that workers were lost."""
        if self._processes.rank > 0:  # process 0 has said it
            self._new.append(f"process {self._processes.rank}: {record.getMessage()}")

    def _note(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Take the place of `warnings.showwarning`."""
        self._new.append(f"{category.__name__}: {message}")
        self._show(message, category, filename, lineno, file, line)
