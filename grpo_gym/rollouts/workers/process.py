"""The process of a worker: a part of a batch, stepped when a message says so.

Shapes: B environments of the whole batch, M of them.
"""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import numpy as np

from grpo_gym.rollouts.env_batch import BatchSnapshot, BatchStep, EnvError, EnvNumberError
from grpo_gym.rollouts.loop_batch import LoopBatch, make_loop
from grpo_gym.rollouts.workers.sent import from_bytes
from grpo_gym.rollouts.workers.shared_arrays import ArrayKind, SharedArrays
from grpo_gym.settings import ConfigError

SHOW_PLACE = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else None
"""Makes a worker write where it is, also one that hangs in compiled code."""
_KNOWN_ERRORS = (EnvNumberError, EnvError, ConfigError, MemoryError, KeyboardInterrupt)
_FAREWELL_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


@dataclass(frozen=True)
class Order:
    """The first message to a worker.

    Attributes:
        make: What makes an environment, as `sent.as_bytes` wrote it.
        arrays: The arrays of the whole batch.
        start: The first environment of the worker's part.
        stop: The one after the last.
        lives_with_thread: Whether the thread that started it lasts as long as its process.
    """

    make: bytes
    arrays: dict[str, ArrayKind]
    start: int
    stop: int
    lives_with_thread: bool


def main(connection: int, arrays: int, last_words: int) -> None:
    """Serve one parent until it closes the connection; arguments are file descriptors."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable(last_words, all_threads=False)
    if SHOW_PLACE is not None:
        faulthandler.register(SHOW_PLACE, last_words, all_threads=False)
    parent = Connection(connection)
    Thread(target=_end_with, args=(parent.fileno(),), daemon=True).start()
    order: Order = parent.recv()
    if order.lives_with_thread and sys.platform == "linux":
        # Also where compiled code keeps that thread from running.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        part = _Part(order, arrays)
    except BaseException as error:  # a user's environment may raise anything
        parent.send(_as_answer(error))
        return
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        parent.send((None, None))
        while (message := parent.recv()) is not None:
            parent.send(part.answer(*message))
    farewell = part.answer("close")
    with contextlib.suppress(OSError):
        parent.send(farewell)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as the processes of multiprocessing do: taking modules apart takes long


class _Part:
    """A worker's environments."""

    def __init__(self, order: Order, descriptor: int) -> None:
        make = from_bytes(order.make)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parent has made one, and shown its warnings
            self._batch: LoopBatch = make_loop(make, order.stop - order.start)
        self._arrays = SharedArrays(order.arrays, descriptor).rows(order.start, order.stop)
        self._kept: dict[int, BatchSnapshot] = {}

    def answer(self, command: str, *arguments: Any) -> tuple[Any, Any]:
        """What a method returns, and the error that it raised."""
        try:
            return getattr(self, command)(*arguments), None
        except BaseException as error:  # a user's environment may raise anything
            return _as_answer(error)

    def close(self) -> None:
        """Close the environments."""
        self._batch.close()

    def reset(self, seeds: list[int]) -> bool:
        """Start an episode in each; whether there are masks."""
        observations, masks = self._batch.reset(seeds)
        self._arrays["observations"][:] = observations
        return self._keep_masks(masks)

    def step(self) -> tuple[dict[str, np.ndarray], bool]:
        """Step those that are alive; their infos, and whether there are masks."""
        # Copies: an environment may keep its action, and the next step would change it.
        step: BatchStep = self._batch.step(
            self._arrays["actions"].copy(), self._arrays["alive"].copy()
        )
        for name in ("observations", "rewards", "terminated", "truncated"):
            self._arrays[name][:] = getattr(step, name)
        return step.infos, self._keep_masks(step.action_masks)

    def snapshot(self, key: int, members: np.ndarray) -> None:
        """Save environments (M,) by a key."""
        self._kept[key] = self._batch.snapshot(members)

    def restore(self, key: int, members: np.ndarray) -> None:
        """Put environments (M, K) into the states (M,) that were saved by a key."""
        self._batch.restore(self._kept[key], members)

    def forget(self, keys: list[int]) -> None:
        """Drop what was saved by these keys."""
        for key in keys:
            self._kept.pop(key, None)

    def _keep_masks(self, masks: np.ndarray | None) -> bool:
        if masks is not None:
            self._arrays["masks"][:] = masks
        return masks is not None


def _as_answer(error: BaseException) -> tuple[None, tuple[BaseException, str]]:
    """An error as an answer: of a class that the parent knows, and where it came from."""
    text = "".join(traceback.format_exception(error))
    for kind in _KNOWN_ERRORS:
        if isinstance(error, kind):
            return None, (kind(*map(str, error.args)), text)
    return None, (RuntimeError(f"a worker failed: {error!r}"), text)


def _end_with(connection: int) -> None:
    """End soon after the parent, whatever the environments are busy with."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    parent = select.poll()
    parent.register(connection, 0)  # only whether it has hung up
    parent.poll()
    time.sleep(_FAREWELL_SECONDS)  # so that the environments can be closed
    os._exit(1)
