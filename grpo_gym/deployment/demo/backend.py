"""A backend of the demonstration: a program of its own, which needs aiohttp alone.

Its service times are exponential. The number of a request in the path, and the seed, decide how
long it takes, so every policy faces the same requests. A few workers serve; others wait for them.
"""

import argparse
import asyncio
import random
from collections.abc import Awaitable, Callable

from aiohttp import web

SLOW_FACTOR = 10.0
MODES = ("well", "slow", "errors")


def service_seconds(seed: int, request: str, mean_ms: float) -> float:
    """How long a request takes at a backend of this mean: the same share of it at every one."""
    return random.Random(f"{seed}:{request}").expovariate(1_000.0 / mean_ms)


class Backend:
    """Workers, and how they are."""

    def __init__(self, mean_ms: float, workers: int) -> None:
        self._mean_ms = mean_ms
        self._workers = asyncio.Semaphore(workers)
        self._mode = "well"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve /SEED/NUMBER; POST /mode/MODE changes how the backend is."""
        first, second = request.path.strip("/").split("/")
        if request.method == "POST":
            self._mode = second
            return web.Response(text="ok")
        if self._mode == "errors":
            return web.Response(status=500)
        async with self._workers:
            slower = SLOW_FACTOR if self._mode == "slow" else 1.0
            await asyncio.sleep(slower * service_seconds(int(first), second, self._mean_ms))
        return web.Response(text="served")


async def _serve(
    port: int, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> None:
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--mean-ms", type=float)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, Backend(given.mean_ms, given.workers).handle))


if __name__ == "__main__":
    main()
