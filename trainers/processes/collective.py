"""Exchanges by torch.distributed: gloo, and NCCL for tensors on GPUs of their own.

Everything is an all-gather: its result has a fixed order, where a reduction's rounding would depend
on the number of processes.

Shapes: P processes.
"""

import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grpo_gym.trainers.processes.exchange import Check, Exchange
from grpo_gym.trainers.processes.watch import LOOK_SECONDS

_UNLIMITED = timedelta(days=365)
"""An exchange waits for the slowest process; the watch notices those that will never come."""
_POLL_SECONDS = 1e-4


class Collective(Exchange):
    """Processes of any machines."""

    def __init__(self, store: dist.Store, rank: int, size: int, *, uses_nccl: bool) -> None:
        """Connect with the others.

        Args:
            store: What all have in common.
            rank: Of this process.
            size: P.
            uses_nccl: Whether every process has a GPU of its own.

        Raises:
            RuntimeError: If not all of them come.
        """
        self._size, self._uses_nccl = size, uses_nccl
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if uses_nccl else "gloo",
            store=dist.PrefixStore("exchange", store),
            rank=rank,
            world_size=size,
            timeout=_UNLIMITED,
        )

    def gather(self, mine: Tensor, check: Check) -> list[Tensor]:
        """See `Exchange`."""
        device = mine.device
        if device.type != "cpu" and not self._uses_nccl:
            mine = mine.cpu()
        gathered = mine.new_empty(self._size, *mine.shape)
        work = dist.all_gather(list(gathered.unbind()), mine.contiguous(), async_op=True)
        wait = _wait_for_gloo if mine.device.type == "cpu" else _wait_for_nccl
        while not wait(work):
            check()
        return list(gathered.to(device).unbind())

    def gather_unequal(self, mine: Tensor, check: Check) -> list[Tensor]:
        """See `Exchange`."""
        lengths = [int(length) for length in self.gather(torch.tensor(len(mine)), check)]
        padded = mine.new_empty(max(lengths))
        padded[: len(mine)] = mine
        gathered = self.gather(padded, check)
        return [part[:length] for part, length in zip(gathered, lengths, strict=True)]

    def close(self) -> None:
        """See `Exchange`."""
        dist.destroy_process_group()


def have_own_gpus() -> bool:
    """Whether every process of this machine has a GPU of its own; then makes it the current one."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # of torchrun
    if not 0 < here <= torch.cuda.device_count():
        return False
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return True


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
