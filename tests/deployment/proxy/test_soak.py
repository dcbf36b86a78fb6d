"""A long run under load; for ten minutes, with its figures:

GRPO_GYM_SOAK_S=600 pytest -m slow -n 0 -s tests/deployment/proxy/test_soak.py
"""

import asyncio
import os
import random
import sys
import time
from contextlib import suppress

import pytest

pytest.importorskip("aiohttp")

from proxy_processes import Load, Route, backend, routed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

_DURATION_S = float(os.environ.get("GRPO_GYM_SOAK_S", "60"))
_CONNECTIONS = 32


async def _disturb(route: Route, port: int) -> None:
    """Abort requests at random stages, send garbage, and let a backend come and go."""
    rng = random.Random(0)
    name = f"127.0.0.1:{port}"
    while True:
        for _ in range(20):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", route.port)
                text = rng.choice(
                    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03garbage\r\n\r\n")
                )
                writer.write(text[: rng.randrange(len(text) + 1)])
                await asyncio.sleep(0.01 * rng.random())
                writer.transport.abort()
        await asyncio.to_thread(route.command, "POST", "/endpoints", url=f"http://{name}")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(route.command, "POST", "/policy", policy="pretrained:router")
        await asyncio.to_thread(route.command, "DELETE", f"/endpoints/{name}")


async def _soak(route: Route, port: int) -> tuple[Load, list[tuple[float, float, int]]]:
    """Memory in MB and open files over time, under load."""
    load = Load(route.port)
    disturbing = asyncio.create_task(_disturb(route, port))
    running = asyncio.create_task(load.run(_CONNECTIONS, ("GET", "POST")))
    started_s = time.monotonic()
    figures: list[tuple[float, float, int]] = []
    while (now_s := time.monotonic() - started_s) < _DURATION_S:
        await asyncio.sleep(_DURATION_S / 60)
        assert not disturbing.done()
        figures.append((now_s, route.memory_mb(), route.open_files()))
        print(f"{now_s:6.0f} s {figures[-1][1]:7.1f} MB {figures[-1][2]:4d} files")
    load.stopping = True
    await running
    disturbing.cancel()
    return load, figures


def test_neither_memory_nor_open_files_grow() -> None:
    options = ("--guard-mode", "full", "--backend-keepalive-s", "1")
    with routed(4, *options) as (route, _), backend() as (_, fifth):
        files_before = route.open_files()
        load, figures = asyncio.run(_soak(route, fifth))
        assert load.lost == {}
        assert {status for _, status in load.answers} == {200}
        half = len(figures) // 2
        _, memory_mb, files = zip(*figures, strict=True)
        # The first half warms up: numbers are kept for a while, and allocators keep what they had.
        assert max(memory_mb[half:]) < max(memory_mb[:half]) + 10.0
        assert max(files[half:]) <= max(files[:half]) + _CONNECTIONS
        route.wait_until_idle()
        status = route.get("/status")
        assert status["picks"] == status["finished"] + status["cancelled"]
        assert status["unknown_tokens"] == status["expired"] == 0
        deadline_s = time.monotonic() + 10.0
        while (
            route.open_files() > files_before + 10
        ):  # connections of clients and to backends are closed
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        assert route.terminate() == 0
        print(sum(load.answers.values()), "requests")
