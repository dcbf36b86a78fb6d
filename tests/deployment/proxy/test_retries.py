"""What is sent again to another backend, what is not, and what clients and the core hear of it."""

import asyncio

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from grpo_gym.deployment.proxy import exchange as exchange_module
from grpo_gym.deployment.routing import Endpoint
from proxy_parts import Backend, CountingCore, RawBackend, exchange, proxy_before, quick, status_of

_DEAD = Endpoint.from_url("http://127.0.0.1:1")
"""Nobody listens there."""
_SILENT = b""


def _request(method: str, body: bytes = b"", framing: bytes | None = None) -> bytes:
    head = b"%s /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % method.encode()
    if framing is not None:
        return head + framing
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return head + length + b"\r\n" + body


_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


async def _status(status: int) -> Backend:
    async def answer(request: web.BaseRequest, backend: Backend) -> web.Response:
        return web.Response(status=status, text=backend.label)

    return Backend(answer)


def _blamed(core: CountingCore, endpoint: Endpoint) -> bool:
    return [ok for name, ok, _ in core.finished if name == endpoint.name] == [False]


@pytest.mark.parametrize(
    "request_bytes",
    [
        _request("GET"),
        _request("POST", b"abc"),
        _request("PATCH", b"a" * 100_000),  # streamed, but not yet begun
        _request("POST", framing=_CHUNKS),
    ],
)
def test_whatever_was_not_sent_goes_elsewhere(request_bytes: bytes) -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            core.endpoints.insert(0, _DEAD)
            assert status_of(await exchange(proxy.port, request_bytes)) == 200
            assert len(backend.seen) == 1
            assert len(backend.seen[0].body) in (0, 3, 100_000)
            assert _blamed(core, _DEAD)
            assert [ok for _, ok, _ in core.finished] == [False, True]
            assert core.total_in_flight == core.unknown_tokens == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (_request("GET"), 200),
        (_request("HEAD"), 200),
        (_request("OPTIONS"), 200),
        (_request("DELETE"), 200),
        (_request("PUT", b"abc"), 200),
        (_request("POST", b"abc"), 502),
        (_request("PATCH", b"abc"), 502),
        (_request("PUT", b"a" * 100_000), 502),  # is not kept
        (_request("PUT", framing=_CHUNKS), 502),
    ],
)
def test_after_a_broken_connection_only_what_may_be_repeated(
    request_bytes: bytes, status: int
) -> None:
    async def run() -> None:
        silent, backend = RawBackend(_SILENT), Backend()
        async with proxy_before(silent, backend) as (proxy, core):
            assert status_of(await exchange(proxy.port, request_bytes)) == status
            assert len(backend.seen) == (status == 200)
            assert _blamed(core, silent.endpoint)
            assert core.total_in_flight == core.unknown_tokens == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "first", "seen"),
    [
        ("GET", 503, 200),
        ("GET", 502, 200),
        ("GET", 500, 500),
        ("GET", 404, 404),
        ("POST", 503, 503),
    ],
)
def test_after_some_statuses_too(method: str, first: int, seen: int) -> None:
    async def run() -> None:
        broken, backend = await _status(first), Backend()
        async with proxy_before(broken, backend) as (proxy, core):
            assert status_of(await exchange(proxy.port, _request(method))) == seen
            assert core.finished[0][:2] == (broken.endpoint.name, first < 500)
            assert core.total_in_flight == core.unknown_tokens == 0

    asyncio.run(run())


def test_a_response_that_is_as_good_as_it_gets_is_passed_on() -> None:
    async def run() -> None:
        alone = await _status(503)
        async with proxy_before(alone) as (proxy, core):
            answer = await exchange(proxy.port, _request("GET"))
            assert status_of(answer) == 503
            assert answer.endswith(b"backend")
            assert [ok for _, ok, _ in core.finished] == [False]
            assert core.total_in_flight == 0

    asyncio.run(run())


@pytest.mark.parametrize(("retries", "tried"), [(0, 1), (1, 2), (2, 3)])
def test_as_often_as_the_settings_say(retries: int, tried: int) -> None:
    async def run() -> None:
        backends = [await _status(503) for _ in range(4)]
        async with proxy_before(*backends, config=quick(retries=retries)) as (proxy, core):
            assert status_of(await exchange(proxy.port, _request("GET"))) == 503
            assert sum(len(backend.seen) for backend in backends) == tried
            assert max(len(backend.seen) for backend in backends) == 1
            assert len(core.finished) == tried

    asyncio.run(run())


