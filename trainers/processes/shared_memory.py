"""Exchanges between processes of one machine, through memory that they share.

Each process has two boxes, one for every other exchange, and a pipe from each other process. To
bring something, it writes it into a box and then says its length in the pipe of each other one; to
receive, it reads the lengths, waiting for them, and looks into the boxes of the others. A box is
written again in the exchange after the next, and its owner gets there only once all others have
begun the next one.

The kernel orders memory: what a process wrote before `write` is there for who has `read`, on
processors of any kind. It also lets a process sleep until there is something to read, and tells it
if the other end is gone. Boxes and pipes have no names in any folder and end with their processes,
however these end; boxes are not bounded by the size of /dev/shm.

Shapes: P processes.
"""

import json
import mmap
import os
import secrets
import select
import time
from typing import Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, Store

from grpo_gym.trainers.processes.exchange import Check, Exchange
from grpo_gym.trainers.processes.watch import LOOK_SECONDS

_SWITCH = "GRPO_GYM_SHARED_MEMORY"
"""The variable that is 0 where processes are to do without."""
_PATIENCE_SECONDS = 1e-4
"""How long to look again and again for what comes soon, as waking up takes longer than that."""
_LENGTH_BYTES = 8


class SharedMemory(Exchange):
    """Processes of one machine; `connected` makes it."""

    def __init__(self, rank: int, size: int) -> None:
        """Make this process's boxes and pipes.

        Raises:
            OSError: If this system has no such boxes, or refuses them.
        """
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._descriptors: list[int] = []
        self._exchanges = 0
        self._boxes: dict[int, tuple[Box, Box]] = {}
        self._sends: dict[int, int] = {}
        self._receives: dict[int, tuple[int, select.poll]] = {}
        self._kept_open: dict[int, int] = {}
        try:
            self._boxes[rank] = (self._new_box(), self._new_box())
            for other in self._others:
                receives, self._kept_open[other] = self._noted(*os.pipe2(os.O_NONBLOCK))
                poll = select.poll()
                poll.register(receives, select.POLLIN)
                self._receives[other] = receives, poll
        except BaseException:
            self.close()
            raise

    def description(self) -> dict[str, Any]:
        """What the others need to `reach` this process."""
        boxes = [box.descriptor for box in self._boxes[self._rank]]
        names = [os.readlink(_place(os.getpid(), box)) for box in boxes]
        return {"process": os.getpid(), "boxes": boxes, "names": names, "pipes": self._kept_open}

    def reach(self, other: int, description: dict[str, Any]) -> None:
        """Open the boxes and the pipe of another process.

        Raises:
            OSError: If it is not on this machine, or cannot be reached.
        """
        process, boxes = description["process"], description["boxes"]
        # Before anything is opened: a process of another machine may have the number of one here.
        if [os.readlink(_place(process, box)) for box in boxes] != description["names"]:
            raise OSError(f"process {process} of this machine is another one")
        first, second = (self._noted(os.open(_place(process, box), os.O_RDWR))[0] for box in boxes)
        self._boxes[other] = Box(first), Box(second)
        pipe = _place(process, description["pipes"][str(self._rank)])
        (self._sends[other],) = self._noted(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    def all_have_come(self) -> None:
        """Hold the pipes from others at one end only, so that they break when the others end."""
        for descriptor in self._kept_open.values():
            self._descriptors.remove(descriptor)
            os.close(descriptor)
        self._kept_open = {}

    def gather(self, mine: Tensor, check: Check) -> list[Tensor]:
        """See `Exchange`."""
        numbers = mine.detach().cpu().contiguous()
        parts = self.gather_unequal(numbers.reshape(-1).view(torch.uint8), check)
        return [part.view(mine.dtype).view(mine.shape).to(mine.device) for part in parts]

    def gather_unequal(self, mine: Tensor, check: Check) -> list[Tensor]:
        """See `Exchange`."""
        turn = self._exchanges % 2
        self._exchanges += 1
        length = len(mine)
        self._boxes[self._rank][turn].write(mine)
        said = length.to_bytes(_LENGTH_BYTES, "little")
        for descriptor in self._sends.values():
            os.write(descriptor, said)
        lengths = {other: self._length_from(other, check) for other in self._others}
        lengths[self._rank] = length
        return [self._boxes[rank][turn].read(lengths[rank]) for rank in sorted(lengths)]

    def close(self) -> None:
        """See `Exchange`."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._boxes = [], {}

    def _length_from(self, other: int, check: Check) -> int:
        """Wait for another process; how much it has brought."""
        descriptor, poll = self._receives[other]
        patience = time.perf_counter() + _PATIENCE_SECONDS
        while True:
            try:
                said = os.read(descriptor, _LENGTH_BYTES)
            except BlockingIOError:
                if time.perf_counter() < patience:
                    os.sched_yield()  # to those that work on the same core, if there are any
                elif not poll.poll(LOOK_SECONDS * 1e3):
                    check()
            else:
                if not said:
                    raise BrokenPipeError(f"process {other} has gone")
                return int.from_bytes(said, "little")

    def _new_box(self) -> "Box":
        name = f"grpo-gym-{secrets.token_hex(16)}"
        return Box(*self._noted(os.memfd_create(name)))

    def _noted(self, *descriptors: int) -> tuple[int, ...]:
        self._descriptors.extend(descriptors)
        return descriptors


class Box:
    """Memory that one process writes and others read.

    Attributes:
        descriptor: Of the file that it is for the system.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = torch.empty(0, dtype=torch.uint8)

    def write(self, content: Tensor) -> None:
        """Write bytes, shape (N,), uint8; the box grows if it must."""
        length = len(content)
        if length > len(self._memory):
            os.ftruncate(self.descriptor, max(length, 2 * len(self._memory)))
            self._map()
        self._memory[:length] = content

    def read(self, length: int) -> Tensor:
        """The first bytes, shape (N,), uint8, not copied."""
        if length > len(self._memory):
            self._map()
        return self._memory[:length]

    def _map(self) -> None:
        size = os.fstat(self.descriptor).st_size
        self._memory = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)


def connected(store: Store, rank: int, size: int) -> SharedMemory | None:
    """The shared memory of all processes; None in all of them where it cannot be had.

    Args:
        store: What all have in common.
        rank: Of this process.
        size: P.

    Raises:
        RuntimeError: If not all of them come.
    """
    store = PrefixStore("shared memory", store)
    memory = _made(rank, size)
    store.set(f"made/{rank}", json.dumps(memory and memory.description()))
    descriptions = [json.loads(store.get(f"made/{each}")) for each in range(size)]
    reached = memory is not None and _reaches_all(memory, rank, descriptions)
    store.set(f"reached/{rank}", json.dumps(reached))
    if not all(json.loads(store.get(f"reached/{each}")) for each in range(size)):
        if memory is not None:
            memory.close()
        return None
    assert memory is not None
    memory.all_have_come()
    return memory


def _made(rank: int, size: int) -> SharedMemory | None:
    if os.environ.get(_SWITCH) == "0" or not hasattr(os, "memfd_create"):
        return None
    try:
        return SharedMemory(rank, size)
    except OSError:
        return None


def _reaches_all(
    memory: SharedMemory, rank: int, descriptions: list[dict[str, Any] | None]
) -> bool:
    try:
        for other, description in enumerate(descriptions):
            if description is None:
                return False
            if other != rank:
                memory.reach(other, description)
    except OSError:
        return False
    return True


def _place(process: int, descriptor: int | str) -> str:
    """Where Linux shows what a process holds."""
    return f"/proc/{process}/fd/{descriptor}"
