"""Exchanges between processes of one machine, through memory that they share.

Each process owns two buffers, which it uses alternately, and has a pipe to every other process. In
an exchange, a process writes its data to its buffer, and the length of the data to the pipes. Then
it waits for the lengths in the pipes of the others, and reads the data from their buffers. A
process reaches the exchange after the next only when all others have begun the next one, and so
have read what it overwrites then.

The kernel orders memory: data written before a `write` to a pipe is visible after the matching
`read`, on every processor. A process that waits can sleep until there is something to read, and
learns that the other end is gone. Buffers and pipes have no names in any folder and end with their
processes, however these end. The size of /dev/shm does not limit the buffers.

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
        """Make this process's buffers and pipes.

        Raises:
            OSError: If this system has no such buffers, or refuses them.
        """
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._descriptors: list[int] = []
        self._exchanges = 0
        self._buffers: dict[int, tuple[Buffer, Buffer]] = {}
        self._sends: dict[int, int] = {}
        self._receives: dict[int, tuple[int, select.poll]] = {}
        self._kept_open: dict[int, int] = {}
        try:
            self._buffers[rank] = (self._new_buffer(), self._new_buffer())
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
        process = os.getpid()
        buffers = [buffer.descriptor for buffer in self._buffers[self._rank]]
        names = [os.readlink(_place(process, buffer)) for buffer in buffers]
        return {"process": process, "buffers": buffers, "names": names, "pipes": self._kept_open}

    def reach(self, other: int, description: dict[str, Any]) -> None:
        """Open the buffers and the pipe of another process.

        Raises:
            OSError: If it is not on this machine, or cannot be reached.
        """
        process, buffers = description["process"], description["buffers"]
        # Before anything is opened: a process of another machine may have the number of one here.
        if [os.readlink(_place(process, buffer)) for buffer in buffers] != description["names"]:
            raise OSError(f"process {process} of this machine is another one")
        places = [_place(process, buffer) for buffer in buffers]
        first, second = (self._noted(os.open(place, os.O_RDWR))[0] for place in places)
        self._buffers[other] = Buffer(first), Buffer(second)
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
        self._buffers[self._rank][turn].write(mine)
        message = length.to_bytes(_LENGTH_BYTES, "little")
        for descriptor in self._sends.values():
            os.write(descriptor, message)
        lengths = {other: self._length_from(other, check) for other in self._others}
        lengths[self._rank] = length
        return [self._buffers[rank][turn].read(lengths[rank]) for rank in sorted(lengths)]

    def close(self) -> None:
        """See `Exchange`."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._buffers = [], {}

    def _length_from(self, other: int, check: Check) -> int:
        """Wait for the data of another process; returns its length in bytes."""
        descriptor, poll = self._receives[other]
        patience = time.perf_counter() + _PATIENCE_SECONDS
        while True:
            try:
                message = os.read(descriptor, _LENGTH_BYTES)
            except BlockingIOError:
                if time.perf_counter() < patience:
                    os.sched_yield()  # to those that work on the same core, if there are any
                elif not poll.poll(LOOK_SECONDS * 1e3):
                    check()
            else:
                if not message:
                    raise BrokenPipeError(f"process {other} has gone")
                return int.from_bytes(message, "little")

    def _new_buffer(self) -> "Buffer":
        name = f"grpo-gym-{secrets.token_hex(16)}"
        return Buffer(*self._noted(os.memfd_create(name)))

    def _noted(self, *descriptors: int) -> tuple[int, ...]:
        self._descriptors.extend(descriptors)
        return descriptors


class Buffer:
    """Memory that one process writes and others read.

    Attributes:
        descriptor: Of the file that it is for the system.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = torch.empty(0, dtype=torch.uint8)

    def write(self, content: Tensor) -> None:
        """Write bytes, shape (N,), uint8; the buffer grows if it must."""
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
