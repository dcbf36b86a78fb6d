"""Connections of clients: time-outs, limits, and answers to what is no HTTP."""

import asyncio
from logging import Logger
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.refusals import RefusedError

_NO_MORE = b"Content-Length: 0\r\nConnection: close\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + _NO_MORE
_LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _NO_MORE
_LINGERING_S = 2.0
"""How long a body that nobody wants is still read, so that the client sees the answer."""
_ACCESS_LOG = '%a "%r" %s %b %Tf'
"""Client, request line, status, bytes, seconds; no headers."""


class Connection(RequestHandler):
    """A connection whose next request must have its headers in time."""

    __slots__ = ("_arriving", "_config", "_deadline", "_server")

    def __init__(self, server: "Server", config: ProxyConfig, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._config = config
        self._arriving: StreamReader | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse one connection too many."""
        super().connection_made(transport)
        if len(self._server.connections) > self._config.max_connections:
            self._end_with(_FULL)

    def data_received(self, data: bytes) -> None:
        """Start the clock with the first byte of a request; stop it after its headers."""
        super().data_received(data)
        self._tell_of_broken_body()
        is_head = self._waiter is not None and not self._messages
        if not is_head:
            self._stop_clock()
        elif self._deadline is None and data:
            late_s = self._config.header_timeout_s
            self._deadline = self._loop.call_later(late_s, self._end_with, _LATE)

    def _tell_of_broken_body(self) -> None:
        """Fail the body that is being read, if what came is no part of one; aiohttp does not."""
        if not self._messages:
            return
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._arriving = payload
        elif self._arriving is not None and not self._arriving.is_eof():
            self._arriving.set_exception(RequestPayloadError("broken"))
            self._arriving.feed_eof()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def close_if_idle(self) -> None:
        """Close it unless a request is being handled; `close` would also drop the rest of one."""
        if self._waiter is not None and not self._messages:
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and say nothing of it: the text may be a secret, or a trap.

        Raises:
            ConnectionError: If a response is on its way already.
        """
        if request.writer.output_size > 0:
            raise ConnectionResetError("broken off")
        if status != 400:
            self.logger.error("an error of the proxy", exc_info=exc)
            return RefusedError(500, "an error of the proxy").response()
        if isinstance(exc, LineTooLong):
            return RefusedError(431, "the request line, or a header, is too long").response()
        if message == "Too many headers received":
            return RefusedError(431, "there are too many headers").response()
        return RefusedError(400, "this is no HTTP request, or an ambiguous one").response()

    def _end_with(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
        self.force_close()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(web.Server):
    """Makes connections of that kind."""

    def __init__(self, handler: Any, config: ProxyConfig, access_log: Logger | None = None) -> None:
        super().__init__(
            handler,
            # Otherwise an aborted client would leave its request in flight for ever.
            handler_cancellation=True,
            keepalive_timeout=config.keepalive_timeout_s,
            max_line_size=config.max_line_bytes,
            max_field_size=config.max_line_bytes,
            max_headers=config.max_headers,
            lingering_time=_LINGERING_S,
            auto_decompress=False,
            access_log=access_log,
            access_log_format=_ACCESS_LOG,
        )
        self._config = config

    def close_idle(self) -> None:
        """Close the connections that have no request."""
        for connection in self.connections:
            connection.close_if_idle()

    def __call__(self) -> Connection:
        """A new one."""
        return Connection(self, self._config, loop=self._loop, **self._kwargs)
