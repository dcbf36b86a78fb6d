"""WebSockets through the proxy, with a real client and a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

pytest.importorskip("aiohttp")

import aiohttp
from aiohttp import WSMsgType, web

from grpo_gym.deployment.proxy.server import Proxy
from proxy_parts import Backend, CountingCore, RawBackend, proxy_before, quick, settled


async def _echo(request: web.BaseRequest, backend: Backend) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=("chat", "other"), max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            if message.data == "close":
                await socket.close(code=4001, message=b"as asked")
                break
            await socket.send_str(message.data.upper())
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    backend.label = f"closed with {socket.close_code}"
    return socket


Client: TypeAlias = aiohttp.ClientWebSocketResponse


@asynccontextmanager
async def _connected(
    backend: Backend | RawBackend, protocols: tuple[str, ...] = (), **settings: object
) -> AsyncIterator[tuple[Client, Proxy, CountingCore]]:
    async with (
        proxy_before(backend, config=quick(**settings)) as (proxy, core),
        aiohttp.ClientSession() as session,
        asyncio.timeout(20.0),
    ):
        url = f"http://127.0.0.1:{proxy.port}/socket?a=b"
        async with session.ws_connect(url, protocols=protocols, max_msg_size=0) as client:
            yield client, proxy, core


def test_messages_of_all_kinds_pass_both_ways() -> None:
    async def run() -> None:
        backend = Backend(_echo)
        async with _connected(backend) as (client, proxy, core):
            assert core.total_in_flight == proxy.in_flight == 1
            await client.send_str("häh?")
            assert await client.receive_str() == "HÄH?"
            await client.send_bytes(bytes(range(256)) * 1_000)
            assert await client.receive_bytes() == bytes(range(256)) * 1_000
            assert backend.seen[0].target == "/socket?a=b"
            assert backend.seen[0].values("X-Forwarded-For") == ["127.0.0.1"]
            await client.close(code=4000)
            await settled(core)
            while backend.label != "closed with 4000":
                await asyncio.sleep(0.01)
            ((_, ok, latency_ms),) = core.finished
            assert ok
            assert latency_ms > 0.0

    asyncio.run(run())


def test_subprotocols_are_the_backends_choice() -> None:
    async def run() -> None:
        async with _connected(Backend(_echo), protocols=("unknown", "other")) as (client, _, _):
            assert client.protocol == "other"

    asyncio.run(run())


def test_pings_reach_the_backend() -> None:
    async def run() -> None:
        heard: list[object] = []

        async def listen(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
            socket = web.WebSocketResponse(autoping=False)
            await socket.prepare(request)
            heard.append((await socket.receive()).type)
            await socket.pong(b"back")
            await socket.receive()
            return socket

        async with (
            proxy_before(Backend(listen)) as (proxy, _),
            aiohttp.ClientSession() as session,
            asyncio.timeout(20.0),
        ):
            url = f"http://127.0.0.1:{proxy.port}/"
            async with session.ws_connect(url, autoping=False) as client:
                await client.ping(b"there")
                message = await client.receive()
                assert message.type is WSMsgType.PONG
                assert message.data == b"back"
        assert heard == [WSMsgType.PING]

    asyncio.run(run())


def test_a_backend_closes() -> None:
    async def run() -> None:
        async with _connected(Backend(_echo)) as (client, _, core):
            await client.send_str("close")
            message = await client.receive()
            assert message.type is WSMsgType.CLOSE
            assert (message.data, message.extra) == (4001, "as asked")
            await settled(core)

    asyncio.run(run())


def test_either_side_vanishes() -> None:
    async def run() -> None:
        backend = Backend(_echo)
        async with _connected(backend) as (client, _, core):
            client._response.connection.transport.abort()  # as a client whose machine is gone
            await settled(core)
        async with _connected(backend) as (client, _, core):
            await backend.stop()
            message = await client.receive()
            assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
            await settled(core)

    asyncio.run(run())


def test_a_message_that_is_too_large() -> None:
    async def run() -> None:
        async with _connected(Backend(_echo), max_message_bytes=1_000) as (client, _, core):
            await client.send_bytes(bytes(1_001))
            message = await client.receive()
            assert message.type is WSMsgType.CLOSE
            assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            await settled(core)

    asyncio.run(run())


def test_a_long_silence_ends_it() -> None:
    async def run() -> None:
        async with _connected(Backend(_echo), websocket_timeout_s=0.3) as (client, _, core):
            await client.send_str("a")
            assert await client.receive_str() == "A"
            message = await client.receive()
            assert message.data == aiohttp.WSCloseCode.GOING_AWAY
            await settled(core)

    asyncio.run(run())


def test_a_drain_ends_it_after_the_grace_period() -> None:
    async def run() -> None:
        async with _connected(Backend(_echo), grace_s=0.3) as (client, proxy, core):
            draining = asyncio.create_task(proxy.drain())
            await asyncio.sleep(0.1)
            await client.send_str("still there?")
            assert await client.receive_str() == "STILL THERE?"
            message = await client.receive()
            assert message.data == aiohttp.WSCloseCode.GOING_AWAY
            assert await draining == 0
            assert core.total_in_flight == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "status", "ok"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502, True),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, False),
        (b"garbage", 502, False),
        (b"", 502, False),
    ],
)
def test_a_backend_without_websockets_is_not_blamed(answer: bytes, status: int, ok: bool) -> None:
    """Or any client could make a good backend look bad."""

    async def run() -> None:
        async with (
            proxy_before(RawBackend(answer)) as (proxy, core),
            aiohttp.ClientSession() as session,
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"http://127.0.0.1:{proxy.port}/")
            assert caught.value.status == status
            assert [each[1] for each in core.finished] == [ok]
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_a_handshake_is_tried_at_another_backend() -> None:
    async def run() -> None:
        async with (
            proxy_before(RawBackend(b""), Backend(_echo)) as (proxy, core),
            aiohttp.ClientSession() as session,
        ):
            async with session.ws_connect(f"http://127.0.0.1:{proxy.port}/") as client:
                await client.send_str("a")
                assert await client.receive_str() == "A"
            await settled(core)
            assert [ok for _, ok, _ in core.finished] == [False, True]

    asyncio.run(run())
