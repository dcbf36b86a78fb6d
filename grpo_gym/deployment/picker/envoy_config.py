"""The Envoy configuration that belongs to a picker, as plain data: `yaml.safe_dump` writes it.

Every part fails open: without an answer of the picker, Envoy's own least request takes over.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig
from grpo_gym.deployment.picker.envoy_clusters import (
    GRPC,
    HTTP,
    POOL,
    Config,
    address,
    duration,
    grpc_cluster,
    http_cluster,
    pool,
    typed,
)
from grpo_gym.deployment.picker.protocol import (
    AUTHZ_PREFIX,
    DESTINATION,
    LB_NAMESPACE,
    PICK_ID,
    SUBSET_HINT_NAMESPACE,
)
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.settings import ConfigError

_CLIENTS = 50_000
"""Connections of clients at a time."""
_RETRIES = 3
_SELECTIONS = 1_000
"""Most draws of a host for one retry: Envoy draws again while the host has been tried, and least
request draws a dead host with a large weight many times in a row."""


def envoy_config(picker: PickerConfig, envoy: EnvoyConfig, endpoints: Sequence[Endpoint]) -> Config:
    """The whole configuration.

    Raises:
        ConfigError: If a backend is no http:// URL of an IP address.
    """
    for endpoint in endpoints:
        check_backend(endpoint)
    picker = envoy.reached(picker)
    clusters = [pool(picker, endpoints), grpc_cluster(picker)]
    if picker.mode == "ext_authz":
        clusters.append(http_cluster(picker))
    return {
        "node": {"id": "grpo-gym", "cluster": "grpo-gym"},
        "admin": {"address": address("127.0.0.1", envoy.envoy_admin_port)},
        "static_resources": {"listeners": [_listener(picker, envoy)], "clusters": clusters},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
    }


def check_backend(endpoint: Endpoint) -> None:
    """Refuse a backend that Envoy could not be sent to.

    Raises:
        ConfigError: If its URL is not http://IP:PORT.
    """
    parts = urlsplit(endpoint.url)
    try:
        ip_address(parts.hostname or "")
    except ValueError:
        raise ConfigError(
            f"backend must be an IP address and a port, got {endpoint.url!r}: Envoy is sent to "
            "addresses, not to names"
        ) from None
    if parts.scheme != "http" or parts.path not in ("", "/"):
        raise ConfigError(
            f"backend must be http://IP:PORT, got {endpoint.url!r}: paths and TLS to backends are "
            "Envoy's matter, add them to its configuration"
        )


def _listener(picker: PickerConfig, envoy: EnvoyConfig) -> Config:
    filters = {"ext_proc": [_ext_proc(envoy)], "ext_authz": [_ext_authz(picker, envoy)]}
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        codec_type="AUTO",
        # Envoy is the edge: x-envoy-* headers of clients must not change its retries and time-outs.
        use_remote_address=True,
        request_headers_timeout="10s",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        route_config={"virtual_hosts": [_virtual_host(envoy)]},
        http_filters=[*filters.get(picker.mode, []), _router(picker)],
    )
    if picker.mode == "ext_authz":
        manager["access_log"] = [_access_log()]
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "clients",
        "address": address(envoy.listen_host, envoy.listen_port),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _virtual_host(envoy: EnvoyConfig) -> Config:
    previous_hosts = typed(
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    )
    route = {
        "cluster": POOL,
        "timeout": duration(envoy.request_timeout_s),
        # A pick that has just died costs a retry on the next in the list, not an error.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": _RETRIES,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.010s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": previous_hosts,
                }
            ],
            "host_selection_retry_max_attempts": _SELECTIONS,
        },
    }
    return {
        "name": "all",
        "domains": ["*"],
        # The pick travels in metadata. A header of that name is a client's, or the picker's copy
        # for other gateways: backends see neither.
        "request_headers_to_remove": [DESTINATION],
        "routes": [{"match": {"prefix": "/"}, "route": route}],
    }


def _ext_proc(envoy: EnvoyConfig) -> Config:
    config = typed(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": GRPC}},
        failure_mode_allow=True,
        message_timeout=duration(envoy.pick_timeout_ms / 1000.0),
        # Trailers keep the stream open until the response ends, which is when the latency is known.
        processing_mode={
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "NONE",
            "response_body_mode": "NONE",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SEND",
        },
        response_attributes=[
            "upstream.address",
            "upstream.request_attempt_count",
            "response.code",
        ],
        # Of a request, the picker sees its length only, and changes nothing but the pick.
        forward_rules={"allowed_headers": {"patterns": [{"exact": "content-length"}]}},
        mutation_rules={
            "disallow_all": True,
            "allow_expression": {"regex": DESTINATION},
        },
        metadata_options={
            "forwarding_namespaces": {"untyped": [SUBSET_HINT_NAMESPACE, LB_NAMESPACE]},
            "receiving_namespaces": {"untyped": [LB_NAMESPACE]},
        },
    )
    return {"name": "envoy.filters.http.ext_proc", "typed_config": config}


def _ext_authz(picker: PickerConfig, envoy: EnvoyConfig) -> Config:
    config = typed(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=True,
        # Of a request, the picker sees its method, path and length: the credentials stay here.
        allowed_headers={"patterns": [{"exact": "content-length"}]},
        disallowed_headers={"patterns": [{"exact": "authorization"}]},
        http_service={
            "server_uri": {
                "uri": f"http://{_written(picker.host)}:{picker.http_port}",
                "cluster": HTTP,
                "timeout": duration(envoy.pick_timeout_ms / 1000.0),
            },
            "path_prefix": AUTHZ_PREFIX,
            "authorization_response": {
                "dynamic_metadata_from_headers": {
                    "patterns": [{"exact": DESTINATION}, {"exact": PICK_ID}]
                }
            },
        },
    )
    return {"name": "envoy.filters.http.ext_authz", "typed_config": config}


def _router(picker: PickerConfig) -> Config:
    config = typed("envoy.extensions.filters.http.router.v3.Router")
    if picker.mode == "weights":  # when each attempt reaches a backend, and how it ends
        config["upstream_log"] = [_access_log()]
        config["upstream_log_options"] = {"flush_upstream_log_on_upstream_stream": True}
    return {"name": "envoy.filters.http.router", "typed_config": config}


def _access_log() -> Config:
    config = typed(
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": "grpo-gym",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": GRPC}},
            # Outcomes come 10 ms late; a message for each would cost a third of the throughput.
            "buffer_flush_interval": "0.010s",
        },
    )
    return {"name": "envoy.access_loggers.http_grpc", "typed_config": config}


def _connection_limit() -> Config:
    config = typed(
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=_CLIENTS,
    )
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"name": name, "typed_config": config}


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host
