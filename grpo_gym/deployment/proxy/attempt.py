"""A request at one endpoint, which the core hears the end of exactly once."""

import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol, Self

from grpo_gym.deployment.routing import Endpoint, Pick
from grpo_gym.deployment.routing.records import Failure


class Core(Protocol):
    """What the proxy asks of a `RoutingCore`."""

    def pick(self, *, exclude: Collection[str] = (), probe: bool = True) -> Pick:
        """Choose an endpoint."""

    def finish(
        self,
        token: int,
        ok: bool,
        latency_ms: float | None = None,
        *,
        failure: Failure | None = None,
    ) -> bool:
        """The endpoint has answered, or failed."""

    def cancel(self, token: int, waited_ms: float | None = None) -> bool:
        """The client went away, after it waited in vain for so long."""

    def set_health(self, name: str, healthy: bool) -> None:
        """A health check has changed its mind."""

    @property
    def endpoints(self) -> Collection[Endpoint]:
        """The endpoints now."""


class Attempt:
    """A request at an endpoint; it is cancelled at the end of a `with` unless it was finished.

    Attributes:
        endpoint: The endpoint's name.
        is_answered: Whether the endpoint has begun to answer.
    """

    def __init__(
        self, core: Core, pick: Pick, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.endpoint = pick.endpoints[0]
        self.is_answered = False
        self._core = core
        self._token: int | None = pick.token
        self._clock = clock
        self._started_s = clock()
        self._waits = 0
        self._waiting_since_s = self._waited_s = 0.0

    def client_waits(self, begins: bool) -> None:
        """Stop the clock while it is the client that is waited for.

        Otherwise slow clients would make endpoints look slow.

        Args:
            begins: Whether a wait begins or ends.
        """
        if begins:
            self._waits += 1
            if self._waits == 1:
                self._waiting_since_s = self._clock()
        else:
            self._waits -= 1
            if self._waits == 0:
                self._waited_s += self._clock() - self._waiting_since_s

    def elapsed_ms(self) -> float:
        """Time since the pick, without that for which the client was waited for."""
        now_s = self._clock() if self._waits == 0 else self._waiting_since_s
        return (now_s - self._started_s - self._waited_s) * 1_000.0

    def finish(
        self, ok: bool, latency_ms: float | None = None, failure: Failure | None = None
    ) -> None:
        """Report the endpoint's answer, unless its end is known already.

        Args:
            ok: Whether it answered, with a status below 500.
            latency_ms: How long it took; None: until now.
            failure: How it failed, if it did not answer.
        """
        if (token := self._take_token()) is not None:
            latency_ms = self.elapsed_ms() if latency_ms is None else latency_ms
            self._core.finish(token, ok, latency_ms, failure=failure)

    def cancel(self) -> None:
        """Report that the client went away, unless the end is known already."""
        if (token := self._take_token()) is not None:
            # How long an answer goes on may be the client's wish, as with events.
            self._core.cancel(token, None if self.is_answered else self.elapsed_ms())

    def _take_token(self) -> int | None:
        token, self._token = self._token, None
        return token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
