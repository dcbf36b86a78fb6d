"""Calls that may hang: in a thread of their own, with a deadline."""

import contextvars
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any


class DeadlineError(Exception):
    """A call that has not returned in time."""


class DeadlineCall:
    """A function that is waited for no longer than a deadline.

    All calls run in one thread. While one hangs there is no other, so that hanging again and again
    costs one thread; what it returns in the end is dropped.
    """

    def __init__(self, function: Callable[[Any], Any], deadline_ms: float) -> None:
        """Choose a function and the deadline of each call, in milliseconds."""
        self._function = function
        self._deadline_ms = deadline_ms
        self._thread: threading.Thread | None = None
        self._requests: queue.SimpleQueue[_Request | None]
        self._current: _Request | None = None

    def __call__(self, argument: Any) -> Any:
        """What the function returns; for one caller at a time.

        Raises:
            DeadlineError: If it does not return in time, or has not returned from an earlier call.
            BaseException: What the function raises.
        """
        if self._thread is None or not self._thread.is_alive():  # at first, and after a fork
            self._start()
        elif self._current is not None and self._current.answer.empty():
            busy_s = time.monotonic() - self._current.begun_s
            raise DeadlineError(f"busy with an earlier observation, for {busy_s:.1f} s")
        request = self._current = _Request(self._function, argument)
        self._requests.put(request)
        try:
            result, error = request.answer.get(timeout=self._deadline_ms / 1000.0)
        except queue.Empty:
            raise DeadlineError(f"no action within {self._deadline_ms:g} ms") from None
        self._current = None
        if error is not None:
            raise error
        return result

    def _start(self) -> None:
        self._current = None
        self._requests = queue.SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._requests,), daemon=True)
        self._thread.start()
        # The thread ends with this object, which it does not keep alive.
        weakref.finalize(self, self._requests.put, None)


class _Request:
    """One call, and the place for its answer: a result, or an error."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self.function = function
        self.argument = argument
        self.context = contextvars.copy_context()
        self.begun_s = time.monotonic()
        self.answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()


def _serve(requests: "queue.SimpleQueue[_Request | None]") -> None:
    while (request := requests.get()) is not None:
        answer: tuple[Any, BaseException | None]
        try:
            answer = request.context.run(request.function, request.argument), None
        except BaseException as error:  # raised where the answer is awaited
            answer = None, error
        request.answer.put(answer)
        del request, answer
