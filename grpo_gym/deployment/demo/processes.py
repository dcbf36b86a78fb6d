"""The processes of the demonstration: started, awaited, and surely ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import IO

from grpo_gym.deployment.demo.errors import DemoError

_START_S = 120.0
"""Longest time until a process listens; compiling takes most of it, once."""
_STOP_S = 5.0
_LAST_LINES = 5


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Process(AbstractContextManager["Process"]):
    """A program that listens at a port. It ends with the `with` statement, however that ends."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. It has a process group of its own, so Ctrl-C reaches us alone."""
        self._command = command
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    async def listens(self, port: int) -> None:
        """Wait until it accepts connections.

        Raises:
            DemoError: If it ends before, or takes too long.
        """
        deadline_s = asyncio.get_running_loop().time() + _START_S
        while asyncio.get_running_loop().time() < deadline_s:
            if self._process.poll() is not None:
                raise DemoError(f"{self._name} ended at once: {self._last_words()}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
        raise DemoError(f"{self._name} did not listen within {_START_S:g} s")

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it gently, or else surely, with what it has started itself."""
        if self.is_running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return " ".join(self._command[:4])

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-_LAST_LINES:]) or "it said nothing"
