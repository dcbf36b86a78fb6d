"""What passes through the proxy, and what it changes."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from grpo_gym.deployment.routing import Endpoint
from proxy_parts import Backend, RawBackend, exchange, proxy_before, quick, status_of

_CLOSE = b"Host: shop.example:8080\r\nConnection: close\r\n"


def _run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def _through(backend: Backend | RawBackend, request: bytes, **settings: object) -> bytes:
    async with proxy_before(backend, config=quick(**settings)) as (proxy, core):
        answer = await exchange(proxy.port, request)
        assert core.total_in_flight == core.unknown_tokens == 0
        return answer


def _head_and_body(answer: bytes) -> tuple[list[bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a?b=c&d=%zz",
        "//192.0.2.1/a",
        "/a/../../b/./c",
        "/%2e%2e/%2F/a%00b",
        "/a;b=c:d@e!$&'()*+,=~",
        "/a?b=http://c/?d",
        '/"<>\\^`{|}',
    ],
)
def test_a_target_passes_byte_for_byte(target: str) -> None:
    async def run() -> None:
        backend = RawBackend(b"HTTP/1.1 204 No Content\r\n\r\n")
        answer = await _through(backend, b"GET %s HTTP/1.1\r\n%s\r\n" % (target.encode(), _CLOSE))
        assert status_of(answer) == 204
        assert backend.received[0].split(b"\r\n")[0] == b"GET %s HTTP/1.1" % target.encode()

    _run(run)


def test_a_backends_own_path_comes_first() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            core.endpoints = [Endpoint.from_url(f"http://127.0.0.1:{backend.port}/base/")]
            await exchange(proxy.port, b"GET /a?b HTTP/1.1\r\n%s\r\n" % _CLOSE)
        assert backend.seen[0].target == "/base/a?b"

    _run(run)


def test_headers_of_a_request() -> None:
    async def run() -> None:
        backend = RawBackend(b"HTTP/1.1 204 No Content\r\n\r\n")
        await _through(
            backend,
            b"GET / HTTP/1.1\r\nHost: shop.example:8080\r\nConnection: close, X-Mine\r\n"
            b"X-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: secret\r\n"
            b"Proxy-Connection: keep-alive\r\nTE: trailers\r\nTrailer: X-T\r\n"
            b'Upgrade: h2c\r\nX-Twice: 1\r\nX-Twice: 2\r\nCookie: a=b; c="d"\r\nX-Latin: \xe9\r\n'
            b"Authorization: Basic abc\r\nX-Gateway-Destination-Endpoint: 192.0.2.1:80\r\n"
            b"X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n"
            b"X-Forwarded-Proto: https\r\nVia: 1.0 fred\r\n\r\n",
        )
        lines = backend.received[0].split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        via = next(line for line in lines if line.startswith(b"Via:"))
        assert via.startswith(b"Via: 1.0 fred, 1.1 grpo-gym-")
        lines.remove(via)
        assert sorted(lines) == sorted(
            [
                b"Host: shop.example:8080",
                b"X-Twice: 1",
                b"X-Twice: 2",
                b'Cookie: a=b; c="d"',
                b"X-Latin: \xc3\xa9",
                b"Authorization: Basic abc",
                b"X-Gateway-Destination-Endpoint: 192.0.2.1:80",
                b"X-Forwarded-For: 127.0.0.1",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: shop.example:8080",
            ]
        )

    _run(run)


def test_forwarded_headers_of_a_trusted_proxy_are_kept() -> None:
    async def run() -> None:
        backend = Backend()
        await _through(
            backend,
            b"GET / HTTP/1.1\r\n" + _CLOSE + b"X-Forwarded-For: 192.0.2.7\r\n"
            b"X-Forwarded-For: 192.0.2.8\r\nX-Forwarded-Proto: https\r\n"
            b"X-Forwarded-Host: a\r\nForwarded: for=192.0.2.7\r\n\r\n",
            trust_forwarded=True,
        )
        (seen,) = backend.seen
        assert seen.values("X-Forwarded-For") == ["192.0.2.7, 192.0.2.8, 127.0.0.1"]
        assert seen.values("X-Forwarded-Proto") == ["https"]
        assert seen.values("X-Forwarded-Host") == ["a"]
        assert seen.values("Forwarded") == ["for=192.0.2.7"]

    _run(run)


def test_host_of_the_backend_on_request() -> None:
    async def run() -> None:
        backend = Backend()
        await _through(backend, b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE, host_header="backend")
        assert backend.seen[0].values("Host") == [f"127.0.0.1:{backend.port}"]
        assert backend.seen[0].values("X-Forwarded-Host") == ["shop.example:8080"]

    _run(run)


def test_a_picks_name_in_a_header_changes_nothing() -> None:
    async def run() -> None:
        first, second = Backend(), Backend()
        async with proxy_before(first, second) as (proxy, _):
            for _ in range(4):
                forged = f"X-Gateway-Destination-Endpoint: {second.endpoint.name}\r\n".encode()
                request = b"GET / HTTP/1.1\r\n" + _CLOSE + forged + b"\r\n"
                assert status_of(await exchange(proxy.port, request)) == 200
            assert len(first.seen) == len(second.seen) == 2

    _run(run)


def test_a_loop_is_detected() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            core.endpoints = [Endpoint.from_url(f"http://127.0.0.1:{proxy.port}")]
            answer = await exchange(proxy.port, b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE)
            assert status_of(answer) == 508

    _run(run)


def test_headers_of_a_response() -> None:
    async def run() -> None:
        backend = RawBackend(
            b"HTTP/1.1 299 Fine By Me\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: X-T\r\n"
            b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nX-Latin: \xe9\r\n"
            b"Content-Encoding: gzip\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
            b"Location: http://elsewhere/\r\nContent-Length: 3\r\n\r\nabc"
        )
        answer = await _through(backend, b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE)
        lines, body = _head_and_body(answer)
        assert lines == [
            b"HTTP/1.1 299 Fine By Me",
            b"Set-Cookie: a=1; Path=/",
            b"Set-Cookie: b=2",
            b"X-Latin: \xc3\xa9",
            b"Content-Encoding: gzip",
            b"Date: Thu, 01 Jan 1970 00:00:00 GMT",
            b"Location: http://elsewhere/",
            b"Content-Length: 3",
            b"Connection: close",
        ]
        assert body == b"abc"

    _run(run)


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_a_body(status: int) -> None:
    async def run() -> None:
        backend = RawBackend(b"HTTP/1.1 %d X\r\nETag: a\r\n\r\n" % status, closes=False)
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE
        answer = await _through(backend, request)
        assert answer.count(b"HTTP/1.1 %d X" % status) == 2
        assert b"chunked" not in answer.lower()
        assert answer.endswith(b"\r\n\r\n")

    _run(run)


def test_head() -> None:
    async def run() -> None:
        backend = RawBackend(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: a/b\r\n\r\n", closes=False
        )
        request = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + b"HEAD / HTTP/1.1\r\n%s\r\n" % _CLOSE
        answer = await _through(backend, request)
        assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"Content-Length: 1234") == 2

    _run(run)


def test_provisional_responses_are_left_out() -> None:
    async def run() -> None:
        backend = RawBackend(
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        answer = await _through(backend, b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE)
        assert status_of(answer) == 200
        assert answer.endswith(b"\r\n\r\nok")

    _run(run)


def test_trailers_are_left_out() -> None:
    async def run() -> None:
        backend = RawBackend(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
            waits_for=b"0\r\n",
        )
        request = b"POST / HTTP/1.1\r\n" + _CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await _through(backend, request + b"3\r\nabc\r\n0\r\nX-U: 1\r\n\r\n")
        assert b"X-T" not in answer
        assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b"X-U" not in backend.received[0]

    _run(run)


def test_both_framings_of_bodies() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend, config=quick(buffer_bytes=10)) as (proxy, _):
            for length in (0, 3, 10, 11, 200_000):
                body = bytes(i % 251 for i in range(length))
                for framing in (
                    b"Content-Length: %d\r\n\r\n%s" % (length, body),
                    b"Transfer-Encoding: chunked\r\n\r\n"
                    + (b"%x\r\n%s\r\n" % (length, body) if body else b"")
                    + b"0\r\n\r\n",
                ):
                    answer = await exchange(proxy.port, b"POST / HTTP/1.1\r\n" + _CLOSE + framing)
                    assert status_of(answer) == 200
                    assert backend.seen[-1].body == body
                    chunked = bool(backend.seen[-1].values("Transfer-Encoding"))
                    assert chunked == framing.startswith(b"Transfer-Encoding")
                    assert chunked != bool(backend.seen[-1].values("Content-Length"))

    _run(run)


def test_a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async def run() -> None:
        backend = RawBackend(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        answer = await _through(backend, b"GET / HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert b"chunked" not in answer
        assert answer.endswith(b"\r\n\r\nabc")

    _run(run)


def test_a_backend_of_http_1_0_may_end_its_body_with_the_connection() -> None:
    async def run() -> None:
        backend = RawBackend(b"HTTP/1.0 200 OK\r\n\r\nabc")
        answer = await _through(backend, b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE)
        assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    _run(run)


def test_connections_are_kept_on_both_sides() -> None:
    async def run() -> None:
        peers: list[object] = []

        async def remember(request: web.BaseRequest, _: Backend) -> web.Response:
            assert request.transport is not None
            peers.append(request.transport.get_extra_info("peername"))
            return web.Response(text="ok")

        backend = Backend(remember)
        async with proxy_before(backend) as (proxy, _):
            requests = (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.1\r\n%s\r\n" % _CLOSE
            )
            answer = await exchange(proxy.port, requests)
            assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert len(peers) == 3
        assert len(set(peers)) == 1

    _run(run)


def test_a_client_waits_for_100_continue() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, _):
            for framing, body in (
                (b"Content-Length: 3", b"abc"),
                (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                head = b"POST / HTTP/1.1\r\n" + _CLOSE + b"Expect: 100-Continue\r\n"
                writer.write(head + framing + b"\r\n\r\n")
                async with asyncio.timeout(20.0):
                    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    writer.write(body)
                    assert status_of(await reader.read()) == 200
                writer.close()
                assert backend.seen[-1].body == b"abc"
                assert backend.seen[-1].values("Expect") == []

    _run(run)


def test_no_100_continue_for_a_body_that_is_refused() -> None:
    async def run() -> None:
        request = b"POST / HTTP/1.1\r\n" + _CLOSE + b"Expect: 100-continue\r\n"
        answer = await _through(
            Backend(), request + b"Content-Length: 11\r\n\r\n", max_body_bytes=10
        )
        assert status_of(answer) == 413

    _run(run)


def test_bodies_are_passed_on_as_they_come() -> None:
    async def run() -> None:
        async def one_by_one(request: web.BaseRequest, _: Backend) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            while chunk := await request.content.readany():
                await answer.write(chunk.upper())
            return answer

        async with proxy_before(Backend(one_by_one, reads_body=False)) as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            async with asyncio.timeout(20.0):
                await reader.readuntil(b"\r\n\r\n")  # the head comes before any byte of the bodies
                for word in (b"a", b"bc", b"def"):
                    writer.write(b"%x\r\n%s\r\n" % (len(word), word))
                    expected = b"%x\r\n%s\r\n" % (len(word), word.upper())
                    assert await reader.readexactly(len(expected)) == expected
            writer.close()

    _run(run)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
@pytest.mark.parametrize(("is_trusted", "status"), [(True, 200), (False, 502)])
def test_certificates_of_https_backends_are_checked(
    tmp_path: Path, is_trusted: bool, status: int
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -addext"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), names, *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def run() -> None:
        secure = await Backend().start(tls=tls)
        config = quick(ca_file=certificate if is_trusted else None)
        async with proxy_before(Backend(), config=config) as (proxy, core):
            core.endpoints = [Endpoint.from_url(f"https://127.0.0.1:{secure.port}")]
            answer = await exchange(proxy.port, b"GET /a HTTP/1.1\r\n%s\r\n" % _CLOSE)
            assert status_of(answer) == status
            assert len(secure.seen) == is_trusted
            assert [ok for _, ok, _ in core.finished] == [is_trusted]
        await secure.stop()

    _run(run)
