"""Exchanges through shared memory; the processes are threads here, but for one that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from grpo_gym.trainers.processes import shared_memory
from grpo_gym.trainers.processes.meeting import local_store
from grpo_gym.trainers.processes.shared_memory import SharedMemory, connected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where there is memfd_create")


def not_for_ever() -> Callable[[], None]:
    """Gives up after some seconds."""
    looks = iter(range(5))
    return lambda: None if next(looks, None) is not None else pytest.fail("it waits for ever")


def among(size: int, work: Callable[[SharedMemory | None, int], Any]) -> list[Any]:
    """What each of several processes gets; they close their memory only when all are done."""
    store = HashStore()
    memories: list[SharedMemory | None] = [None] * size

    def one(rank: int) -> Any:
        current_thread().name = f"process {rank}"
        memories[rank] = connected(store, rank, size)
        return work(memories[rank], rank)

    try:
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size)))
    finally:
        for memory in memories:
            if memory is not None:
                memory.close()


def content(rank: int, turn: int) -> Tensor:
    """What a process brings: of other sizes, growing and shrinking, some of them empty."""
    length = (rank * 997 + turn * 5003) * (turn % 4) % 40_000
    generator = torch.Generator().manual_seed(100 * turn + rank)
    return torch.randint(256, (length,), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_receive_everything_in_order(size: int) -> None:
    def work(memory: SharedMemory | None, rank: int) -> None:
        assert memory is not None
        for turn in range(60):
            parts = memory.gather_unequal(content(rank, turn), not_for_ever())
            wanted = [content(each, turn) for each in range(size)]
            assert all(map(torch.equal, parts, wanted)), (rank, turn)

    before = held()
    among(size, work)
    assert held() == before


@pytest.mark.parametrize(
    "brought",
    [torch.tensor(7), torch.rand(2, 5), torch.rand(4, 6)[:, ::2], torch.zeros(0, 3).double()],
)
def test_tensors_keep_their_shape_and_type(brought: Tensor) -> None:
    def work(memory: SharedMemory | None, rank: int) -> None:
        assert memory is not None
        first, second = memory.gather(brought + rank, not_for_ever())
        assert first.dtype == second.dtype == brought.dtype
        assert torch.equal(first, brought) and torch.equal(second, brought + 1)

    among(2, work)


def test_who_waits_looks_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "LOOK_SECONDS", 0.01)
    looks = []

    def check() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise TimeoutError("enough")

    def work(memory: SharedMemory | None, rank: int) -> None:
        assert memory is not None
        if rank == 0:
            memory.gather(torch.tensor(1), check)

    with pytest.raises(TimeoutError, match="enough"):
        among(2, work)


WAITING = """
import sys, torch
from grpo_gym.trainers.processes.meeting import local_store
from grpo_gym.trainers.processes.shared_memory import connected
memory = connected(local_store(2, int(sys.argv[1])), 1, 2)
memory.gather(torch.tensor(1), lambda: None)
print("once", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_breaks_the_exchange_and_leaves_nothing() -> None:
    shared = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    store = local_store(2)
    command = [sys.executable, "-c", WAITING, str(store.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        memory = connected(store, 0, 2)
        assert memory is not None
        assert memory.gather(torch.tensor(0), not_for_ever())[1] == 1
        assert other.stdout is not None and other.stdout.readline() == b"once\n"
        other.send_signal(signal.SIGKILL)
        with pytest.raises(BrokenPipeError):
            memory.gather(torch.tensor(0), not_for_ever())
        memory.close()
    assert set(Path("/dev/shm").iterdir() if shared else ()) <= shared
    assert not any("memfd" in name for name in held())


def refuse(*_: Any) -> Any:
    if current_thread().name == "process 1":
        raise OSError("no")
    return memfd_create(*_)


memfd_create: Any = getattr(os, "memfd_create", None)


def strange(self: SharedMemory, other: int, description: dict[str, Any]) -> None:
    reach(self, other, {**description, "names": ["/memfd:of another process (deleted)"] * 2})


reach = SharedMemory.reach


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (os, "memfd_create", refuse),  # in one of them
        (SharedMemory, "reach", strange),  # of another machine, or container
    ],
)
def test_all_do_without_where_one_cannot(
    where: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, value)
    before = held()
    assert among(3, lambda memory, _: memory) == [None] * 3
    assert held() == before


def test_all_do_without_if_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_GYM_SHARED_MEMORY", "0")
    assert among(2, lambda memory, _: memory) == [None] * 2


def held() -> list[str]:
    """The buffers and pipes of this process."""
    links = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
    names = sorted(os.readlink(link) for link in links if os.path.lexists(link))
    return [name for name in names if name.startswith(("/memfd:grpo-gym", "pipe:"))]
