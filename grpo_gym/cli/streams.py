"""Standard streams that may go away: a closed pipe, a terminal that hung up, a full disk."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Work goes on when its progress can no longer be shown: standard error never fails inside.

    Neither stream fails because of a narrow encoding, or because it was closed from the start.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        out, err = (stream or nowhere for stream in before)
        for stream in (out, err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        sys.stdout, sys.stderr = out, cast(TextIO, _Lasting(err))
        try:
            yield
        finally:
            with suppress(OSError):  # reported already
                flush_output()
            sys.stdout, sys.stderr = before


def flush_output() -> None:
    """Write what is still to be written to standard output.

    Raises:
        OSError: If it is lost.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _lead_nowhere(sys.stdout)  # or the interpreter complains once more when it ends
        raise


class _Lasting:
    """A text stream whose writes do not fail: from the first that does, it leads nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._surviving():
            self._stream.flush()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # full at the moment
        except OSError:
            _lead_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lead_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
