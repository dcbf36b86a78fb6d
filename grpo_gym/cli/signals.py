"""Ctrl-C, SIGTERM and SIGHUP: when a command stops, and with which exit status."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The terminal is gone; Windows has no such signal."""
_STOPPING = b"\nstopping after this iteration; once more to stop at once\n"


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__("stopped")
        self.number = number


class StopSignals:
    """Turns Ctrl-C, SIGTERM and SIGHUP into `Stopped`: at once, or only noted within `deferred`.

    Attributes:
        number: The first signal that came, or None.
    """

    def __init__(self, quiet: bool = False) -> None:
        """Say what the first signal leads to, unless `quiet`."""
        self.number: int | None = None
        self._quiet = quiet
        self._deferred = False

    @contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Handle the signals, and restore the previous handlers afterwards.

        After `nohup`, SIGHUP stays ignored.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            numbers.append(_HANGUP)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal; the code inside checks `number` and stops by itself."""
        with self._set_deferred(True):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `deferred`: code that may be interrupted at any point.

        Raises:
            Stopped: If a signal comes, or came before.
        """
        with self._set_deferred(False):
            if self.number is not None:
                raise Stopped(self.number)
            yield

    @contextmanager
    def _set_deferred(self, deferred: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, deferred
        try:
            yield
        finally:
            self._deferred = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if self._deferred:
                if not self._quiet:
                    # Not print, which the signal may have interrupted.
                    with contextlib.suppress(OSError):
                        os.write(2, _STOPPING)
                return
        elif number == _HANGUP:
            return  # shells and terminals send it several times, and nobody is impatient
        raise Stopped(number)
