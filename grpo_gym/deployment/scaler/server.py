"""KEDA's external scaler over gRPC: five calls, answered from a `ScalingCore`."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from grpo_gym.deployment.scaler import messages
from grpo_gym.deployment.scaler.core import NoAnswerError, ScalingCore
from grpo_gym.settings import ConfigError

METRIC_NAMES = {"replicas": "grpo-gym-replicas", "target": "grpo-gym-load-percent"}
"""What a metric is called, by what KEDA is told."""
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is in use is an error
    ("grpc.max_receive_message_length", 64 * 1024),
)
_MOST_CALLS = 1_000
"""Calls and open streams at a time; KEDA has a few."""
_DRAIN_SECONDS = 2.0


class ScalerServer:
    """Answers KEDA.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, core: ScalingCore) -> None:
        """Choose whose decisions are told."""
        self._core = core
        self._news = asyncio.Condition()
        self._is_over = False
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Args:
            host: Address.
            port: 0: any that is free.

        Raises:
            ConfigError: If that is not possible.
        """
        calls = {
            "IsActive": self._unary(self._is_active),
            "StreamIsActive": self._stream(self._active_states),
            "GetMetricSpec": self._unary(self._metric_spec),
            "GetMetrics": self._unary(self._metrics, messages.GetMetricsRequest),
            "StreamMetricSpec": self._stream(self._metric_specs),
        }
        handler = grpc.method_handlers_generic_handler(messages.SERVICE, calls)
        self._server.add_generic_rpc_handlers((handler,))
        # Ready before there are metrics: KEDA has to learn what will be measured (keda #7729).
        servicer = health.HealthServicer()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {address}: choose an address of this machine with --host, and "
                "a free port with --port"
            ) from None
        await self._server.start()

    async def announce(self) -> None:
        """Tell open streams that there may be a new target."""
        async with self._news:
            self._news.notify_all()

    async def close(self) -> None:
        """End streams, finish calls, and stop listening."""
        self._is_over = True
        await self.announce()
        await self._server.stop(_DRAIN_SECONDS)

    async def _is_active(self, request: Any, context: Any) -> Any:
        # There is always a replica; inactive would be scaled to none.
        return messages.IsActiveResponse(result=True)

    async def _active_states(self) -> AsyncIterator[Any]:
        yield messages.IsActiveResponse(result=True)
        async with self._news:
            await self._news.wait_for(lambda: self._is_over)

    async def _metric_spec(self, request: Any, context: Any) -> Any:
        return self._spec(self._target())

    async def _metric_specs(self) -> AsyncIterator[Any]:
        while not self._is_over:
            told = self._target()
            yield self._spec(told)
            await self._other_target(told)

    async def _other_target(self, told: float) -> None:
        """Wait until there is another target than the one that was told, or none any more."""
        async with self._news:
            await self._news.wait_for(lambda: self._is_over or self._target() != told)

    async def _metrics(self, request: Any, context: Any) -> Any:
        if request.metricName not in ("", self._metric):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"metricName must be {self._metric}, got {request.metricName[:100]!r}",
            )
        try:
            value = self._value()
        except NoAnswerError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        response = messages.GetMetricsResponse()
        response.metricValues.add(
            metricName=self._metric, metricValue=math.ceil(value), metricValueFloat=value
        )
        return response

    def _unary(self, answer: Any, kind: Any = messages.ScaledObjectRef) -> Any:
        async def call(data: bytes, context: Any) -> Any:
            return await answer(await self._request(kind, data, context), context)

        return grpc.unary_unary_rpc_method_handler(call, response_serializer=_bytes)

    def _stream(self, answers: Any) -> Any:
        async def call(data: bytes, context: Any) -> AsyncIterator[Any]:
            await self._request(messages.ScaledObjectRef, data, context)
            async for each in answers():
                yield each

        return grpc.unary_stream_rpc_method_handler(call, response_serializer=_bytes)

    async def _request(self, kind: Any, data: bytes, context: Any) -> Any:
        """A request of this kind; one that is none, or of another deployment, is refused."""
        try:
            request = kind.FromString(data)
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.name}"
            )
        reference = getattr(request, "scaledObjectRef", request)
        ours = self._core.settings
        namespace = reference.namespace or ours.namespace
        deployment = reference.scalerMetadata.get("deployment", ours.deployment)
        # A ScaledObject of another deployment would get the wrong replicas.
        if (namespace, deployment) != (ours.namespace, ours.deployment):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"this scaler is for deployment {ours.deployment} in namespace {ours.namespace}, "
                f"got {deployment[:100]!r} in {namespace[:100]!r}",
            )
        return request

    @property
    def _metric(self) -> str:
        return METRIC_NAMES[self._core.settings.answer]

    def _target(self) -> float:
        """What KEDA divides the metric by."""
        return 1.0 if self._core.settings.answer == "replicas" else self._core.target_percent()

    def _value(self) -> float:
        """The metric.

        Raises:
            NoAnswerError: If there is no safe one.
        """
        if self._core.settings.answer == "replicas":
            return float(self._core.replicas())
        return self._core.load_percent()

    def _spec(self, target: float) -> Any:
        response = messages.GetMetricSpecResponse()
        response.metricSpecs.add(
            metricName=self._metric, targetSize=math.ceil(target), targetSizeFloat=target
        )
        return response


def _bytes(response: Any) -> Any:
    return response.SerializeToString()
