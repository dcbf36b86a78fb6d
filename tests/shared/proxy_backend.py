"""A backend as a process of its own: `python proxy_backend.py PORT MEAN_MS`. Prints its port."""

import asyncio
import random
import sys

from aiohttp import web


async def _answer(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    await asyncio.sleep(random.expovariate(1_000.0 / float(sys.argv[2])))
    return web.Response(text=f"{request.method} {request.raw_path} {len(body)}")


async def _main() -> None:
    runner = web.ServerRunner(web.Server(_answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]))
    await site.start()
    print(site.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
