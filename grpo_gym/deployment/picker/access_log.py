"""Outcomes from Envoy's gRPC access log.

Source: Envoy's als.proto and accesslog.proto.
"""

from collections.abc import AsyncIterator, Callable

import grpc
from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceServicer
from google.protobuf.duration_pb2 import Duration

from grpo_gym.deployment.picker.outcomes import Ending, settle
from grpo_gym.deployment.picker.protocol import AUTHZ_NAMESPACE, DESTINATION, PICK_ID
from grpo_gym.deployment.routing import Pick, RoutingCore

_CLIENT_GONE = ("downstream_connection_termination", "downstream_remote_reset")
_FAILED = (
    "upstream_connection_failure",
    "upstream_connection_termination",
    "upstream_remote_reset",
    "upstream_protocol_error",
    "upstream_request_timeout",
)
"""Flags of an attempt without an answer, or with one that never came to its end."""


class AccessLog(AccessLogServiceServicer):
    """The gRPC service; hands on entry by entry."""

    def __init__(self, receive: Callable[[HTTPAccessLogEntry], None]) -> None:
        self._receive = receive

    async def StreamAccessLogs(  # noqa: N802
        self, messages: AsyncIterator[StreamAccessLogsMessage], context: grpc.aio.ServicerContext
    ) -> StreamAccessLogsResponse:
        """Read until Envoy ends the stream."""
        async for message in messages:
            for entry in message.http_logs.log_entry:
                self._receive(entry)
        return StreamAccessLogsResponse()


class Outcomes:
    """Finishes the picks of `ext_authz`; the metadata of an entry says which pick it was."""

    def __init__(self, core: RoutingCore) -> None:
        self._core = core

    def receive(self, entry: HTTPAccessLogEntry) -> None:
        """Entries without a pick are of requests that Envoy refused or routed by itself."""
        metadata = entry.common_properties.metadata.filter_metadata.get(AUTHZ_NAMESPACE)
        if metadata is None or PICK_ID not in metadata.fields:
            return
        token = metadata.fields[PICK_ID].string_value
        if not token.isdecimal() or len(token) > _TOKEN_DIGITS:
            return
        endpoints = metadata.fields[DESTINATION].string_value.split(",")
        settle(self._core, Pick(tuple(endpoints), int(token)), ending(entry))


_TOKEN_DIGITS = 19


def ending(entry: HTTPAccessLogEntry) -> Ending:
    """How a request, or an attempt, ended."""
    common, flags = entry.common_properties, entry.common_properties.response_flags
    code = entry.response.response_code.value
    if any(getattr(flags, flag) for flag in _CLIENT_GONE):
        code = 0
    elif any(getattr(flags, flag) for flag in _FAILED):
        code = max(code, 502)
    return Ending(
        code,
        endpoint_name(common.upstream_remote_address),
        common.upstream_request_attempt_count,
        _latency_ms(common),
        flags.upstream_connection_failure,
    )


def endpoint_name(address: Address) -> str | None:
    """An address as endpoints are named; None without one."""
    socket = address.socket_address
    if not socket.port_value:
        return None
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _latency_ms(common: AccessLogCommon) -> float | None:
    """From the first byte to the endpoint until its last; a slow client does not count."""
    if not common.HasField("time_to_last_upstream_rx_byte"):
        return None
    begin, end = common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_rx_byte
    return max(_ms(end) - _ms(begin), 0.0)


def _ms(duration: Duration) -> float:
    return 1e3 * float(duration.seconds) + 1e-6 * float(duration.nanos)
