"""Clients that go away at any stage, or are too slow: nothing stays in flight, nobody is blamed."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from grpo_gym.deployment.proxy.server import Proxy
from proxy_parts import (
    Backend,
    CountingCore,
    RawBackend,
    exchange,
    proxy_before,
    quick,
    settled,
    status_of,
)

_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


def _run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def _gone(proxy: Proxy, core: CountingCore) -> None:
    """Nothing is in flight, and no backend is blamed."""
    await settled(core)
    async with asyncio.timeout(20.0):
        while proxy.connections or proxy.in_flight:
            await asyncio.sleep(0.01)
    assert all(ok for _, ok, _ in core.finished)
    assert core.unknown_tokens == 0


def _leave(writer: asyncio.StreamWriter, abruptly: bool) -> None:
    if abruptly:  # a reset instead of an orderly end
        socket = writer.get_extra_info("socket")
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        _POST + b"Content-Length: 10\r\n\r\nabc",
        _POST + b"Content-Length: 1000000\r\n\r\nabc",
        _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\na",
        _POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n",
        _GET,
        _GET * 5,
    ],
)
def test_before_the_response(sent: bytes, abruptly: bool) -> None:
    async def run() -> None:
        async def never(request: web.BaseRequest, _: Backend) -> web.Response:
            await asyncio.sleep(30.0)
            return web.Response()

        async with proxy_before(Backend(never)) as (proxy, core):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(sent)
            await asyncio.sleep(0.1)
            _leave(writer, abruptly)
            await _gone(proxy, core)
            assert core.finished == []

    _run(run)


@pytest.mark.parametrize(
    ("sent", "least_ms", "most_ms"),
    [
        (_GET, 490.0, 10_000.0),
        (_POST + b"Content-Length: 1000000\r\n\r\nabc", 0.0, 300.0),  # it waited for the client
    ],
)
def test_how_long_a_backend_had_not_begun_to_answer(
    sent: bytes, least_ms: float, most_ms: float
) -> None:
    async def run() -> None:
        async def never(request: web.BaseRequest, _: Backend) -> web.Response:
            await asyncio.sleep(30.0)
            return web.Response()

        async with proxy_before(Backend(never)) as (proxy, core):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(sent)
            await asyncio.sleep(0.5)
            _leave(writer, abruptly=True)
            await _gone(proxy, core)
            (waited_ms,) = core.waited_ms
            assert waited_ms is not None and least_ms <= waited_ms <= most_ms

    _run(run)


@pytest.mark.parametrize("abruptly", [False, True])
def test_in_the_response(abruptly: bool) -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def endless(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            try:
                while True:
                    await answer.write(b"a" * 1_000)
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

        async with proxy_before(Backend(endless)) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_GET)
            await reader.readexactly(10_000)
            assert core.total_in_flight == 1
            _leave(writer, abruptly)
            await _gone(proxy, core)
            assert core.waited_ms == [None]
            await asyncio.wait_for(ended.wait(), 20.0)  # the backend hears of it

    _run(run)


def test_between_the_head_and_the_body_of_a_response() -> None:
    async def run() -> None:
        backend = RawBackend(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", closes=False)
        async with proxy_before(backend) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_GET)
            await reader.readuntil(b"\r\n\r\n")
            _leave(writer, abruptly=True)
            await _gone(proxy, core)
            assert len(core.cancelled) == 1

    _run(run)


def test_after_the_response() -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_GET)
            await reader.readuntil(b"\r\n\r\n")
            _leave(writer, abruptly=True)
            await _gone(proxy, core)
            assert [ok for _, ok, _ in core.finished] == [True]
            assert core.cancelled == []

    _run(run)


def test_a_client_that_ends_its_side_counts_as_gone() -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, core):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_GET)
            writer.write_eof()
            await _gone(proxy, core)
            writer.close()

    _run(run)


def test_many_at_random() -> None:
    async def run() -> None:
        async def slowly(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
            answer = web.StreamResponse()
            await asyncio.sleep(0.02)
            await answer.prepare(request)
            for _i in range(5):
                await answer.write(b"a" * 10_000)
                await asyncio.sleep(0.01)
            return answer

        backends = Backend(slowly), Backend(slowly)
        async with proxy_before(*backends) as (proxy, core):

            async def client(i: int) -> None:
                _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(
                    _GET if i % 3 else _POST + b"Content-Length: 100000\r\n\r\n" + b"a" * i
                )
                await asyncio.sleep(0.001 * (i % 100))
                _leave(writer, abruptly=i % 2 == 0)

            await asyncio.gather(*map(client, range(200)))
            await _gone(proxy, core)
            assert len(core.cancelled) + len(core.finished) > 100

    _run(run)


def test_slow_headers() -> None:
    async def run() -> None:
        async with proxy_before(Backend(), config=quick(header_timeout_s=0.3)) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            writer.write(_GET[:-2])
            while not answer.done():  # more bytes do not help
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)
            assert status_of(answer.result()) == 408
            writer.close()
            await _gone(proxy, core)

    _run(run)


def test_the_clock_of_headers_stops_with_them() -> None:
    async def run() -> None:
        async def slowly(request: web.BaseRequest, _: Backend) -> web.Response:
            await asyncio.sleep(1.0)
            return web.Response(text="ok")

        async with proxy_before(Backend(slowly), config=quick(header_timeout_s=0.5)) as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            for _i in range(2):
                writer.write(_GET[:10])
                await asyncio.sleep(0.05)
                writer.write(_GET[10:])
                assert status_of(await reader.readuntil(b"\r\n\r\n")) == 200
                assert await reader.readexactly(2) == b"ok"
            writer.close()

    _run(run)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100", b"Content-Length: 100000", b"Transfer-Encoding: chunked"]
)
def test_slow_body(framing: bytes) -> None:
    async def run() -> None:
        config = quick(idle_timeout_s=0.3, response_timeout_s=0.2)
        async with proxy_before(Backend(), config=config) as (proxy, core):
            request = _POST + framing + b"\r\n\r\n"
            assert status_of(await exchange(proxy.port, request)) == 408
            await _gone(proxy, core)

    _run(run)


def test_a_client_that_reads_nothing() -> None:
    async def run() -> None:
        async def large(request: web.BaseRequest, _: Backend) -> web.Response:
            return web.Response(body=bytes(50_000_000))

        async with proxy_before(Backend(large), config=quick(idle_timeout_s=0.3)) as (proxy, core):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1_000)
            writer.write(_GET)
            await _gone(proxy, core)
            assert len(core.cancelled) == 1
            writer.close()

    _run(run)


def test_an_idle_connection_is_closed() -> None:
    async def run() -> None:
        async with proxy_before(Backend(), config=quick(keepalive_timeout_s=0.3)) as (proxy, _):
            assert await exchange(proxy.port, b"") == b""
            assert proxy.connections == 0
            answer = await exchange(proxy.port, _GET)
            assert status_of(answer) == 200

    _run(run)


def test_connections_are_limited() -> None:
    async def run() -> None:
        async with proxy_before(Backend(), config=quick(max_connections=3)) as (proxy, _):
            kept = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(3)]
            await asyncio.sleep(0.05)
            answer = await exchange(proxy.port, _GET)
            assert status_of(answer) == 503
            assert b"Retry-After: 1\r\n" in answer
            for _, writer in kept:
                writer.close()
            await asyncio.sleep(0.05)
            request = _GET.replace(b"Host", b"Connection: close\r\nHost")
            assert status_of(await exchange(proxy.port, request)) == 200

    _run(run)


def test_slow_clients_do_not_make_backends_look_slow() -> None:
    async def run() -> None:
        async def large(request: web.BaseRequest, _: Backend) -> web.Response:
            return web.Response(body=bytes(20_000_000))

        async with proxy_before(Backend(large)) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1_000)
            writer.write(_POST + b"Transfer-Encoding: chunked\r\n\r\n")
            await settled(core, 1)
            await asyncio.sleep(1.5)  # with the upload
            writer.write(b"0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1.5)  # with the download
            await reader.readexactly(20_000_000)
            await settled(core)
            ((_, ok, latency_ms),) = core.finished
            assert ok
            assert latency_ms < 1_500.0

    asyncio.run(run())
