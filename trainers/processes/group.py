"""Processes that work together, whatever carries what they bring to each other.

Shapes: S shards, M of them this process's own, P processes.
"""

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.distributed import PrefixStore, Store

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.processes import shared_memory
from grpo_gym.trainers.processes.collective import Collective, have_own_gpus
from grpo_gym.trainers.processes.errors import ProcessError
from grpo_gym.trainers.processes.exchange import Check, Exchange
from grpo_gym.trainers.processes.interface import Processes, deal
from grpo_gym.trainers.processes.meeting import meeting
from grpo_gym.trainers.processes.packing import in_order, pack, unpack
from grpo_gym.trainers.processes.watch import Watch


class ProcessGroup(Processes):
    """P processes; this one is `rank`.

    Attributes:
        exit_status: Of this process after it has lost the others.
    """

    def __init__(self, store: Store, rank: int, size: int, *, speaks: bool) -> None:
        """Connect with the others.

        Args:
            store: What all have in common.
            rank: Of this process.
            size: P.
            speaks: Whether to report errors when process 0 no longer can.

        Raises:
            ProcessError: If not all of them come.
        """
        self._store, self._rank, self._size = store, rank, size
        self._speaks = speaks
        self._watch: Watch | None = None
        self._failed: BaseException | None = None
        self._meetings = 0
        self.exit_status = 1
        with meeting():
            self._exchange = _connected(store, rank, size)
        atexit.register(self._end)

    @property
    def rank(self) -> int:
        """See `Processes`."""
        return self._rank

    @property
    def size(self) -> int:
        """See `Processes`."""
        return self._size

    @property
    def has_failed(self) -> bool:
        """Whether it failed, lost another process, or noticed the failure of one."""
        return self._failed is not None

    @property
    def reports(self) -> bool:
        """See `Processes`."""
        return self._rank == 0 or (self._watch is not None and self._watch.reports)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Processes`."""
        if self._watch is not None:
            yield
            return
        if self._failed is not None:
            raise ProcessError(f"the processes have been lost before: {self._failed}")
        self._meetings += 1
        store = PrefixStore(f"meeting/{self._meetings}", self._store.clone())  # type: ignore[attr-defined]
        first_here = os.environ.get("LOCAL_RANK", "0") == "0"
        self._watch = Watch(
            store, self._rank, self._size, speaks=self._speaks, first_here=first_here
        )
        try:
            self.agree(0)  # all have told of themselves
            self._watch.start()
            yield
            self.agree(0)
        except BaseException as error:
            self._failed = error
            self._watch.say(error)
            raise
        finally:
            self._watch.stop()
            if self._failed is None:
                self._watch = None

    def close(self) -> None:
        """Leave the others for good; after a failure only the end of this process does."""
        if self._failed is None:
            atexit.unregister(self._end)
            self._exchange.close()

    def _end(self) -> None:
        """End with the interpreter, which would wait for exchanges that nobody will complete."""
        self.close()
        if self._failed is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(self.exit_status)

    def mine(self, shards: int) -> range:
        """See `Processes`."""
        return deal(shards, self._size, self._rank)

    def gather(self, parts: Tensor, shards: int) -> Tensor:
        """See `Processes`."""
        most = -(-shards // self._size)
        padded = parts
        if len(parts) < most:
            padded = parts.new_zeros(most, *parts.shape[1:])
            padded[: len(parts)] = parts
        gathered = self._gathered(padded)
        lengths = [len(deal(shards, self._size, rank)) for rank in range(self._size)]
        return torch.cat([part[:n] for part, n in zip(gathered, lengths, strict=True)])

    def gather_rollout(self, rollout: GroupedRollout) -> GroupedRollout:
        """See `Processes`."""
        return in_order([unpack(part) for part in self._gathered_bytes(pack(rollout))])

    def agree(self, number: int) -> int:
        """See `Processes`."""
        return max(int(each) for each in self._gathered(torch.tensor(number)))

    def share(self, message: Any) -> Any:
        """See `Processes`."""
        written = pickle.dumps(message if self._rank == 0 else None)
        first, *_ = self._gathered_bytes(torch.frombuffer(bytearray(written), dtype=torch.uint8))
        return pickle.loads(first.numpy().tobytes())

    def check_same(self, tensors: dict[str, Tensor], when: str) -> None:
        """See `Processes`."""
        digest = 0
        for name, tensor in tensors.items():
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest = crc32(numbers.data, crc32(name.encode(), digest))
        digests = [int(each) for each in self._gathered(torch.tensor(digest))]
        others = [rank for rank, each in enumerate(digests) if each != digests[0]]
        if others:
            raise ProcessError(
                f"processes 0 and {others[0]} must have the same weights {when}: give all the same "
                "settings and seed, the same versions of torch and NumPy, and processors of one "
                "kind"
            )

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        """Equal parts of all processes, in order."""
        return self._received(self._exchange.gather, mine)

    def _gathered_bytes(self, mine: Tensor) -> list[Tensor]:
        """Each process's bytes, shape (N,), uint8, with another N for each."""
        return self._received(self._exchange.gather_unequal, mine)

    def _received(
        self, gather: Callable[[Tensor, Check], list[Tensor]], mine: Tensor
    ) -> list[Tensor]:
        """Wait for an exchange, for as long as no process is lost."""
        try:
            return gather(mine, self._check)
        except (RuntimeError, BrokenPipeError) as error:
            if self._watch is None or error is self._watch.error:
                raise
            raise self._watch.explain(error) from error

    def _check(self) -> None:
        if self._watch is not None:
            self._watch.check()


def _connected(store: Store, rank: int, size: int) -> Exchange:
    """The fastest exchange that all processes have."""
    uses_nccl = have_own_gpus()
    if not uses_nccl and (memory := shared_memory.connected(store, rank, size)) is not None:
        return memory
    return Collective(store, rank, size, uses_nccl=uses_nccl)