def test_never_after_a_byte_of_the_response_went_out() -> None:
    async def run() -> None:
        broken = RawBackend(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        backend = Backend()
        async with proxy_before(broken, backend) as (proxy, core):
            answer = await exchange(proxy.port, _request("GET"))
            assert answer.endswith(b"abc") or answer == b""  # cut off, not ended
            assert backend.seen == []
            assert _blamed(core, broken.endpoint)
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_a_cut_response_of_unknown_length_never_looks_whole() -> None:
    async def run() -> None:
        broken = RawBackend(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        async with proxy_before(broken) as (proxy, core):
            answer = await exchange(proxy.port, _request("GET"))
            assert not answer.endswith(b"0\r\n\r\n")
            assert _blamed(core, broken.endpoint)

    asyncio.run(run())


def test_a_cut_response_is_a_reset_where_only_the_end_tells_the_length() -> None:
    async def run() -> None:
        broken = RawBackend(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        async with proxy_before(broken) as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 99999 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_a_backend_that_speaks_no_http(answer: bytes) -> None:
    async def run() -> None:
        broken = RawBackend(answer)
        async with proxy_before(broken) as (proxy, core):
            assert status_of(await exchange(proxy.port, _request("GET"))) == 502
            assert _blamed(core, broken.endpoint)
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_a_backend_that_does_not_answer_in_time() -> None:
    async def run() -> None:
        hung = RawBackend(b"", closes=False)
        async with proxy_before(hung, config=quick(response_timeout_s=0.2)) as (proxy, core):
            assert status_of(await exchange(proxy.port, _request("GET"))) == 504
            assert _blamed(core, hung.endpoint)
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_a_backend_that_pauses_for_too_long() -> None:
    async def run() -> None:
        hung = RawBackend(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", closes=False)
        async with proxy_before(hung, config=quick(idle_timeout_s=0.2)) as (proxy, core):
            await exchange(proxy.port, _request("GET"))
            assert _blamed(core, hung.endpoint)
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_a_backend_that_reads_no_body_has_its_time_out() -> None:
    async def run() -> None:
        async def sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(2.0)
            writer.close()

        server = await asyncio.start_server(sleep, "127.0.0.1", 0, limit=1_000)
        port = server.sockets[0].getsockname()[1]
        async with proxy_before(Backend(), config=quick(response_timeout_s=0.3)) as (proxy, core):
            core.endpoints = [Endpoint.from_url(f"http://127.0.0.1:{port}")]
            answer = await exchange(proxy.port, _request("POST", b"a" * 30_000_000))
            assert status_of(answer) == 504
            assert [ok for _, ok, _ in core.finished] == [False]
            assert core.total_in_flight == 0
        server.close()

    asyncio.run(run())


def test_nobody_is_ready() -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, core):
            core.endpoints = []
            answer = await exchange(proxy.port, _request("GET"))
            assert status_of(answer) == 503
            assert b"Retry-After: 1\r\n" in answer

    asyncio.run(run())


def test_everybody_is_full() -> None:
    async def run() -> None:
        release = asyncio.Event()

        async def wait(request: web.BaseRequest, _: Backend) -> web.Response:
            await release.wait()
            return web.Response(text="ok")

        backend = Backend(wait)
        async with proxy_before(backend) as (proxy, core):
            url = f"http://127.0.0.1:{backend.port}"
            core.endpoints = [Endpoint.from_url(url, max_in_flight=1)]
            first = asyncio.create_task(exchange(proxy.port, _request("GET")))
            while core.total_in_flight == 0:
                await asyncio.sleep(0.01)
            answer = await exchange(proxy.port, _request("GET"))
            assert status_of(answer) == 429
            assert b"Retry-After: 1\r\n" in answer
            release.set()
            assert status_of(await first) == 200

    asyncio.run(run())


def test_statuses_tell_the_core_how_it_went() -> None:
    async def run() -> None:
        for status in (200, 404, 429, 500, 503):
            async with proxy_before(await _status(status)) as (proxy, core):
                await exchange(proxy.port, _request("GET"))
                assert [ok for _, ok, _ in core.finished] == [status < 500]

    asyncio.run(run())


def test_latency_is_that_of_the_whole_response() -> None:
    async def run() -> None:
        async def slowly(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            await asyncio.sleep(0.1)
            await answer.write(b"abc")
            await asyncio.sleep(0.1)
            return answer

        async with proxy_before(Backend(slowly)) as (proxy, core):
            await exchange(proxy.port, _request("GET"))
            ((_, ok, latency_ms),) = core.finished
            assert ok
            assert 200.0 <= latency_ms < 10_000.0

    asyncio.run(run())


def test_requests_that_can_be_repeated_are_the_better_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, core):
            requests = ("POST", "GET", "POST", "PUT", "PATCH")
            for method in requests:
                await exchange(proxy.port, _request(method, b"abc" if method != "GET" else b""))
            await exchange(proxy.port, _request("PUT", b"a" * 100_000))
            # At first there was nothing better than a POST.
            assert core.probes == [True, True, False, True, False, False]
            monkeypatch.setattr(exchange_module, "_PROBELESS_S", 0.0)
            await exchange(proxy.port, _request("POST", b"abc"))
            assert core.probes[-1]

    asyncio.run(run())
