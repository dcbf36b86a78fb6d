"""The five calls of KEDA, over a real gRPC connection; and callers that are not KEDA."""

import asyncio
import importlib.util
import math
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc", reason="needs the extra serve")
pytest.importorskip("aiohttp", reason="needs the extra serve")
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from grpo_gym.deployment.scaler import messages
from grpo_gym.deployment.scaler.core import ScalingCore
from grpo_gym.deployment.scaler.server import ScalerServer
from grpo_gym.settings import ConfigError
from scaler_world import READING, Clock, Keda, make_core

Scenario = Callable[[Keda, ScalerServer], Awaitable[None]]


def serve(core: ScalingCore, scenario: Scenario, **keda: Any) -> None:
    """Play a scenario against a server that listens."""

    async def run() -> None:
        server = ScalerServer(core)
        await server.start("127.0.0.1", 0)
        client = Keda(f"127.0.0.1:{server.port}", **keda)
        try:
            await asyncio.wait_for(scenario(client, server), 30.0)
        finally:
            await client.channel.close()
            await server.close()

    asyncio.run(run())


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def test_before_any_metric_keda_learns_what_is_measured_and_gets_no_value() -> None:
    """Without a specification, the HPA would get Kubernetes' own metric, for good (keda #7729)."""

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        spec = await keda.spec()
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (
            "grpo-gym-replicas", 1, 1.0,
        )  # fmt: skip
        assert await keda.is_active()
        code, message = await refused(keda.metric())
        assert code == grpc.StatusCode.UNAVAILABLE
        assert message == "no decision yet: no metrics have been read yet"

    serve(make_core(), scenario)


