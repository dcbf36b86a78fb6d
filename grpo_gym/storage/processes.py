"""Ending a pool of processes before its work is done."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from threading import Thread

_PAUSE_SECONDS = 0.05


def stop_at_once(pool: ProcessPoolExecutor) -> None:
    """End a pool and its processes; what they were doing is lost, and none is left behind.

    Args:
        pool: Of the only processes that this one has started with `multiprocessing`.
    """
    # The pool's own thread may start processes until it has ended, and it ends when one of them is
    # killed; so both happen at the same time: waiting for it, and killing what there is.
    closing = Thread(target=partial(pool.shutdown, cancel_futures=True))
    closing.start()
    while closing.is_alive():
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join()
        closing.join(_PAUSE_SECONDS)
