"""The HTTP server of the admin port: routes, bodies, and errors as one line of JSON."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from grpo_gym.deployment.admin import commands
from grpo_gym.deployment.admin.metrics import make_registry
from grpo_gym.deployment.admin.page import CONTENT_SECURITY_POLICY, PAGE
from grpo_gym.deployment.admin.protection import check_request, is_loopback
from grpo_gym.deployment.admin.service import RoutesRequests, Service, Status
from grpo_gym.deployment.admin.traffic import Traffic, quantile
from grpo_gym.deployment.records import GuardError, plain
from grpo_gym.deployment.routing import RoutingStatus
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError

_LARGEST_BODY = 16_384
_SLOWEST_BODY_S = 5.0
_SLOWEST_STATUS_S = 2.0
_FORGET_EVERY_S = 60.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUS_OF: dict[type[Exception], int] = {
    ConfigError: 400,
    CheckpointError: 400,
    commands.UnsupportedError: 404,
    commands.ConflictError: 409,
    GuardError: 409,
}
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Command = Callable[[Service, Mapping[str, Any]], dict[str, Any]]


class AdminServer:
    """A running admin port.

    Attributes:
        host: The address that it is bound to.
        port: The port that it is bound to.
    """

    def __init__(self, service: Service, host: str) -> None:
        """Prepare the port of a service; `start` opens it."""
        self.host = host
        self.port = 0
        self._service = service
        self._traffic = Traffic()
        self._registry = make_registry(service, self._traffic)
        self._is_draining = False
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        self._forgetting: asyncio.Task[None] | None = None

    async def start(self, port: int) -> None:
        """Listen, and hear of the service's requests.

        Raises:
            ConfigError: If the address or the port cannot be bound.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            reason = (getattr(error, "strerror", None) or str(error)).rsplit(": ")[-1]
            raise ConfigError(
                f"the admin port cannot be opened at {self.host}:{port}: {reason}. Choose another "
                "address or port"
            ) from None
        self.port = self._runner.addresses[0][1]
        if isinstance(self._service, RoutesRequests):
            self._service.observers.append(self._traffic)
            self._forgetting = asyncio.create_task(self._forget_removed_endpoints())

    def drain(self) -> None:
        """Say from now on that the service is not ready, so that nobody sends new requests."""
        self._is_draining = True

    async def close(self) -> None:
        """Stop listening."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        if isinstance(self._service, RoutesRequests) and self._traffic in self._service.observers:
            self._service.observers.remove(self._traffic)
        await self._runner.cleanup()

    # What can be read

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await self._read(encode, self._registry)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _alive(self, request: web.Request) -> web.Response:
        await self._read(self._service.status)
        return _answer({"alive": True})

    async def _ready(self, request: web.Request) -> web.Response:
        problem = _problem(await self._read(self._service.status))
        if self._is_draining:
            problem = "it is shutting down"
        return _answer({"ready": problem is None, "problem": problem}, 503 if problem else 200)

    async def _status(self, request: web.Request) -> web.Response:
        return _answer(await self._read(self._report))

    async def _guard(self, request: web.Request) -> web.Response:
        return _answer(await self._read(commands.guard_report, self._service.guard))

    def _report(self) -> dict[str, Any]:
        status = self._service.status()
        report: dict[str, Any] = plain(asdict(status))
        report["guard"] = commands.guard_report(self._service.guard)
        report["problem"] = "it is shutting down" if self._is_draining else _problem(status)
        if isinstance(status, RoutingStatus):
            tallies = self._traffic.of([each.name for each in status.endpoints])
            for endpoint in report["endpoints"]:
                tally = tallies[endpoint["name"]]
                arms = tally.arms.values()
                endpoint["picks"] = sum(arm.picks for arm in arms)
                endpoint["errors"] = sum(arm.errors for arm in arms)
                endpoint["p50_ms"] = quantile(tally.recent_ms, 0.50)
                endpoint["p99_ms"] = quantile(tally.recent_ms, 0.99)
        return report

    async def _read(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call in a thread, as a service may hold its lock; a service that hangs is told."""
        try:
            async with asyncio.timeout(_SLOWEST_STATUS_S):
                return await asyncio.to_thread(function, *arguments)
        except TimeoutError:
            raise web.HTTPServiceUnavailable(
                text=f"the service did not say its status within {_SLOWEST_STATUS_S:g} s"
            ) from None

    # What can be commanded

    def _handler(self, command: _Command) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            body = await _json_body(request)
            return _answer(await asyncio.to_thread(command, self._service, body))

        return handle

    async def _remove_endpoint(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return _answer(await asyncio.to_thread(commands.remove_endpoint, self._service, name))

    # The server

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer_all], client_max_size=_LARGEST_BODY)
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/metrics", self._metrics),
                web.get("/health", self._ready),
                web.get("/health/ready", self._ready),
                web.get("/health/live", self._alive),
                web.get("/status", self._status),
                web.get("/guard", self._guard),
                web.post("/guard/promote", self._handler(commands.promote)),
                web.post("/guard/shadow", self._handler(commands.to_shadow)),
                web.post("/guard/rollback", self._handler(commands.to_shadow)),
                web.post("/policy", self._handler(commands.swap_policy)),
                web.post("/endpoints", self._handler(commands.add_endpoint)),
                web.delete("/endpoints/{name}", self._remove_endpoint),
            ]
        )
        return application

    @web.middleware
    async def _answer_all(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Protect all routes; answer every error with a status and a line of JSON."""
        try:
            check_request(request, is_loopback(self.host))
            response = await handler(request)
        except web.HTTPException as error:
            response = _error(error.text or error.reason, error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except tuple(_STATUS_OF) as error:
            status = next(code for kind, code in _STATUS_OF.items() if isinstance(error, kind))
            response = _error(str(error), status)
        # A user's policy may raise anything while it is loaded; the port stays open.
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.path)
            response = _error(f"{type(error).__name__}: {error}", 500)
        response.headers.update(_HEADERS)
        return response

    async def _forget_removed_endpoints(self) -> None:
        """Bound what is kept, even if nobody ever reads the metrics."""
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            with suppress(web.HTTPServiceUnavailable):
                await self._read(self._report)


async def start_admin(service: Service, host: str = "127.0.0.1", port: int = 9901) -> AdminServer:
    """Open the admin port of a service in the running event loop.

    Args:
        service: Its methods are called in threads.
        host: Address to bind to. Commands are only taken from loopback, whatever it is.
        port: Port to bind to; 0: any free one, which `AdminServer.port` tells.

    Returns:
        The server; `await` its `close`.

    Raises:
        ConfigError: If the address or the port cannot be bound.
    """
    server = AdminServer(service, host)
    await server.start(port)
    return server


def _problem(status: Status) -> str | None:
    """Why a service is not ready; None if it is."""
    if isinstance(status, RoutingStatus):
        is_ready = any(each.healthy for each in status.endpoints)
        return None if is_ready else "no endpoint is healthy"
    return status.problem


async def _json_body(request: web.Request) -> Any:
    """What a body says in JSON, for a command to check; an absent one is an empty object."""
    if not request.body_exists:
        return {}
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(
            text=f"Content-Type must be application/json, got {request.content_type}"
        )
    try:
        async with asyncio.timeout(_SLOWEST_BODY_S):
            return json.loads(await request.read())
    except TimeoutError:
        raise web.HTTPRequestTimeout(
            text=f"the body must come within {_SLOWEST_BODY_S:g} s"
        ) from None
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body must be JSON") from None


def _answer(content: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.json_response(content, status=status)


def _error(text: str, status: int) -> web.Response:
    return _answer({"error": " ".join(text.split())}, status)
