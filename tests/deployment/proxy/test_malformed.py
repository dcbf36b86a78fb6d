"""Requests that are no HTTP, or that two parties could read differently, reach no backend."""

import asyncio

import pytest

pytest.importorskip("aiohttp")


from proxy_parts import Backend, exchange, proxy_before, quick, status_of

_POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_CLOSING = _POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
_HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
_LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

_MALFORMED = {
    "length, then chunks": _POST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks, then length": _POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "length twice": _POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two lengths": _POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "list of lengths": _POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "length with sign": _POST + b"Content-Length: +3\r\n\r\nabc",
    "negative length": _POST + b"Content-Length: -3\r\n\r\nabc",
    "no number in length": _POST + b"Content-Length: \r\n\r\nabc",
    "length of 23 digits": _POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "identity": _POST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "chunked twice": _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two encodings": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "xchunked": _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "vertical tab": _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": _POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size zz": _CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk size 0x3": _CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": _CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size of 19 digits": _CHUNKED + b"fffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "LF in chunks": _CHUNKED + b"3\nabc\n0\n\n",
    "chunk too long": _CHUNKED + b"3\r\nabcX0\r\n\r\n",
    "LF in chunk extension": _CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "length in trailer": _CHUNKED + b"0\r\nContent-Length: 7\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n",
    "LF only": b"GET / HTTP/1.1\nHost: x\n\n",
    "lone CR": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "user in Host": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "path in Host": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "absolute form": b"GET http://192.0.2.1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority form": b"GET 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab in target": b"GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in target": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in header name": b"GET / HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: x\r\nXA\r\n\r\n",
    "no header name": b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "Connection names Host": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: host\r\n\r\n",
    "Connection names length": _POST
    + b"Connection: content-length\r\nContent-Length: 3\r\n\r\nabc",
    "WebSocket by POST": _POST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}
_OTHERS = {
    "CONNECT": (405, b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n" + _HIDDEN),
    "gzip, chunked": (501, _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "unknown Expect": (417, _LAST[:-2] + b"Expect: tea\r\n\r\n"),
    "long target": (431, b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "long header": (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9_000 + b"\r\n\r\n"),
    "long header name": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 9_000 + b": b\r\n\r\n"),
    "many headers": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
    "large headers": (
        431,
        b"GET / HTTP/1.1\r\nHost: x\r\n"
        + b"A: "
        + b"b" * 7_000
        + b"\r\n"
        + (b"A: " + b"b" * 7_000 + b"\r\n") * 4
        + b"\r\n",
    ),
    "large body": (413, _POST + b"Content-Length: 104857601\r\n\r\n"),
    "old WebSocket": (
        426,
        _LAST[:-2] + b"Connection: upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n",
    ),
}
_CASES = {**{name: (400, text + _HIDDEN) for name, text in _MALFORMED.items()}, **_OTHERS}


@pytest.mark.parametrize("name", _CASES)
def test_refused(name: str) -> None:
    status, text = _CASES[name]

    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            answer = await exchange(proxy.port, text)
            assert status_of(answer) == status
            assert b"/hidden" not in answer
            assert backend.seen == []
            assert core.finished == []
            assert core.total_in_flight == core.unknown_tokens == 0
            assert status_of(await exchange(proxy.port, _LAST)) == 200  # it goes on serving

    asyncio.run(run())


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcX0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_chunks_that_break_after_the_headers_are_a_clients_fault(rest: bytes) -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend) as (proxy, core):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(_CHUNKED)
            await asyncio.sleep(0.1)
            writer.write(rest + _HIDDEN)
            async with asyncio.timeout(20.0):
                answer = await reader.read()
            writer.close()
            assert status_of(answer) == 400
            assert backend.seen == []
            assert core.finished == []
            assert core.total_in_flight == 0

    asyncio.run(run())


def test_an_answer_says_nothing_of_what_was_sent() -> None:
    async def run() -> None:
        async with proxy_before(Backend()) as (proxy, _):
            for text in (b"GET /secret b HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nsecret\r\n\r\n"):
                answer = await exchange(proxy.port, text)
                assert status_of(answer) == 400
                assert b"secret" not in answer

    asyncio.run(run())


def test_a_body_without_known_length_is_cut_at_the_limit() -> None:
    async def run() -> None:
        backend = Backend()
        async with proxy_before(backend, config=quick(max_body_bytes=1_000)) as (proxy, core):
            chunk = b"%x\r\n%s\r\n" % (600, b"a" * 600)
            assert status_of(await exchange(proxy.port, _CLOSING + chunk + b"0\r\n\r\n")) == 200
            answer = await exchange(proxy.port, _CLOSING + 2 * chunk + b"0\r\n\r\n")
            assert status_of(answer) == 413
            assert [len(seen.body) for seen in backend.seen] == [600]
            assert core.total_in_flight == 0

    asyncio.run(run())
