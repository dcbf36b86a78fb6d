"""The body of a client's request on its way to a backend."""

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.refusals import RefusedError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """A body that is kept, so that it can be sent again, or streamed once.

    Attributes:
        streamed: Whether bytes of it were read that are not kept.
        failure: Why the client's part of it failed; None: it did not.
    """

    def __init__(self, request: web.BaseRequest, config: ProxyConfig) -> None:
        self.streamed = False
        self.failure: RefusedError | None = None
        self._request = request
        self._config = config
        self._kept: bytes | None = None if request.body_exists else b""
        expects = request.version == HttpVersion11 and "Expect" in request.headers
        self._awaits_continue = expects and request.body_exists

    @property
    def is_kept(self) -> bool:
        """Whether it can be sent again."""
        return self._kept is not None

    async def keep_if_small(self) -> None:
        """Read the body now if its length is known and small.

        Raises:
            RefusedError: If the client is too slow, or its body is broken.
        """
        length = self._request.content_length
        if self._kept is None and length is not None and length <= self._config.buffer_bytes:
            self._kept = b"".join([chunk async for chunk in self._read()])

    def data(self, waiting: Callable[[bool], None]) -> bytes | AsyncIterator[bytes] | None:
        """The body as aiohttp's client takes it.

        Args:
            waiting: Called with True before a wait for the client, and with False after it.
        """
        return self._stream(waiting) if self._kept is None else self._kept or None

    async def _stream(self, waiting: Callable[[bool], None]) -> AsyncIterator[bytes]:
        self.streamed = True
        yield b""  # sends the headers: the client may wait for what they lead to
        try:
            waiting(True)
            async for chunk in self._read():
                waiting(False)
                yield chunk
                waiting(True)
            waiting(False)
        except RefusedError as refusal:
            self.failure = refusal
            raise

    async def _read(self) -> AsyncIterator[bytes]:
        if self._awaits_continue:
            self._awaits_continue = False
            await self._request.writer.write(_CONTINUE)
            self._request.writer.output_size = 0  # of the response, nothing is sent
        size = 0
        while chunk := await self._next():
            size += len(chunk)
            if size > self._config.max_body_bytes:
                limit = self._config.max_body_bytes
                raise RefusedError(413, f"the body must have at most {limit} bytes")
            yield chunk

    async def _next(self) -> bytes:
        idle_s = self._config.idle_timeout_s
        try:
            async with asyncio.timeout(idle_s):
                return await self._request.content.readany()
        except TimeoutError:
            raise RefusedError(408, f"the body paused for {idle_s:g} s") from None
        except RequestPayloadError:
            raise RefusedError(400, "the body is not framed as HTTP says") from None
