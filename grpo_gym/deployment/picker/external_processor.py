"""The Endpoint Picker protocol: a stream of `ext_proc` for each request.

Source: gateway-api-inference-extension, docs/proposals/004; Envoy's external_processor.proto.
"""

from collections.abc import AsyncIterator, Collection

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HttpBody,
    HttpHeaders,
    ImmediateResponse,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import ExternalProcessorServicer
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.struct_pb2 import Struct, Value

from grpo_gym.deployment.picker.outcomes import Ending, settle
from grpo_gym.deployment.picker.protocol import (
    DESTINATION,
    LB_NAMESPACE,
    SERVED,
    SUBSET,
    SUBSET_HINT_NAMESPACE,
)
from grpo_gym.deployment.routing import NoEndpointError, Pick, RoutingCore

_PROCEED = ProcessingResponse(response_headers=HeadersResponse())
_TRAILERS = {
    "request_trailers": ProcessingResponse(request_trailers=TrailersResponse()),
    "response_trailers": ProcessingResponse(response_trailers=TrailersResponse()),
}

_DIGITS = 18
"""Longest length of a body that is one, written out."""


class EndpointPicker(ExternalProcessorServicer):
    """The gRPC service; each stream is one request of a client."""

    def __init__(self, core: RoutingCore) -> None:
        self._core = core

    async def Process(  # noqa: N802
        self, requests: AsyncIterator[ProcessingRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ProcessingResponse]:
        """Answer each message of one stream, and count the request as over when it ends."""
        exchange = Exchange(self._core)
        try:
            async for request in requests:
                yield exchange.answer(request)
        finally:
            exchange.close()


class Exchange:
    """One request: its pick, and how it ended."""

    def __init__(self, core: RoutingCore) -> None:
        self._core = core
        self._pick: Pick | None = None
        self._ending: Ending | None = None
        self._echoes_bodies = False

    def answer(self, request: ProcessingRequest) -> ProcessingResponse:
        """The answer to one message; Envoy waits for one to each."""
        kind = request.WhichOneof("request")
        if request.HasField("protocol_config"):
            mode = request.protocol_config.request_body_mode
            self._echoes_bodies = mode == ProcessingMode.FULL_DUPLEX_STREAMED
        if kind == "request_headers":
            return self._choose(request)
        if kind == "response_headers":
            self._ending = _ending(request)
            return _PROCEED
        if kind == "request_body":
            return ProcessingResponse(request_body=self._body(request.request_body))
        if kind == "response_body":
            return ProcessingResponse(response_body=self._body(request.response_body))
        if kind in _TRAILERS:
            return _TRAILERS[kind]
        raise ValueError("the message has no part that the picker knows")

    def close(self) -> None:
        """Tell the core how the request ended.

        Whether Envoy closed the stream or cancelled it says nothing, so only the response's
        headers count: without them, the client went away.
        """
        if self._pick is None:
            return
        pick, self._pick = self._pick, None
        if self._ending is None:
            self._core.cancel(pick.token)
        else:
            settle(self._core, pick, self._ending)

    def _choose(self, request: ProcessingRequest) -> ProcessingResponse:
        if self._pick is not None:
            raise ValueError("a stream must carry one request")
        size = _content_length(request.request_headers)
        try:
            self._pick = self._core.pick(size=size, among=_candidates(request))
        except NoEndpointError as error:
            status = HttpStatus(code=429 if error.saturated else 503)
            answer = ImmediateResponse(status=status, details="grpo_gym_no_endpoint")
            return ProcessingResponse(immediate_response=answer)
        return _destination(",".join(self._pick.endpoints))

    def _body(self, body: HttpBody) -> BodyResponse:
        if not self._echoes_bodies:
            return BodyResponse()
        # In this mode Envoy forgets what it sent: only what comes back reaches the other side.
        streamed = StreamedBodyResponse(body=body.body, end_of_stream=body.end_of_stream)
        mutation = BodyMutation(streamed_response=streamed)
        return BodyResponse(response=CommonResponse(body_mutation=mutation))


def _destination(endpoints: str) -> ProcessingResponse:
    """The pick, in metadata for Envoy, and in the header that other gateways read."""
    # The header replaces one that a client may have sent.
    option = HeaderValueOption(
        header=HeaderValue(key=DESTINATION, raw_value=endpoints.encode()),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    mutation = HeaderMutation(set_headers=[option])
    pick = Struct(fields={DESTINATION: Value(string_value=endpoints)})
    return ProcessingResponse(
        request_headers=HeadersResponse(response=CommonResponse(header_mutation=mutation)),
        dynamic_metadata=Struct(fields={LB_NAMESPACE: Value(struct_value=pick)}),
    )


def _candidates(request: ProcessingRequest) -> Collection[str] | None:
    """The endpoints that the gateway allows; None: all."""
    hint = request.metadata_context.filter_metadata.get(SUBSET_HINT_NAMESPACE)
    value = None if hint is None else hint.fields.get(SUBSET)
    if value is None:
        return None
    listed = [each.string_value for each in value.list_value.values] or [value.string_value]
    return [each.strip() for text in listed for each in text.split(",") if each.strip()]


def _ending(request: ProcessingRequest) -> Ending:
    """What the headers of a response, and Envoy's attributes, say."""
    attributes: dict[str, Value] = {}
    for each in request.attributes.values():
        attributes.update(each.fields)
    served = _text(attributes.get("upstream.address"))
    metadata = request.metadata_context.filter_metadata.get(LB_NAMESPACE)
    if metadata is not None:
        served = _text(metadata.fields.get(SERVED)) or served
    code = attributes.get("response.code")
    attempts = attributes.get("upstream.request_attempt_count")
    return Ending(
        code=int(code.number_value) if code is not None else _status(request.response_headers),
        served=served,
        attempts=int(attempts.number_value) if attempts is not None else 1,
    )


def _text(value: Value | None) -> str | None:
    return value.string_value or None if value is not None else None


def _status(message: HttpHeaders) -> int:
    return int(_header(message, ":status") or 200)


def _content_length(message: HttpHeaders) -> float | None:
    text = _header(message, "content-length")
    return (float(text) or None) if text.isdecimal() and len(text) <= _DIGITS else None


def _header(message: HttpHeaders, name: str) -> str:
    for header in message.headers.headers:
        if header.key == name:
            return header.raw_value.decode("latin-1") or str(header.value)
    return ""
