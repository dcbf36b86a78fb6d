"""Terminate a process pool before its work is done."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from threading import Thread

_PAUSE_SECONDS = 0.05


def stop_at_once(pool: ProcessPoolExecutor) -> None:
    """Terminate a pool and all its processes; their unfinished work is lost.

    Args:
        pool: The only pool or process that this process has started with `multiprocessing`.
    """
    # Until it ends, the pool's thread may start more processes, and it ends only once one of them
    # is killed: so terminate processes while waiting for it.
    closing = Thread(target=partial(pool.shutdown, cancel_futures=True))
    closing.start()
    while closing.is_alive():
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join()
        closing.join(_PAUSE_SECONDS)
