"""Worker processes: they end with the process that they work for, or when it says so."""

import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Thread

_PAUSE_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


def worker_pool(processes: int, *, fresh: bool = False) -> ProcessPoolExecutor:
    """Spawned processes that end within moments of this one, however it ends.

    They ignore Ctrl-C and the end of the terminal, which reach all processes: this one decides what
    becomes of them.

    Args:
        processes: How many at a time.
        fresh: Whether each task gets a process of its own.
    """
    return ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=begin_work,
        max_tasks_per_child=1 if fresh else None,
    )


def stop_at_once(pool: ProcessPoolExecutor) -> None:
    """Terminate a pool and all its processes; their unfinished work is lost.

    A further Ctrl-C changes nothing: it is over in a moment, and who left earlier would wait for
    the processes when the interpreter ends.

    Args:
        pool: The only pool or process that this process has started with `multiprocessing`.
    """
    # Until it ends, the pool's thread may start more processes, and it ends only once one of them
    # is killed: so terminate processes while waiting for it.
    closing = Thread(target=partial(pool.shutdown, cancel_futures=True))
    closing.start()
    while closing.is_alive():
        with suppress(KeyboardInterrupt):
            for worker in multiprocessing.active_children():
                worker.terminate()
                worker.join()
            closing.join(_PAUSE_SECONDS)


def begin_work() -> None:
    """Begin to be a worker: leave Ctrl-C to the parent, and end with it."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":  # also where compiled code keeps that thread from running
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
