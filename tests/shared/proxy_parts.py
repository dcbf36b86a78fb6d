"""Parts around a proxy for its tests: a core that only counts, backends, and raw sockets."""

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.server import Proxy
from grpo_gym.deployment.routing import Endpoint, NoEndpointError, Pick
from grpo_gym.deployment.routing.records import Failure


class CountingCore:
    """Takes the endpoints in turn, and keeps what it hears."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = list(endpoints)
        self.in_flight: Counter[str] = Counter()
        self.finished: list[tuple[str, bool, float]] = []
        self.cancelled: list[str] = []
        self.waited_ms: list[float | None] = []
        self.health: dict[str, bool] = {}
        self.probes: list[bool] = []
        self.unknown_tokens = 0
        self._open: dict[int, str] = {}
        self._picks = 0

    def pick(self, *, exclude: Collection[str] = (), probe: bool = True) -> Pick:
        self.probes.append(probe)
        names = [each.name for each in self.endpoints if each.name not in exclude]
        if not names:
            raise NoEndpointError("none", saturated=False)
        limits = {each.name: each.max_in_flight or math.inf for each in self.endpoints}
        room = [name for name in names if self.in_flight[name] < limits[name]]
        if not room:
            raise NoEndpointError("all full", saturated=True)
        first = self._picks % len(room)
        self._picks += 1
        ranked = tuple(room[first:] + room[:first])
        self._open[self._picks] = ranked[0]
        self.in_flight[ranked[0]] += 1
        return Pick(ranked, self._picks)

    def finish(
        self,
        token: int,
        ok: bool,
        latency_ms: float | None = None,
        *,
        failure: Failure | None = None,
    ) -> bool:
        if (name := self._end(token)) is None:
            return False
        assert latency_ms is not None
        self.finished.append((name, ok, latency_ms))
        return True

    def cancel(self, token: int, waited_ms: float | None = None) -> bool:
        if (name := self._end(token)) is None:
            return False
        self.cancelled.append(name)
        self.waited_ms.append(waited_ms)
        return True

    def set_health(self, name: str, healthy: bool) -> None:
        self.health[name] = healthy

    @property
    def total_in_flight(self) -> int:
        return sum(self.in_flight.values())

    def _end(self, token: int) -> str | None:
        name = self._open.pop(token, None)
        if name is None:
            self.unknown_tokens += 1
        else:
            self.in_flight[name] -= 1
        return name


@dataclass
class Seen:
    """A request as a backend got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


Handler = Callable[[web.BaseRequest, "Backend"], Awaitable[web.StreamResponse]]


async def echo(request: web.BaseRequest, backend: "Backend") -> web.StreamResponse:
    """Answer with the method, the target and the body."""
    seen = backend.seen[-1]
    return web.Response(text=f"{backend.label} {seen.method} {seen.target} {seen.body!r}")


@dataclass
class Backend:
    """A real HTTP server."""

    handler: Handler = echo
    label: str = "backend"
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    reads_body: bool = True
    _runner: web.ServerRunner | None = None

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> "Backend":
        server = web.Server(self._handle, auto_decompress=False, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        self.port = site.port
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.from_url(f"http://127.0.0.1:{self.port}")

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if self.reads_body else b""
        headers = [(name.decode("latin-1"), v.decode("latin-1")) for name, v in request.raw_headers]
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        return await self.handler(request, self)


class RawBackend:
    """A server that keeps the bytes that it gets and answers with given ones."""

    def __init__(self, answer: bytes, closes: bool = True, waits_for: bytes = b"\r\n\r\n") -> None:
        self.answer = answer
        self.closes = closes
        self.waits_for = waits_for
        self.received: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> "RawBackend":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.from_url(f"http://127.0.0.1:{self.port}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await self._read(reader):
            self.received.append(received)
            writer.write(self.answer)
            if self.closes:
                break
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(self.waits_for)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@asynccontextmanager
async def proxy_before(
    *backends: Backend | RawBackend, config: ProxyConfig | None = None
) -> AsyncIterator[tuple[Proxy, CountingCore]]:
    """A proxy in front of backends, all of which are started and stopped."""
    for backend in backends:
        await backend.start()
    core = CountingCore([backend.endpoint for backend in backends])
    proxy = await Proxy.start(core, config or quick(), port=0)
    try:
        yield proxy, core
    finally:
        await proxy.close()
        for backend in backends:
            await backend.stop()


def quick(**changes: object) -> ProxyConfig:
    """Settings for tests: what is not about time must not depend on the machine's load."""
    settings: dict[str, object] = {
        "connect_timeout_s": 10.0,
        "response_timeout_s": 10.0,
        "idle_timeout_s": 10.0,
        "header_timeout_s": 10.0,
        "grace_s": 10.0,
        "lame_duck_s": 0.05,
        "health_interval_s": 0.1,
    }
    return ProxyConfig(**{**settings, **changes})  # type: ignore[arg-type]


async def exchange(port: int, request: bytes, wait_s: float = 20.0) -> bytes:
    """What a server says to some bytes until it ends the connection, or for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = b""
    try:
        async with asyncio.timeout(wait_s):
            while data := await reader.read(65_536):
                answer += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


async def settled(core: CountingCore, count: int = 0) -> None:
    """Wait until a core has some requests in flight."""
    async with asyncio.timeout(20.0):
        while core.total_in_flight != count:
            await asyncio.sleep(0.01)


def status_of(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split(b" ", 2)[1])
