"""A request from a client to a backend, and the response back."""

import asyncio
import math
import secrets
import socket
import struct
import sys
from collections.abc import Awaitable, Collection

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from grpo_gym.deployment.proxy.attempt import Attempt, Core
from grpo_gym.deployment.proxy.backend import BackendError, send
from grpo_gym.deployment.proxy.body import RequestBody
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.headers import request_headers, response_headers
from grpo_gym.deployment.proxy.refusals import RefusedError
from grpo_gym.deployment.proxy.requests import check_request
from grpo_gym.deployment.proxy.websocket import asks_for_websocket, relay_websocket
from grpo_gym.deployment.routing import NoEndpointError
from grpo_gym.deployment.routing.records import Failure

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that may be repeated. Source: RFC 9110, 9.2.2."""
_PROBELESS_S = 5.0
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""Of the option SO_LINGER: what is closed is reset, and does not look like an orderly end."""


class Exchanges:
    """Handles requests.

    Attributes:
        draining: Whether responses end their connections.
        closing: Set when WebSockets are to be closed.
        in_flight: Requests that are being handled.
    """

    def __init__(self, core: Core, session: aiohttp.ClientSession, config: ProxyConfig) -> None:
        self.draining = False
        self.closing = asyncio.Event()
        self.in_flight = 0
        self._core = core
        self._session = session
        self._config = config
        self._repeatable_s = -math.inf
        self._pseudonym = f"grpo-gym-{secrets.token_hex(4)}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        self.in_flight += 1
        try:
            return await self._answer(request)
        except RefusedError as refusal:
            return self._ending(refusal.response())
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        check_request(request, self._config)
        if asks_for_websocket(request):
            return await self._upgrade(request)
        body = RequestBody(request, self._config)
        await body.keep_if_small()
        tried: list[str] = []
        attempt = self._pick(probe=self._may_probe(request, body))
        while True:
            with attempt:
                tried.append(attempt.endpoint)
                outcome = await self._ask(request, body, attempt)
                following = None
                if len(tried) <= self._config.retries and self._may_repeat(request, body, outcome):
                    attempt.finish(ok=False, failure=_failure(outcome))
                    following = self._pick_another(tried)
                if following is None:
                    return await self._relay(request, body, outcome, attempt)
            if isinstance(outcome, aiohttp.ClientResponse):
                outcome.close()
            attempt = following

    def _may_probe(self, request: web.BaseRequest, body: RequestBody) -> bool:
        """Whether a request may go to an endpoint that was ejected: best one that can be repeated.

        Others only while there are none of those, or nothing would ever bring the endpoint back.
        """
        now_s = asyncio.get_running_loop().time()
        if self._config.retries and body.is_kept and request.method in _IDEMPOTENT:
            self._repeatable_s = now_s
            return True
        return now_s - self._repeatable_s > _PROBELESS_S

    def _pick(self, probe: bool) -> Attempt:
        try:
            return Attempt(self._core, self._core.pick(probe=probe))
        except NoEndpointError as error:
            if error.saturated:
                raise RefusedError(
                    429, "all backends have as many requests as they may", 1
                ) from None
            raise RefusedError(503, "no backend is ready", 1) from None

    def _pick_another(self, tried: Collection[str]) -> Attempt | None:
        try:
            return Attempt(self._core, self._core.pick(exclude=tried, probe=False))
        except NoEndpointError:
            return None

    async def _ask(
        self, request: web.BaseRequest, body: RequestBody, attempt: Attempt
    ) -> aiohttp.ClientResponse | BackendError:
        timeout_s = self._config.response_timeout_s
        try:
            url = self._url(request, attempt.endpoint)
            headers = self._headers(request, url)
            response = await send(
                self._session, request.method, url, headers, body, timeout_s, attempt.client_waits
            )
            attempt.is_answered = True
            return response
        except BackendError as error:
            return error

    def _may_repeat(
        self,
        request: web.BaseRequest,
        body: RequestBody,
        outcome: aiohttp.ClientResponse | BackendError,
    ) -> bool:
        if body.streamed:
            return False
        if isinstance(outcome, BackendError):
            return not outcome.sent or request.method in _IDEMPOTENT
        is_wanted = outcome.status in self._config.retry_statuses
        return is_wanted and request.method in _IDEMPOTENT

    async def _relay(
        self,
        request: web.BaseRequest,
        body: RequestBody,
        outcome: aiohttp.ClientResponse | BackendError,
        attempt: Attempt,
    ) -> web.StreamResponse:
        if isinstance(outcome, BackendError):
            attempt.finish(ok=False, failure=outcome.failure)
            raise RefusedError(outcome.status, f"the backend failed: {outcome}")
        try:
            return await self._stream(request, body, outcome, attempt)
        finally:
            outcome.close()

    async def _stream(
        self,
        request: web.BaseRequest,
        body: RequestBody,
        response: aiohttp.ClientResponse,
        attempt: Attempt,
    ) -> web.StreamResponse:
        """Pass a response on as it comes.

        Raises:
            ConnectionError: If either side broke off; the client sees that the body is not whole.
        """
        headers = response_headers(response.headers)
        answer = _PassedOn(status=response.status, reason=response.reason, headers=headers)
        await self._ending(answer).prepare(request)
        content = response.content
        chunk = b"" if content.exception() else content.read_nowait()
        if not chunk and not content.at_eof():
            request.writer.send_headers()  # otherwise they leave with what came along
        try:
            while not content.at_eof():
                if chunk:
                    attempt.client_waits(True)
                    await self._write(request, answer.write(chunk))
                    attempt.client_waits(False)
                chunk = await self._next_chunk(content)
        except BackendError as error:
            if body.failure is None:
                attempt.finish(ok=False, failure=error.failure)
            raise _broken_off(request) from error
        attempt.finish(ok=response.status < 500)
        await self._write(request, answer.write_eof(chunk))
        return answer

    async def _next_chunk(self, content: aiohttp.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                return await content.readany()
        except TimeoutError as error:
            raise BackendError(504, "the response paused for too long", sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendError(502, "the response broke off", sent=True) from error

    async def _write(self, request: web.BaseRequest, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                await writing
        except TimeoutError as error:
            raise _broken_off(request) from error

    async def _upgrade(self, request: web.BaseRequest) -> web.StreamResponse:
        tried: list[str] = []
        attempt = self._pick(probe=False)
        while True:
            with attempt:
                tried.append(attempt.endpoint)
                try:
                    url = self._url(request, attempt.endpoint)
                    headers = self._headers(request, url)
                    return await relay_websocket(
                        request, self._session, url, headers, attempt, self.closing, self._config
                    )
                except BackendError as error:
                    attempt.finish(ok=False, failure=error.failure)
                    may_repeat = len(tried) <= self._config.retries
                    following = self._pick_another(tried) if may_repeat else None
                    if following is None:
                        raise RefusedError(error.status, f"no WebSocket: {error}") from None
            attempt = following

    def _url(self, request: web.BaseRequest, name: str) -> URL:
        """Where a request goes at an endpoint, its path and query as the client wrote them."""
        for endpoint in self._core.endpoints:
            if endpoint.name == name:
                return URL(endpoint.url + request.raw_path, encoded=True)
        raise BackendError(502, "it was removed just now", sent=False)

    def _headers(self, request: web.BaseRequest, url: URL) -> CIMultiDict[str]:
        host = url.authority if self._config.host_header == "backend" else None
        return request_headers(request, self._pseudonym, host, self._config.trust_forwarded)

    def _ending(self, answer: web.StreamResponse) -> web.StreamResponse:
        """An answer, after which the connection ends if the proxy is about to."""
        if self.draining:
            answer.force_close()
        return answer


def _failure(outcome: aiohttp.ClientResponse | BackendError) -> Failure | None:
    return outcome.failure if isinstance(outcome, BackendError) else None


def _broken_off(request: web.BaseRequest) -> ConnectionError:
    """Reset the client's connection: often the only way to say that the body is not whole."""
    if request.transport is not None:
        if (connection := request.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        request.transport.abort()
    return ConnectionResetError("broken off")


class _PassedOn(web.StreamResponse):
    """A response without the headers that aiohttp would add; they may wait for the first bytes."""

    _send_headers_immediately = False

    async def _prepare_headers(self) -> None:
        added = {"Content-Type", "Server"}.difference(self.headers)
        await super()._prepare_headers()
        for name in added:
            self.headers.popall(name, None)
