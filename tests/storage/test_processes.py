"""A pool that is ended before its work is done."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from grpo_gym.storage.processes import stop_at_once


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
