"""What the Endpoint Picker protocol asks beyond a pick: candidates, bodies, and who served."""

import asyncio
import urllib.request
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

import grpc
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import ExternalProcessorStub
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from envoy_bench import load
from grpo_gym.deployment.picker.external_processor import Exchange
from grpo_gym.deployment.routing import Endpoint, RoutingCore
from picker_bench import Start

_DESTINATION = "x-gateway-destination-endpoint"
_FIRST, _SECOND = "127.0.0.1:9001", "127.0.0.1:9002"


@pytest.fixture
def core() -> RoutingCore:
    """A core of two endpoints, which no test asks for an answer."""
    return RoutingCore([Endpoint.from_url(f"http://{name}") for name in (_FIRST, _SECOND)])


def _answer(exchange: Exchange, **message: Any) -> dict[str, Any]:
    request = ParseDict(message, ProcessingRequest())
    return MessageToDict(exchange.answer(request), preserving_proto_field_name=True)


def test_a_pick_is_in_metadata_and_in_a_header_that_overwrites(core: RoutingCore) -> None:
    answer = _answer(Exchange(core), request_headers={})

    expected = f"{_FIRST},{_SECOND}"
    assert answer["dynamic_metadata"] == {"envoy.lb": {_DESTINATION: expected}}
    (header,) = answer["request_headers"]["response"]["header_mutation"]["set_headers"]
    assert header["header"]["key"] == _DESTINATION
    assert header["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_the_served_endpoint_comes_from_the_protocol_s_metadata(core: RoutingCore) -> None:
    exchange = Exchange(core)
    _answer(exchange, request_headers={})
    served = {"envoy.lb": {f"{_DESTINATION}-served": _SECOND}}
    attributes = {"envoy.filters.http.ext_proc": {"upstream.request_attempt_count": 2}}
    status = {"headers": {"headers": [{"key": ":status", "raw_value": "MjAw"}]}}  # 200

    _answer(
        exchange,
        response_headers=status,
        metadata_context={"filter_metadata": served},
        attributes=attributes,
    )
    exchange.close()

    first, second = core.status().endpoints
    assert first.error_rate > 0.0 and first.latency_ms is None
    assert second.error_rate == 0.0 and second.latency_ms is not None
    assert first.in_flight == second.in_flight == 0


@pytest.mark.parametrize("length", ["0", "-5", "abc", "9" * 400, "\u0664"])
def test_odd_lengths_are_no_sizes(core: RoutingCore, length: str) -> None:
    request = ProcessingRequest()
    header = request.request_headers.headers.headers.add(key="content-length")
    header.raw_value = length.encode()

    assert Exchange(core).answer(request).HasField("request_headers")


def test_a_stream_carries_one_request(core: RoutingCore) -> None:
    exchange = Exchange(core)
    _answer(exchange, request_headers={})

    with pytest.raises(ValueError, match="one request"):
        _answer(exchange, request_headers={})
    with pytest.raises(ValueError, match="no part"):
        _answer(exchange)
    exchange.close()
    assert core.status().endpoints[0].in_flight == 0


@pytest.mark.parametrize("as_list", [True, False])
def test_picks_stay_among_the_gateway_s_candidates(start: Start, as_list: bool) -> None:
    bench = start(change=lambda config: _allow(config, [2, 0], as_list))
    allowed = [bench.backends[2].name, bench.backends[0].name]

    answers = load(bench.envoy.url, 40)

    assert answers.statuses == {200: 40}
    assert set(answers.served_by) == set(allowed)
    bench.assert_no_failures()


def test_candidates_that_nobody_knows_are_answered_with_503(start: Start) -> None:
    bench = start(change=lambda config: _allow(config, [], True))

    assert load(bench.envoy.url, 4).statuses == {503: 4}
    assert bench.envoy.stat("ext_proc.failure_mode_allowed") == 0


def test_bodies_pass_through_where_a_gateway_streams_them(start: Start) -> None:
    bench = start(change=_stream_bodies)
    body = bytes(range(256)) * 10_000

    with urllib.request.urlopen(urllib.request.Request(bench.envoy.url, data=body)) as answer:
        assert answer.read() == b"ab"
    answers = load(bench.envoy.url, 40)

    assert answers.statuses == {200: 40}
    assert Counter(answers.served_by) == Counter(bench.seen.picked[1:])
    assert sum(each.received for each in bench.backends) == len(body)
    bench.wait_until_idle()
    bench.assert_no_failures()


def test_health_and_garbage_messages(start: Start) -> None:
    bench = start()
    with grpc.insecure_channel(f"127.0.0.1:{bench.server.port}") as channel:
        for service in ("", "envoy.service.ext_proc.v3.ExternalProcessor"):
            check = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5)
            assert check.status == HealthCheckResponse.SERVING
        for path in ("ext_proc.v3.ExternalProcessor/Process", "accesslog.v3.Nothing/Nothing"):
            for garbage in (b"\xff" * 1_000, b"", b"\x12\xff\xff\xff\xff\x0f"):
                call = channel.stream_stream(f"/envoy.service.{path}")
                with pytest.raises(grpc.RpcError):
                    list(call(iter([garbage]), timeout=5))
        answers = ExternalProcessorStub(channel).Process(iter([ProcessingRequest()]), timeout=5)
        with pytest.raises(grpc.RpcError):
            list(answers)

    assert load(bench.envoy.url, 20).statuses == {200: 20}
    bench.assert_no_failures()


def test_a_picker_that_goes_away_says_so_first(start: Start) -> None:
    bench = start(drain_s=2.0)
    closing = asyncio.run_coroutine_threadsafe(bench.server.close(), bench.loop.loop)

    with grpc.insecure_channel(f"127.0.0.1:{bench.server.port}") as channel:
        check = HealthStub(channel).Check(HealthCheckRequest(), timeout=5)
    answers = load(bench.envoy.url, 300)
    closing.result(10)

    assert check.status == HealthCheckResponse.NOT_SERVING
    assert answers.statuses == {200: 300}
    assert bench.envoy.stat("ext_proc.message_timeouts") == 0


def _filters(config: dict[str, Any]) -> list[dict[str, Any]]:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    found: list[dict[str, Any]] = chain["filters"][0]["typed_config"]["http_filters"]
    return found


def _allow(config: dict[str, Any], indices: list[int], as_list: bool) -> None:
    """Put a filter before the picker that allows some endpoints only."""
    assignment = config["static_resources"]["clusters"][0]["load_assignment"]
    rows = assignment["endpoints"][0]["lb_endpoints"]
    addresses = [rows[index]["endpoint"]["address"]["socket_address"] for index in indices]
    names = [f"{each['address']}:{each['port_value']}" for each in addresses] or ["10.9.8.7:1"]
    value = {f"{_DESTINATION}-subset": names if as_list else ",".join(names)}
    metadata = {"metadata_namespace": "envoy.lb.subset_hint", "value": value}
    settings = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
        "metadata": [metadata],
    }
    hint = {"name": "envoy.filters.http.set_metadata", "typed_config": settings}
    _filters(config).insert(0, hint)


def _stream_bodies(config: dict[str, Any]) -> None:
    """Send bodies to the picker, as gateways do whose pickers read models' names from them."""
    _filters(config)[0]["typed_config"]["processing_mode"].update(
        request_body_mode="FULL_DUPLEX_STREAMED",
        response_body_mode="FULL_DUPLEX_STREAMED",
        request_trailer_mode="SEND",
    )
