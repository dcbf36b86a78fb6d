"""Processes that torch.distributed connects: gloo, and NCCL for tensors on GPUs of their own.

Everything is an all-gather: its result has a fixed order, where a reduction's rounding would depend
on the number of processes.

Shapes: S shards, M of them this process's own, P processes.
"""

import atexit
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.processes.errors import ProcessError
from grpo_gym.trainers.processes.interface import Processes, deal
from grpo_gym.trainers.processes.packing import in_order, pack, unpack
from grpo_gym.trainers.processes.watch import LOOK_SECONDS, Watch

_THIS_MACHINE = "127.0.0.1"
_LOOPBACKS = ("lo", "lo0")
"""Names of the interface that leads to no network, on Linux and macOS."""
_JOINING = timedelta(minutes=5)
"""How long the last process may take to come."""
_UNLIMITED = timedelta(days=365)
"""An exchange waits for the slowest process; the watch notices those that will never come."""
_POLL_SECONDS = 1e-4


class ProcessGroup(Processes):
    """P processes; this one is `rank`.

    Attributes:
        exit_status: Of this process after it has lost the others.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, *, speaks: bool) -> None:
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
        self._uses_nccl = _has_own_gpu()
        self._watch: Watch | None = None
        self._failed: BaseException | None = None
        self._meetings = 0
        self.exit_status = 1
        with _meeting():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self._uses_nccl else "gloo",
                store=dist.PrefixStore("exchange", store),
                rank=rank,
                world_size=size,
                timeout=_UNLIMITED,
            )
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
        store = dist.PrefixStore(f"meeting/{self._meetings}", self._store.clone())  # type: ignore[attr-defined]
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
            dist.destroy_process_group()

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
        gathered = self._all_gather(padded)
        if most * self._size == shards:
            return gathered.flatten(0, 1)
        lengths = [len(deal(shards, self._size, rank)) for rank in range(self._size)]
        return torch.cat([part[:n] for part, n in zip(gathered, lengths, strict=True)])

    def gather_rollout(self, rollout: GroupedRollout) -> GroupedRollout:
        """See `Processes`."""
        return in_order([unpack(part) for part in self._all_gather_unequal(pack(rollout))])

    def agree(self, number: int) -> int:
        """See `Processes`."""
        return int(self._all_gather(torch.tensor(number)).max())

    def share(self, message: Any) -> Any:
        """See `Processes`."""
        written = pickle.dumps(message) if self._rank == 0 else b""
        sent = torch.frombuffer(bytearray(written), dtype=torch.uint8) if written else None
        parts = self._all_gather_unequal(
            torch.empty(0, dtype=torch.uint8) if sent is None else sent
        )
        return pickle.loads(parts[0].numpy().tobytes())

    def check_same(self, tensors: dict[str, Tensor], when: str) -> None:
        """See `Processes`."""
        digest = 0
        for name, tensor in tensors.items():
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest = crc32(numbers.data, crc32(name.encode(), digest))
        digests = self._all_gather(torch.tensor(digest)).tolist()
        others = [rank for rank, each in enumerate(digests) if each != digests[0]]
        if others:
            raise ProcessError(
                f"processes 0 and {others[0]} must have the same weights {when}: give all the same "
                "settings and seed, the same versions of torch and NumPy, and processors of one "
                "kind"
            )

    def _all_gather_unequal(self, mine: Tensor) -> list[Tensor]:
        """Each process's bytes, shape (N,), uint8, with another N for each."""
        lengths = self._all_gather(torch.tensor(len(mine))).tolist()
        padded = mine.new_empty(max(lengths))
        padded[: len(mine)] = mine
        gathered = self._all_gather(padded)
        return [part[:length] for part, length in zip(gathered, lengths, strict=True)]

    def _all_gather(self, mine: Tensor) -> Tensor:
        """Equal parts of all processes, shape (P, ...), in order."""
        device = mine.device
        if device.type != "cpu" and not self._uses_nccl:
            mine = mine.cpu()
        gathered = mine.new_empty(self._size, *mine.shape)
        try:
            work = dist.all_gather(list(gathered.unbind()), mine.contiguous(), async_op=True)
            self._wait_for(work, _wait_for_gloo if mine.device.type == "cpu" else _wait_for_nccl)
        except RuntimeError as error:
            if self._watch is None or error is self._watch.error:
                raise
            raise self._watch.explain(error) from error
        return gathered.to(device)

    def _wait_for(self, work: Any, wait: Callable[[Any], bool]) -> None:
        """Wait for an exchange, for as long as no process is lost."""
        while not wait(work):
            if self._watch is not None:
                self._watch.check()


def _wait_for_gloo(work: Any) -> bool:
    """Wait for an exchange as long as one may without a look at the others; whether it is over."""
    try:
        work.wait(timedelta(seconds=LOOK_SECONDS))
    except RuntimeError:
        if work.is_completed():
            raise
        return False
    return True


def _wait_for_nccl(work: Any) -> bool:
    """The same: NCCL gives up an exchange whose time is over, so it is not told any."""
    end = time.monotonic() + LOOK_SECONDS
    while not work.is_completed():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    work.wait()
    return True


def meet() -> tuple[dist.Store, int, int]:
    """The store, rank and size that the variables of torchrun describe.

    Raises:
        ProcessError: If process 0 does not come.
    """
    with _meeting():
        store, rank, size = next(dist.rendezvous("env://", timeout=_JOINING))
    return store, rank, size


def local_store(size: int, port: int = 0) -> dist.TCPStore:
    """A store for processes of this machine: that of process 0, at a free port, or of another one.

    Nothing listens to a network then, neither the store nor gloo, which would else use the address
    that the machine's name stands for.

    Raises:
        ProcessError: If process 0 cannot be reached.
    """
    for _, name in socket.if_nameindex():
        if name in _LOOPBACKS:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    with _meeting():
        if port:
            return dist.TCPStore(_THIS_MACHINE, port, size, False, _JOINING)
        # A store that opens its own socket listens to every network.
        listener = socket.create_server((_THIS_MACHINE, 0))
        port = listener.getsockname()[1]
        return dist.TCPStore(
            _THIS_MACHINE,
            port,
            size,
            is_master=True,
            timeout=_JOINING,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"the processes of this training could not find each other: {error}"
        ) from error


def _has_own_gpu() -> bool:
    """Whether every process of this machine has a GPU of its own; then makes it the current one."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # of torchrun
    if not 0 < here <= torch.cuda.device_count():
        return False
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return True
