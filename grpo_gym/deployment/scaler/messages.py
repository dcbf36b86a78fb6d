"""Messages of KEDA's external scaler, made from their field numbers: nothing here is generated.

Source: the package `externalscaler` of KEDA (pkg/scalers/externalscaler/externalscaler.proto).
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "externalscaler"
SERVICE = f"{PACKAGE}.ExternalScaler"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "double": _Field.TYPE_DOUBLE,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
}
# The number of a field is its place, from 1. An asterisk: repeated.
_MESSAGES: dict[str, dict[str, str]] = {
    "ScaledObjectRef": {
        "name": "string",
        "namespace": "string",
        "scalerMetadata": "*ScaledObjectRef.ScalerMetadataEntry",  # a map
    },
    "IsActiveResponse": {"result": "bool"},
    "GetMetricSpecResponse": {"metricSpecs": "*MetricSpec"},
    "MetricSpec": {"metricName": "string", "targetSize": "int64", "targetSizeFloat": "double"},
    "GetMetricsRequest": {"scaledObjectRef": "ScaledObjectRef", "metricName": "string"},
    "GetMetricsResponse": {"metricValues": "*MetricValue"},
    "MetricValue": {"metricName": "string", "metricValue": "int64", "metricValueFloat": "double"},
}


def _add_fields(message: descriptor_pb2.DescriptorProto, fields: Mapping[str, str]) -> None:
    for number, (name, kind) in enumerate(fields.items(), 1):
        field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        if kind.startswith("*"):
            field.label = _Field.LABEL_REPEATED
        kind = kind.removeprefix("*")
        field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
        if kind not in _SCALARS:
            field.type_name = f".{PACKAGE}.{kind}"


def _message_types() -> dict[str, Any]:
    """The classes of the messages by name, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="externalscaler.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        _add_fields(message, fields)
        if name == "ScaledObjectRef":
            entry = message.nested_type.add(name="ScalerMetadataEntry")
            entry.options.map_entry = True
            _add_fields(entry, {"key": "string", "value": "string"})
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }


TYPES = _message_types()
ScaledObjectRef: Any = TYPES["ScaledObjectRef"]
IsActiveResponse: Any = TYPES["IsActiveResponse"]
GetMetricSpecResponse: Any = TYPES["GetMetricSpecResponse"]
GetMetricsRequest: Any = TYPES["GetMetricsRequest"]
GetMetricsResponse: Any = TYPES["GetMetricsResponse"]
