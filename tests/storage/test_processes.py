"""A pool that is ended before its work is done."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.storage.processes import stop_at_once, worker_pool
from running import is_running, wait_until


def test_impatience_does_not_leave_processes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = worker_pool(2)
    others = [pool.submit(time.sleep, 600.0) for _ in range(3)]
    assert wait_until(others[0].running, 30.0)
    original, interrupts = multiprocessing.active_children, iter([True, False, True])

    def interrupted() -> list[Any]:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return original()

    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing, "active_children", interrupted)
        stop_at_once(pool)
    assert multiprocessing.active_children() == []
    assert all(each.done() for each in others)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import workers
if __name__ == "__main__":
    workers.begin(fresh=sys.argv[2] == "fresh")
"""
WORKERS = """
import os, sys, time
from grpo_gym.storage.processes import worker_pool

def work(number):
    print(os.getpid(), flush=True)
    if number == 0:
        return
    if number == 1:
        time.sleep(600)
    while True:  # computes, and holds the interpreter for a second at a time
        sum(range(30_000_000))

def begin(fresh):
    pool = worker_pool(3, fresh=fresh)
    for number in range(3):
        pool.submit(work, number)
    time.sleep(600)
"""


def parent_of_workers(folder: Path, kind: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process with workers: one idle, one asleep, one computing; and their ids."""
    (folder / "parent.py").write_text(PARENT)
    (folder / "workers.py").write_text(WORKERS)
    command = [sys.executable, str(folder / "parent.py"), str(folder), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(3)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", ["fresh", "lasting"])
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, kind: str) -> None:
    process, workers = parent_of_workers(tmp_path, kind)
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(map(is_running, workers)), 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_leave_the_signals_of_a_terminal_to_the_parent(tmp_path: Path) -> None:
    process, workers = parent_of_workers(tmp_path, "lasting")
    for worker in workers:
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGHUP)
    time.sleep(0.3)
    assert all(map(is_running, workers))
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(map(is_running, workers)), 10.0)


def test_without_the_kernels_help_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no prctl, a thread waits for the parent."""
    context = multiprocessing.get_context("spawn")
    child, end = context.Pipe()
    parent = context.Process(target=_parent_without_prctl, args=(end,))
    parent.start()
    worker = child.recv()
    parent.kill()
    parent.join()
    assert wait_until(lambda: not is_running(worker), 10.0)


def _parent_without_prctl(end: "multiprocessing.connection.Connection") -> None:
    pool = worker_pool(1)
    end.send(pool.submit(_disarmed).result())
    time.sleep(600.0)


def _disarmed() -> int:
    """Take the kernel's promise back."""
    import ctypes

    ctypes.CDLL(None).prctl(1, 0)
    return os.getpid()


@pytest.mark.parametrize("tasks_a_process", [None, 1])
def test_nothing_runs_on_and_nothing_begins(tasks_a_process: int | None) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(2, context, max_tasks_per_child=tasks_a_process)
    first = pool.submit(time.sleep, 0.0)
    others = [pool.submit(time.sleep, 600.0) for _ in range(5)]
    first.result()
    stop_at_once(pool)
    assert multiprocessing.active_children() == []
    assert all(each.done() for each in others)
