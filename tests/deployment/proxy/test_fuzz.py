"""Random changes of requests: the proxy lives, and what reaches a backend was counted."""

import asyncio
import logging
import random

import pytest

pytest.importorskip("aiohttp")

from proxy_parts import Backend, exchange, proxy_before, quick, settled

_REQUESTS = (
    b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /w HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
)
_PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\0",
        b"\xff",
        b"#",
        b"?",
        b"//",
        b"1",
    ),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"0\r\n\r\n"),
    *(b"Host: y\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n", b"HTTP/1.1", b"a" * 300),
)


def _mutated(rng: random.Random) -> bytes:
    text = bytearray(b"".join(rng.choices(_REQUESTS, k=rng.randint(1, 3))))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        match rng.randrange(4):
            case 0 | 1:
                text[place:place] = rng.choice(_PIECES)
            case 2:
                del text[place : place + rng.randint(1, 8)]
            case 3:
                text[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(text)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        rng = random.Random(seed)
        config = quick(idle_timeout_s=0.3, keepalive_timeout_s=0.5, websocket_timeout_s=0.3)
        backends = Backend(), Backend()
        async with proxy_before(*backends, config=config) as (proxy, core):
            texts = [_mutated(rng) for _ in range(100)]
            waits_s = [rng.choice((0.05, 0.5)) for _ in texts]
            answers = await asyncio.gather(
                *(
                    exchange(proxy.port, text, wait_s)
                    for text, wait_s in zip(texts, waits_s, strict=True)
                )
            )
            await settled(core)
            assert all(not answer or answer.startswith(b"HTTP/") for answer in answers)
            assert any(answer.startswith(b"HTTP/1.1 200") for answer in answers)
            seen = sum(len(backend.seen) for backend in backends)
            assert 0 < seen <= len(core.finished) + len(core.cancelled)
            assert core.unknown_tokens == 0
            assert all(ok for _, ok, _ in core.finished)
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]

    asyncio.run(run())
