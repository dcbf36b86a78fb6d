"""Which processes train together with this one, and starting others on this machine."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from grpo_gym.settings import ConfigError
from grpo_gym.storage.processes import begin_work
from grpo_gym.trainers.processes.interface import ALONE, Processes

if TYPE_CHECKING:
    from grpo_gym.trainers.processes.group import ProcessGroup

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each process that it starts."""
_LEAVING_SECONDS = 5.0
"""How long the others may take to end when all is over."""


class _Joined:
    """What `join` found or `launched` made."""

    processes: "ProcessGroup | None" = None


def started_together() -> int:
    """How many processes torchrun, or whoever sets its variables, has started; 1 if it did not."""
    return int(os.environ["WORLD_SIZE"]) if all(map(os.environ.get, _VARIABLES)) else 1


def rank_here() -> int:
    """The number of this process among those that torchrun has started."""
    return int(os.environ["RANK"]) if started_together() > 1 else 0


def join() -> Processes:
    """The processes that have been started together with this one, or `ALONE`.

    Raises:
        ProcessError: If not all of them come within minutes.
    """
    if _Joined.processes is None and started_together() > 1:
        # Here, as a single process does without torch.distributed.
        from grpo_gym.trainers.processes.group import ProcessGroup
        from grpo_gym.trainers.processes.meeting import meet

        _Joined.processes = ProcessGroup(*meet(), speaks=True)
    return _Joined.processes or ALONE


def exit_with(status: int) -> None:
    """Say how this process will exit, as its interpreter cannot once other processes are lost."""
    if _Joined.processes is not None:
        _Joined.processes.exit_status = status


@contextmanager
def launched(size: int, work: Callable[[], int]) -> Iterator[Processes]:
    """Start other processes on this machine; this one is number 0 of them, and `join` knows them.

    They end with this one, however it ends, and when this is left at the latest.

    Args:
        size: How many there are together.
        work: What the others do: a function that can be pickled, finds them with `join`, and
            returns their exit status.

    Raises:
        ConfigError: If this process has been started together with others.
    """
    if started_together() > 1:
        raise ConfigError(
            f"processes must be 1 under torchrun, which has started {started_together()}, got "
            f"{size}: give --nproc-per-node to torchrun instead"
        )
    from grpo_gym.trainers.processes.group import ProcessGroup
    from grpo_gym.trainers.processes.meeting import local_store

    store = local_store(size)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_work, args=(store.port, rank, size, work))
        for rank in range(1, size)
    ]
    try:
        for other in others:
            other.start()
        _Joined.processes = ProcessGroup(store, 0, size, speaks=True)
        yield _Joined.processes
    finally:
        last = time.monotonic() + _LEAVING_SECONDS
        for other in others:
            other.join(max(0.0, last - time.monotonic()))
            other.kill()
        if _Joined.processes is not None and not _Joined.processes.has_failed:
            _Joined.processes.close()
            _Joined.processes = None


def _work(port: int, rank: int, size: int, work: Callable[[], int]) -> None:
    """The main function of a process that was started here."""
    begin_work()
    from grpo_gym.trainers.processes.group import ProcessGroup
    from grpo_gym.trainers.processes.meeting import local_store

    store = local_store(size, port)
    _Joined.processes = ProcessGroup(store, rank, size, speaks=False)
    status = work()
    exit_with(status)
    sys.exit(status)
