"""Names that the picker and Envoy's configuration share.

Source: the Endpoint Picker protocol, gateway-api-inference-extension, docs/proposals/004.
"""

DESTINATION = "x-gateway-destination-endpoint"
"""Header and key of metadata with the pick: "ip:port[,ip:port...]", best first."""
SERVED = "x-gateway-destination-endpoint-served"
"""Key of metadata with the endpoint that served a request."""
SUBSET = "x-gateway-destination-endpoint-subset"
"""Key of metadata with the only endpoints that a request may go to."""
LB_NAMESPACE = "envoy.lb"
SUBSET_HINT_NAMESPACE = "envoy.lb.subset_hint"

PICK_ID = "x-grpo-gym-pick"
"""Header of ext_authz's answer, and key of metadata, with the token of a pick."""
AUTHZ_NAMESPACE = "envoy.filters.http.ext_authz"
"""Metadata that ext_authz fills from headers."""
AUTHZ_PREFIX = "/pick"
"""What ext_authz puts before the path of a request."""
HEALTH_PATH = "/health"
