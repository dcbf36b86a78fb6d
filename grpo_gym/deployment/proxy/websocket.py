"""WebSockets, passed on message by message: pings, pongs and close codes too.

Compression is not: both sides speak without it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiohttp
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMessage, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from grpo_gym.deployment.proxy.attempt import Attempt
from grpo_gym.deployment.proxy.backend import BackendError
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.headers import tokens
from grpo_gym.deployment.proxy.refusals import RefusedError

Socket: TypeAlias = web.WebSocketResponse | ClientWebSocketResponse
Closing = tuple[int, bytes]
"""A close code, and why."""

_CLOSE_S = 1.0
"""Longest wait for the other side's part of a closing handshake."""
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_HANDSHAKE = ("Key", "Version", "Extensions", "Protocol", "Accept")


def asks_for_websocket(request: web.BaseRequest) -> bool:
    """Whether a request is to become a WebSocket; other upgrades are ignored, as HTTP allows.

    Raises:
        RefusedError: If it asks in a way that WebSockets do not.
    """
    if "upgrade" not in tokens(request.headers, "Connection"):
        return False
    if "websocket" not in tokens(request.headers, "Upgrade"):
        return False
    if request.method != "GET" or request.body_exists:
        raise RefusedError(400, "a WebSocket must be asked for with GET, without a body")
    if request.headers.get("Sec-WebSocket-Version") != "13":
        raise RefusedError(426, "the only version of WebSockets known here is 13")
    is_key = _KEY.fullmatch(request.headers.get("Sec-WebSocket-Key", ""))
    if not is_key or not web.WebSocketResponse().can_prepare(request):
        raise RefusedError(400, "the handshake of the WebSocket must be as RFC 6455 says")
    return True


async def relay_websocket(
    request: web.BaseRequest,
    session: aiohttp.ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    attempt: Attempt,
    closing: asyncio.Event,
    config: ProxyConfig,
) -> web.StreamResponse:
    """Connect a client and a backend until either closes.

    Its latency is that of the handshake; it is in flight until it ends.

    Args:
        request: The client's request.
        session: The client of backends.
        url: The backend's URL.
        headers: The headers as the backend gets them.
        attempt: Hears of the end.
        closing: Set when it is to end.
        config: Time-outs and limits.

    Raises:
        BackendError: If the backend fails.
        RefusedError: If it refuses.
    """
    offered = _offered(request)
    try:
        backend = await _connect(session, url, headers, offered, config)
    except RefusedError:
        attempt.finish(ok=True)
        raise
    handshake_ms = attempt.elapsed_ms()
    chosen = (backend.protocol,) if backend.protocol else ()
    client = web.WebSocketResponse(
        timeout=_CLOSE_S,
        autoping=False,
        autoclose=False,
        protocols=chosen,
        compress=False,
        max_msg_size=config.max_message_bytes,
    )
    try:
        await client.prepare(request)
        code, reason = await _relay(client, backend, closing, config.websocket_timeout_s)
        await client.close(code=code, message=reason)
        await backend.close(code=code, message=reason)
    finally:
        attempt.finish(ok=True, latency_ms=handshake_ms)
        await backend.close(code=WSCloseCode.GOING_AWAY)
    return client


def _offered(request: web.BaseRequest) -> tuple[str, ...]:
    """The subprotocols that a client offers."""
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ())).split(",")
    return tuple(name for each in offered if (name := each.strip()))


async def _connect(
    session: aiohttp.ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    protocols: tuple[str, ...],
    config: ProxyConfig,
) -> ClientWebSocketResponse:
    for name in _HANDSHAKE:
        headers.popall(f"Sec-WebSocket-{name}", None)
    try:
        async with asyncio.timeout(config.response_timeout_s):
            return await session.ws_connect(
                url,
                headers=headers,
                protocols=protocols,
                autoping=False,
                autoclose=False,
                compress=0,
                max_msg_size=config.max_message_bytes,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            )
    except aiohttp.WSServerHandshakeError as error:
        if error.status >= 500:
            raise BackendError(error.status, "the backend failed", sent=True) from error
        # No fault of a backend, which any client could otherwise cause.
        status = error.status if error.status >= 400 else 502
        raise RefusedError(status, "the backend wants no WebSocket here") from error
    except TimeoutError as error:
        raise BackendError(504, "the backend did not answer in time", sent=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise BackendError(502, "no connection", sent=True) from error


async def _relay(
    client: Socket, backend: Socket, closing: asyncio.Event, timeout_s: float
) -> Closing:
    """Pass messages on both ways until one side closes, or nobody says anything for too long."""
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(timeout_s)

    def heard() -> None:
        limit.reschedule(loop.time() + timeout_s)

    async def ending() -> Closing:
        await closing.wait()
        return WSCloseCode.GOING_AWAY, b"the proxy is going away"

    try:
        async with limit, asyncio.TaskGroup() as group:
            ways = [
                group.create_task(each)
                for each in (
                    _pass_on(client, backend, heard),
                    _pass_on(backend, client, heard),
                    ending(),
                )
            ]
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            return next(iter(done)).result()
    except TimeoutError:
        return WSCloseCode.GOING_AWAY, b"nobody said anything"


async def _pass_on(source: Socket, sink: Socket, heard: Callable[[], None]) -> Closing:
    while True:
        message = await source.receive()
        heard()
        send = _sender(sink, message)
        if send is None:
            return _closing(source, message)
        try:
            await send(message.data)
        except ConnectionError:
            return WSCloseCode.GOING_AWAY, b""


def _sender(sink: Socket, message: WSMessage) -> Callable[..., Awaitable[None]] | None:
    return {
        WSMsgType.TEXT: sink.send_str,
        WSMsgType.BINARY: sink.send_bytes,
        WSMsgType.PING: sink.ping,
        WSMsgType.PONG: sink.pong,
    }.get(message.type)


def _closing(source: Socket, message: WSMessage) -> Closing:
    """The code with which the other side is closed."""
    if message.type is WSMsgType.CLOSE:
        # A close without a code is passed on as a normal one.
        code = message.data or WSCloseCode.OK
        return code, (message.extra or "").encode()
    return source.close_code or WSCloseCode.GOING_AWAY, b""
