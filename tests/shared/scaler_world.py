"""A deployment as its metrics show it, a clock, and a Prometheus that may be anything."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from aiohttp import web

from grpo_gym.deployment import GuardConfig
from grpo_gym.deployment.scaler import messages
from grpo_gym.deployment.scaler.core import ScalingCore
from grpo_gym.deployment.scaler.settings import ScalerSettings

READING = {
    "cpu_percent": 70.0,
    "memory_percent": 50.0,
    "network_mbit_per_s": 250.0,
    "disk_io_per_s": 5_000.0,
    "p50_latency_ms": 40.0,
    "p99_latency_ms": 180.0,
    "requests_per_s": 1_000.0,
    "error_percent": 0.02,
    "queue_depth": 3.0,
    "replicas": 14.0,
    "running": 14.0,
    "pending": 0.0,
}
"""Ten replicas' worth of requests, served by fourteen that are 70 % busy."""
FULL = GuardConfig(mode="full", holdout_percentage=0.0, outcome_test=False)
MONDAY_NOON_S = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


class Clock:
    """Seconds since 1970, as a test has them."""

    def __init__(self, now_s: float = MONDAY_NOON_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def settings(**changes: Any) -> ScalerSettings:
    """For the deployment `web`, with a policy that acts."""
    return ScalerSettings(**{"deployment": "web", "guard": FULL, **changes})


def make_core(clock: Clock | None = None, **changes: Any) -> ScalingCore:
    """A core by simulated time."""
    return ScalingCore(settings(**changes), clock=clock or Clock())


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler) -> AsyncIterator[str]:
    """A server of one handler; gives its URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(*values: Any, now_s: float | None = None) -> dict[str, Any]:
    """An answer of Prometheus with as many series."""
    at = time.time() if now_s is None else now_s
    series = [{"metric": {"n": str(n)}, "value": [at, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


class FakePrometheus:
    """Answers the query NAME with the value of `values[NAME]`.

    Attributes:
        values: By measurement; change them at will.
        queries: What was asked, in order.
        broken: What to answer instead of a value, by measurement: a body, or a status.
    """

    def __init__(self, values: Mapping[str, float] = READING) -> None:
        self.values = dict(values)
        self.queries: list[str] = []
        self.broken: dict[str, str | bytes | int] = {}
        self.wait_s = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one query."""
        name = request.query["query"]
        self.queries.append(name)
        await asyncio.sleep(self.wait_s)
        broken = self.broken.get(name)
        if isinstance(broken, int):
            return web.json_response({"status": "error", "error": "too busy"}, status=broken)
        if broken is not None:
            return web.Response(body=broken)
        return web.Response(text=json.dumps(answer(str(self.values[name]))))


class Keda:
    """Calls a scaler as KEDA does."""

    def __init__(self, address: str, metadata: Mapping[str, str] | None = None) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.reference = messages.ScaledObjectRef(
            name="web", namespace="default", scalerMetadata=dict(metadata or {})
        )

    async def call(self, name: str, request: Any, response: Any) -> Any:
        """One answer."""
        return await self._method(self.channel.unary_unary, name, response)(request, timeout=5.0)

    def stream(self, name: str, response: Any) -> Any:
        """Answers as they come."""
        return self._method(self.channel.unary_stream, name, response)(self.reference)

    async def is_active(self) -> bool:
        return bool((await self.call("IsActive", self.reference, messages.IsActiveResponse)).result)

    async def spec(self) -> Any:
        """The one metric that is measured."""
        found = await self.call("GetMetricSpec", self.reference, messages.GetMetricSpecResponse)
        (spec,) = found.metricSpecs
        return spec

    async def metric(self, name: str = "grpo-gym-replicas") -> Any:
        """Its value."""
        request = messages.GetMetricsRequest(scaledObjectRef=self.reference, metricName=name)
        (value,) = (
            await self.call("GetMetrics", request, messages.GetMetricsResponse)
        ).metricValues
        return value

    def _method(self, make: Any, name: str, response: Any) -> Any:
        return make(
            f"/externalscaler.ExternalScaler/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
