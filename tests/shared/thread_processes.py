"""Processes of a training as threads of this one: the same exchanges without torch.distributed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.processes import deal
from grpo_gym.trainers.processes.packing import in_order, pack, unpack


@dataclass
class Room:
    """Where threads exchange what they bring."""

    size: int
    brought: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.brought = [None] * self.size
        self.barrier = threading.Barrier(self.size, timeout=60)

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        """What all of them bring, in order."""
        self.brought[rank] = mine
        self.barrier.wait()
        all_of_them = list(self.brought)
        self.barrier.wait()
        return all_of_them


@dataclass
class ThreadProcesses:
    """One thread as a process; see `Processes`."""

    rank: int
    room: Room
    reports: bool = True

    @property
    def size(self) -> int:
        return self.room.size

    @contextmanager
    def together(self) -> Iterator[None]:
        yield

    def mine(self, shards: int) -> range:
        return deal(shards, self.size, self.rank)

    def gather(self, parts: Tensor, shards: int) -> Tensor:
        gathered = torch.cat(self.room.exchange(self.rank, parts))
        assert len(gathered) == shards
        return gathered

    def gather_rollout(self, rollout: GroupedRollout) -> GroupedRollout:
        return in_order([unpack(part) for part in self.room.exchange(self.rank, pack(rollout))])

    def agree(self, number: int) -> int:
        return int(max(self.room.exchange(self.rank, number)))

    def share(self, message: Any) -> Any:
        return self.room.exchange(self.rank, message)[0]

    def check_same(self, tensors: dict[str, Tensor], when: str) -> None:
        first, *others = self.room.exchange(self.rank, tensors)
        for other in others:
            assert all(torch.equal(first[name], other[name]) for name in first), when


def in_threads(size: int, work: Callable[[ThreadProcesses], Any]) -> Sequence[Any]:
    """Do the same work in so many threads that exchange; returns all results, in order."""
    room = Room(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadProcesses(rank, room))
        except BaseException as error:
            errors.append(error)
            room.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
