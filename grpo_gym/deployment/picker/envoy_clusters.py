"""The clusters of the generated Envoy configuration: the backends, and the picker itself."""

from collections.abc import Sequence
from typing import Any

from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.protocol import (
    AUTHZ_NAMESPACE,
    DESTINATION,
    HEALTH_PATH,
    LB_NAMESPACE,
)
from grpo_gym.deployment.routing import Endpoint

Config = dict[str, Any]

POOL = "pool"
"""Cluster of the backends; its weights come by this name."""
GRPC, HTTP = "picker_grpc", "picker_http"
_MANY = 100_000
"""Requests at a time. Envoy's limits are 1,024 requests and 3 retries per cluster, and each open
request of a client is a request to the picker."""
_FAILURES_UNTIL_EJECTION = 3


def pool(picker: PickerConfig, endpoints: Sequence[Endpoint]) -> Config:
    """The cluster of the backends."""
    names = [endpoint.name for endpoint in endpoints]
    cluster: Config = {
        "name": POOL,
        "connect_timeout": "0.250s",
        "circuit_breakers": _unlimited(),
        "load_balancing_policy": _policies(_balancer(picker)),
        # For Envoy's own choices only: override_host goes where the pick says.
        "outlier_detection": {
            "consecutive_5xx": _FAILURES_UNTIL_EJECTION,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "60s",
            "max_ejection_percent": 50,
        },
        # At once: by default an ejection that follows a return within a second waits for its end.
        "common_lb_config": {"update_merge_window": "0s"},
        "track_cluster_stats": {"per_endpoint_stats": True},
    }
    if picker.mode == "weights":
        source = {"path": str(picker.eds_file.absolute())}
        config = {"path_config_source": source, "resource_api_version": "V3"}
        return {**cluster, "type": "EDS", "eds_cluster_config": {"eds_config": config}}
    return {**cluster, "type": "STATIC", "load_assignment": load_assignment(names)}


def _balancer(picker: PickerConfig) -> Config:
    # Two random choices, and not FULL_SCAN: a dead host is the least busy one, and each retry that
    # scans all would choose it again until its ejection.
    least_request = typed("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest")
    fallback = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": least_request,
    }
    if picker.mode == "weights":  # weight / (requests in flight + 1) decides
        return fallback
    namespace = LB_NAMESPACE if picker.mode == "ext_proc" else AUTHZ_NAMESPACE
    # Metadata only: a client could write a header.
    source = {"metadata": {"key": namespace, "path": [{"key": DESTINATION}]}}
    return {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": typed(
            "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
            override_host_sources=[source],
            fallback_policy=_policies(fallback),
        ),
    }


def _policies(extension: Config) -> Config:
    return {"policies": [{"typed_extension_config": extension}]}


def grpc_cluster(picker: PickerConfig) -> Config:
    """The cluster of the picker's gRPC port."""
    http2 = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    return {
        **_picker_cluster(GRPC, picker.host, picker.port, {"grpc_health_check": {}}),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
        },
    }


def http_cluster(picker: PickerConfig) -> Config:
    """The cluster of the picker's HTTP port."""
    check = {"http_health_check": {"path": HEALTH_PATH}}
    return _picker_cluster(HTTP, picker.host, picker.http_port, check)


def _picker_cluster(name: str, host: str, port: int, check: Config) -> Config:
    """A cluster of the one picker, which health checks take out while it hangs or is gone."""
    endpoint = {"endpoint": {"address": address(host, port)}}
    timing = {
        "timeout": "0.500s",
        "interval": "0.500s",
        "no_traffic_interval": "0.500s",
        "no_traffic_healthy_interval": "0.500s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "circuit_breakers": _unlimited(),
        # Without it, Envoy would call a picker that is known to be dead.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [{**timing, **check}],
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def _unlimited() -> Config:
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(names, _MANY)]}


def load_assignment(
    names: Sequence[str],
    weights: Sequence[int] | None = None,
    healthy: Sequence[bool] | None = None,
) -> Config:
    """A ClusterLoadAssignment of these backends, each "ip:port"."""
    rows = []
    for index, name in enumerate(names):
        host, _, port = name.rpartition(":")
        row: Config = {"endpoint": {"address": address(host.strip("[]"), int(port))}}
        if healthy is not None:
            row["health_status"] = "HEALTHY" if healthy[index] else "UNHEALTHY"
        if weights is not None:
            row["load_balancing_weight"] = weights[index]
        rows.append(row)
    return {"cluster_name": POOL, "endpoints": [{"lb_endpoints": rows}]}


def typed(type_name: str, **fields: Any) -> Config:
    """A message in a field of any type."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def address(host: str, port: int) -> Config:
    """A TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def duration(seconds: float) -> str:
    """A duration as Envoy writes it."""
    return f"{seconds:.3f}s"
