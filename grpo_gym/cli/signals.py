"""Ctrl-C and SIGTERM: when a command stops, and with which exit status."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop.

    Attributes:
        number: The signal that said so.
    """

    def __init__(self, number: int) -> None:
        """Stop because of a signal."""
        super().__init__("stopped")
        self.number = number


class StopSignals:
    """Turns Ctrl-C and SIGTERM into `Stopped`: at once, or at the next chance within `deferred`.

    Attributes:
        number: The first signal that came, or None.
    """

    def __init__(self) -> None:
        """Nobody asked yet."""
        self.number: int | None = None
        self._deferred = False

    @contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Listen to the signals, and leave them afterwards as they were."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal: the work in here wants to reach a good end itself."""
        with self._set(True):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `deferred`: work that may be given up at any moment.

        Raises:
            Stopped: If a signal comes, or came before.
        """
        with self._set(False):
            if self.number is not None:
                raise Stopped(self.number)
            yield

    @contextmanager
    def _set(self, deferred: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, deferred
        try:
            yield
        finally:
            self._deferred = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.number is None
        self.number = number if self.number is None else self.number
        if first and self._deferred:
            # Not print: it may be what was interrupted.
            os.write(2, b"\nstopping after this iteration; once more to stop at once\n")
            return
        raise Stopped(number)
