"""Processes that step environments: their start, their messages, and what becomes of lost ones.

A message over a socket costs some 15 us a worker and step, a semaphore 5 (both measured, with two
workers). The socket also says at once when a worker has died, and carries errors and infos.
"""

import contextlib
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.rollouts.workers.process import SHOW_PLACE, Order
from grpo_gym.rollouts.workers.shared_arrays import ArrayKind, SharedArrays, unnamed_file
from grpo_gym.settings import ConfigError

_START_SECONDS = 180.0
"""To import what environments need, and to make them."""
_END_SECONDS = 5.0
_BEGIN = (
    "import sys; numbers, sys.path[:] = map(int, sys.argv[1:4]), sys.argv[4:]; "
    "from grpo_gym.rollouts.workers.process import main; main(*numbers)"
)


@dataclass(frozen=True)
class LostWorker:
    """A worker that crashed or hung.

    Attributes:
        name: What messages call it.
        part: Its environments.
        cause: What became of it, as a predicate.
    """

    name: str
    part: range
    cause: str

    def __str__(self) -> str:
        return f"{self.name} {self.cause}"


class WorkersLostError(EnvError):
    """Workers crashed or hung; the next reset replaces them.

    Attributes:
        lost: Each of them.
    """

    def __init__(self, lost: list[LostWorker]) -> None:
        self.lost = lost
        super().__init__("; ".join(map(str, lost)))


class RemoteTracebackError(Exception):
    """The cause of an error that a worker reported: its traceback, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerPool:
    """One process for each part of a batch.

    Attributes:
        arrays: What all of them read and write.
    """

    def __init__(
        self,
        name: str,
        make: bytes,
        parts: list[range],
        kinds: dict[str, ArrayKind],
        timeout_s: float,
    ) -> None:
        """Start the processes.

        Args:
            name: What messages call the environments.
            make: What makes an environment, as `sent.as_bytes` wrote it.
            parts: The environments of each worker.
            kinds: Shapes and types of the shared arrays.
            timeout_s: How long a worker may take for an answer.

        Raises:
            ConfigError: If environments cannot be made.
            EnvError: If a worker crashes or hangs in making them.
        """
        if sys.platform == "win32":
            raise ConfigError(f"workers must be 0 on Windows, got {len(parts)}")
        self.arrays = SharedArrays(kinds)
        self._name = name
        self._make = make
        self._kinds = kinds
        self._parts = parts
        self._timeout_s = timeout_s
        self._workers: dict[int, _Worker] = {}
        self._end = weakref.finalize(self, _end_all, self._workers, self.arrays)
        try:
            self.replace_lost()
        except BaseException:
            self._end()
            raise

    def replace_lost(self) -> None:
        """Start the workers that are missing; see `__init__` for errors."""
        missing = [number for number in range(len(self._parts)) if number not in self._workers]
        with self._ending_all_if_interrupted():
            for number in missing:
                part = self._parts[number]
                self._workers[number] = _Worker(
                    Order(
                        self._make,
                        self._kinds,
                        part.start,
                        part.stop,
                        threading.current_thread() is threading.main_thread(),
                    ),
                    self.arrays.descriptor,
                )
            self._answers(missing, max(self._timeout_s, _START_SECONDS))

    def ask(self, messages: Mapping[int, tuple[Any, ...] | None]) -> dict[int, Any]:
        """Send messages to workers, by their numbers, and wait for all answers.

        A message is a method of the worker and its arguments; None ends the worker.

        Raises:
            WorkersLostError: If some crash or hang; the others have answered by then.
            EnvError: If an environment fails, or returns what it must not.
        """
        with self._ending_all_if_interrupted():
            for number, message in messages.items():
                with contextlib.suppress(OSError):  # it has died: found out below
                    self._workers[number].connection.send(message)
            return self._answers(list(messages), self._timeout_s)

    def close(self) -> None:
        """End all workers once they have closed their environments."""
        if not self._end.alive:
            return
        try:
            with contextlib.suppress(WorkersLostError):
                self.ask(dict.fromkeys(self._workers))
        finally:
            self._end()

    def _answers(self, numbers: list[int], timeout_s: float) -> dict[int, Any]:
        deadline = time.monotonic() + timeout_s
        answers, causes, errors = {}, {}, []
        for number in numbers:
            worker = self._workers[number]
            try:
                if not worker.answers_until(deadline):
                    causes[number] = f"gave no answer within {timeout_s:g} s{worker.place()}"
                    continue
                answers[number], error = worker.connection.recv()
            except (EOFError, OSError):
                causes[number] = worker.cause_of_death()
                continue
            if error is not None:
                errors.append(error)
        for number in causes:
            self._workers.pop(number).end(at_once=True)
        if causes:
            raise WorkersLostError([self._described(*each) for each in causes.items()])
        if errors:
            error, text = errors[0]
            raise error from RemoteTracebackError(text)
        return answers

    def _described(self, number: int, cause: str) -> LostWorker:
        name = f"worker {number + 1} of {len(self._parts)} of {self._name}"
        return LostWorker(name, self._parts[number], cause)

    @contextlib.contextmanager
    def _ending_all_if_interrupted(self) -> Any:
        """Workers whose answers nobody waits for would answer the next message too late."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            for number in list(self._workers):
                self._workers.pop(number).end(at_once=True)
            raise


class _Worker:
    """A process and the connection to it."""

    def __init__(self, order: Order, arrays: int) -> None:
        ours, theirs = socket.socketpair()
        self.last_words = unnamed_file()
        passed = (theirs.fileno(), arrays, self.last_words)
        paths = [path for path in sys.path if isinstance(path, str)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, *map(str, passed), *paths],
                stdin=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,  # so that Ctrl-C never reaches it
            )
        self.connection = Connection(ours.detach())
        # Kept: `Connection.poll` would make another one for every step, which takes longer.
        self._answered = select.poll()
        self._answered.register(self.connection, select.POLLIN)
        with contextlib.suppress(OSError):  # it has died: whoever waits for the answer finds out
            self.connection.send(order)

    def answers_until(self, deadline: float) -> bool:
        """Whether there is an answer, or the end, before this monotonic time."""
        left = max(0.0, deadline - time.monotonic())
        return bool(self._answered.poll(math.ceil(1000.0 * left)))

    def cause_of_death(self) -> str:
        """How the process ended, which has closed the connection."""
        try:
            status = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if status >= 0:
            return f"ended with status {status}{self.place()}"
        name = signal.Signals(-status).name if -status in signal.valid_signals() else f"{-status}"
        memory = " (by the system, if there was no memory left)" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}{self.place()}"

    def place(self) -> str:
        """Where it crashed, or where it is; empty if it did not say."""
        if self.process.poll() is None and SHOW_PLACE is not None:
            self.process.send_signal(SHOW_PLACE)
            time.sleep(0.1)
        text = os.pread(self.last_words, 100_000, 0).decode(errors="replace")
        found = re.findall(r'File "(.+)", line (\d+) in (\S+)', text)
        return f" ({found[0][0]}, line {found[0][1]}, in {found[0][2]})" if found else ""

    def end(self, at_once: bool = False) -> None:
        """End the process: at once, or when it has closed its environments."""
        self.connection.close()
        if at_once:
            self.process.kill()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.last_words)


def _end_all(workers: dict[int, _Worker], arrays: SharedArrays) -> None:
    for worker in workers.values():
        worker.connection.close()  # all of them first: they end at the same time
    for worker in workers.values():
        worker.end()
    workers.clear()
    arrays.close()
