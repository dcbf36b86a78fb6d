"""Where processes find each other: a store that all of them reach."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from grpo_gym.trainers.processes.errors import ProcessError

_THIS_MACHINE = "127.0.0.1"
_LOOPBACKS = ("lo", "lo0")
"""Names of the interface that leads to no network, on Linux and macOS."""
_JOINING = timedelta(minutes=5)
"""How long the last process may take to come."""


def meet() -> tuple[dist.Store, int, int]:
    """The store, rank and size that the variables of torchrun describe.

    Raises:
        ProcessError: If process 0 does not come.
    """
    with meeting():
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
    with meeting():
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
def meeting() -> Iterator[None]:
    """Turn torch's errors about processes that do not come into one of ours."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"the processes of this training could not find each other: {error}"
        ) from error
