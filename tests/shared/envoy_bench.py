"""Backends, a picker and the real Envoy on this machine, for tests."""

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from grpo_gym.deployment.picker.envoy_process import EnvoyProcess, find_envoy

ENVOY = find_envoy()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: If it does not come true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.02)


class Loop:
    """An event loop in a thread of its own.

    Attributes:
        loop: The loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any], seconds: float = 60.0) -> Any:
        """Run a coroutine there and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def block(self, seconds: float) -> None:
        """Let the loop hang, as a stuck process would."""
        self.loop.call_soon_threadsafe(time.sleep, seconds)

    def close(self) -> None:
        """Cancel what runs there, and end the thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Backend:
    """A server that says its name.

    Attributes:
        waiting: Requests that it has begun and not answered.
        served: Requests that it has answered.
        received: Bytes of their bodies.
        seen: Headers of the last request.
    """

    loop: Loop
    port: int = 0
    delay_s: float = 0.0
    status: int = 200
    body_delay_s: float = 0.0
    breaks_off: bool = False
    waiting: int = 0
    served: int = 0
    received: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    _runner: Any = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """Its address, as endpoints are named."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> "Backend":
        """Listen."""
        self.loop.run(self._start())
        return self

    def release(self) -> None:
        """Let requests go on that wait for ever, as those of an infinite delay do."""
        self.loop.loop.call_soon_threadsafe(self._released.set)

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.loop.run(self._runner.cleanup())

    async def _start(self) -> None:
        server = web.Server(self._handle)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _echo(self, request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{self.name} {message.data}")
        return socket

    async def _handle(self, request: Any) -> Any:
        self.seen = {name.lower(): value for name, value in request.headers.items()}
        if "upgrade" in self.seen:
            return await self._echo(request)
        async for chunk in request.content.iter_any():
            self.received += len(chunk)
        self.waiting += 1
        if self.delay_s == math.inf:
            await self._released.wait()
        else:
            await asyncio.sleep(self.delay_s)
        self.waiting -= 1
        self.served += 1
        response = web.StreamResponse(status=self.status, headers={"x-served-by": self.name})
        await response.prepare(request)
        await response.write(b"a")
        if self.breaks_off:
            request.transport.abort()
            return response
        await asyncio.sleep(self.body_delay_s)
        await response.write(b"b")
        return response


class Envoy(EnvoyProcess):
    """The real Envoy, and what tests ask it."""

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self.url.rpartition(":")[2])

    def stat(self, name: str) -> int:
        """The sum of the counters whose name ends so."""
        found = {key: value for key, value in self.stats(name).items() if key.endswith(name)}
        assert found, f"Envoy has no counter {name}"
        return sum(found.values())

    def clusters(self) -> dict[str, Any]:
        """What Envoy knows of its clusters' hosts, by cluster."""
        found = json.loads(self.get("/clusters?format=json"))["cluster_statuses"]
        return {each["name"]: each.get("host_statuses", []) for each in found}


@dataclass(frozen=True)
class Answers:
    """What clients got.

    Attributes:
        statuses: How often each status came; 0: a broken connection.
        served_by: Which backend served, in the order of the answers.
        slowest_s: The longest time that a client waited.
    """

    statuses: Counter[int]
    served_by: list[str]
    slowest_s: float


def load(
    url: str,
    requests: int,
    at_once: int = 8,
    method: str = "GET",
    headers: dict[str, str] | None = None,
) -> Answers:
    """Send requests, a number of them at a time."""
    return asyncio.run(_load(url, requests, at_once, method, headers or {}))


async def _load(
    url: str, requests: int, at_once: int, method: str, headers: dict[str, str]
) -> Answers:
    statuses: Counter[int] = Counter()
    served: list[str] = []
    durations = [0.0]
    left = iter(range(requests))

    async def client(session: Any) -> None:
        for _ in left:
            begin = time.monotonic()
            try:
                async with session.request(method, url, headers=headers) as response:
                    await response.read()
                    statuses[response.status] += 1
                    if "x-served-by" in response.headers:
                        served.append(response.headers["x-served-by"])
            except ClientError:
                statuses[0] += 1
            durations.append(time.monotonic() - begin)

    connector = TCPConnector(limit=at_once)
    timeout = ClientTimeout(total=30)
    async with ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return Answers(statuses, served, max(durations))


@contextlib.contextmanager
def backends(count: int) -> Iterator[list[Backend]]:
    """Some running backends."""
    loop = Loop()
    started = [Backend(loop).start() for _ in range(count)]
    try:
        yield started
    finally:
        loop.close()