def test_replicas_are_said_as_an_average_value_of_one() -> None:
    core = make_core()
    core.take({**READING, "cpu_percent": 90.0})

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        for name in ("grpo-gym-replicas", ""):
            value = await keda.metric(name)
            assert (value.metricName, value.metricValue, value.metricValueFloat) == (
                "grpo-gym-replicas", 18, 18.0,
            )  # fmt: skip
        assert math.ceil(value.metricValueFloat / (await keda.spec()).targetSizeFloat) == 18
        code, message = await refused(keda.metric("cpu"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message == "metricName must be grpo-gym-replicas, got 'cpu'"

    serve(core, scenario)


def test_when_the_last_decision_is_too_old_keda_gets_an_error_and_the_specification() -> None:
    """Its fallback counts errors of values only (keda #8056)."""
    clock = Clock()
    core = make_core(clock)
    core.take(READING)

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        clock.now_s += 300.0
        core.fail("cpu_percent: a query must give one series, got 0")
        assert (await keda.metric()).metricValue == 14
        clock.now_s += 100.0
        code, message = await refused(keda.metric())
        assert code == grpc.StatusCode.UNAVAILABLE
        assert message.endswith("400 s ago: cpu_percent: a query must give one series, got 0")
        assert (await keda.spec()).targetSizeFloat == 1.0
        assert await keda.is_active()
        core.take(READING)
        assert (await keda.metric()).metricValue == 14

    serve(core, scenario)


def test_new_targets_are_streamed_and_the_specification_says_the_same() -> None:
    clock = Clock()
    core = make_core(clock, answer="target")

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        stream = keda.stream("StreamMetricSpec", messages.GetMetricSpecResponse)
        assert (await stream.read()).metricSpecs[0].targetSizeFloat == 70.0
        told: list[tuple[float, float]] = []
        for cpu in (70.0, 90.0, 90.0):
            core.take({**READING, "cpu_percent": cpu})
            clock.now_s += 60.0
            await server.announce()
            if cpu not in [each for each, _ in told]:
                (spec,) = (await stream.read()).metricSpecs
                told.append((cpu, spec.targetSizeFloat))
                assert (await keda.spec()).targetSizeFloat == spec.targetSizeFloat
                value = await keda.metric("grpo-gym-load-percent")
                assert value.metricValueFloat == pytest.approx(1_000.0)
                desired = math.ceil(value.metricValueFloat / spec.targetSizeFloat)
                assert desired == core.replicas()
        assert len(told) == 2  # an equal target is not news
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.read(), 0.2)

    serve(core, scenario)


def test_open_streams_end_in_order_when_the_server_stops() -> None:
    async def scenario(keda: Keda, server: ScalerServer) -> None:
        active = keda.stream("StreamIsActive", messages.IsActiveResponse)
        specs = keda.stream("StreamMetricSpec", messages.GetMetricSpecResponse)
        assert (await active.read()).result
        await specs.read()
        await server.close()
        for stream in (active, specs):
            assert await stream.read() == grpc.aio.EOF
            assert await stream.code() == grpc.StatusCode.OK

    serve(make_core(), scenario)


@pytest.mark.parametrize("call", ["IsActive", "GetMetricSpec", "GetMetrics"])
@pytest.mark.parametrize("part", ["namespace", "deployment"])
def test_a_scaled_object_of_another_deployment_is_refused(call: str, part: str) -> None:
    core = make_core()
    core.take(READING)

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        if part == "namespace":
            keda.reference.namespace = "prod"
        calls = {"IsActive": keda.is_active, "GetMetricSpec": keda.spec, "GetMetrics": keda.metric}
        code, message = await refused(calls[call]())
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("this scaler is for deployment web in namespace default, got ")

    serve(core, scenario, metadata={"deployment": "api" if part == "deployment" else "web"})


def test_garbage_is_refused_and_the_server_lives() -> None:
    core = make_core()
    core.take(READING)

    async def scenario(keda: Keda, server: ScalerServer) -> None:
        def raw(method: str, data: bytes) -> Awaitable[Any]:
            call = keda.channel.unary_unary(f"/externalscaler.ExternalScaler/{method}")
            return call(data, timeout=5.0)

        for data in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x00"):
            code, message = await refused(raw("GetMetrics", data))
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert message == "the request is no GetMetricsRequest"
        code, _ = await refused(raw("GetMetrics", b"\x12" + b"\xff" * 100_000))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        code, _ = await refused(raw("GetSecrets", b""))
        assert code == grpc.StatusCode.UNIMPLEMENTED
        for text in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 5_000, b"PRI * HTTP/2.0\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as connection:
                connection.sendall(text)
        assert (await keda.metric()).metricValue == 14

    serve(core, scenario)


def test_kubernetes_may_probe_it_from_the_start() -> None:
    async def scenario(keda: Keda, server: ScalerServer) -> None:
        stub: Any = health_pb2_grpc.HealthStub(keda.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    serve(make_core(), scenario)


def test_a_port_that_is_taken_is_an_error() -> None:
    async def run() -> None:
        first, second = ScalerServer(make_core()), ScalerServer(make_core())
        await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:"):
                await second.start("127.0.0.1", first.port)
        finally:
            await second.close()
            await first.close()

    asyncio.run(run())


def test_messages_are_those_that_a_compiler_makes_of_kedas_field_numbers(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    here = Path(__file__).parent
    status = protoc.main(
        ["protoc", f"-I{here}", f"--python_out={tmp_path}", "externalscaler.proto"]
    )
    assert status == 0
    path = tmp_path / "externalscaler_pb2.py"
    spec = importlib.util.spec_from_file_location("externalscaler_pb2", path)
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    sys.modules.pop("externalscaler_pb2", None)
    spec.loader.exec_module(theirs)
    for name, descriptor in theirs.DESCRIPTOR.message_types_by_name.items():
        ours = messages.TYPES[name].DESCRIPTOR
        assert [
            (field.name, field.number, field.type, field.is_repeated) for field in ours.fields
        ] == [
            (field.name, field.number, field.type, field.is_repeated) for field in descriptor.fields
        ]
    request = messages.GetMetricsRequest(metricName="m")
    request.scaledObjectRef.scalerMetadata["a"] = "b"
    request.scaledObjectRef.namespace = "n"
    assert theirs.GetMetricsRequest.FromString(request.SerializeToString()) == (
        theirs.GetMetricsRequest(
            metricName="m",
            scaledObjectRef=theirs.ScaledObjectRef(namespace="n", scalerMetadata={"a": "b"}),
        )
    )
