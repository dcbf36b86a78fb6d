"""The end of a proxy: what is in flight finishes, what is on its way is answered."""

import asyncio

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from proxy_parts import Backend, exchange, proxy_before, quick, settled, status_of

_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


async def _slowly(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _i in range(10):
        await answer.write(b"a" * 1_000)
        await asyncio.sleep(0.02)
    return answer


def test_what_is_in_flight_finishes() -> None:
    async def run() -> None:
        async with proxy_before(Backend(_slowly)) as (proxy, core):
            requests = [asyncio.create_task(exchange(proxy.port, _GET)) for _ in range(20)]
            await settled(core, 20)
            await asyncio.sleep(0.1)  # some heads are out, and say keep-alive
            port = proxy.port
            assert await proxy.drain() == 0
            for answer in await asyncio.gather(*requests):
                assert answer.count(b"a" * 1_000) == 10
                assert answer.endswith(b"0\r\n\r\n")
            assert len(core.finished) == 20
            assert core.cancelled == []
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(run())


def test_a_body_on_its_way_in_finishes() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_POST + b"a" * 50_000)
            await settled(core, 1)
            draining = asyncio.create_task(proxy.drain())
            await asyncio.sleep(0.3)
            writer.write(b"b" * 50_000)
            assert status_of(await reader.read()) == 200
            assert backend.seen[0].body == b"a" * 50_000 + b"b" * 50_000
            assert await draining == 0
            writer.close()

    asyncio.run(run())


def test_a_request_on_an_idle_connection_is_still_answered() -> None:
    async def run() -> None:
        async with proxy_before(Backend(), config=quick(lame_duck_s=0.5)) as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_GET)
            await reader.readuntil(b"\r\n\r\n")
            draining = asyncio.create_task(proxy.drain())
            await asyncio.sleep(0.1)
            writer.write(_GET)
            answer = await reader.read()
            assert b"Connection: close\r\n" in answer  # after the body of the first
            assert await draining == 0
            writer.close()

    asyncio.run(run())


def test_idle_connections_are_closed() -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await proxy.drain() == 0
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_after_the_grace_period_the_rest_is_cut_off() -> None:
    async def run() -> None:
        async def never(request: web.BaseRequest, _: Backend) -> web.Response:
            await asyncio.sleep(30.0)
            return web.Response()

        async with proxy_before(
            Backend(never), config=quick(grace_s=0.2, response_timeout_s=30)
        ) as (proxy, core):
            requests = [asyncio.create_task(exchange(proxy.port, _GET)) for _ in range(3)]
            await settled(core, 3)
            assert await proxy.drain() == 3
            assert core.total_in_flight == 0
            assert len(core.cancelled) == 3
            for answer in await asyncio.gather(*requests):
                assert answer == b""

    asyncio.run(run())
