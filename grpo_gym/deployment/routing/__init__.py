"""The routing core: which endpoint gets the next request, behind a guard. Imports no torch."""

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.records import (
    Endpoint,
    EndpointStatus,
    NoEndpointError,
    Observer,
    Pick,
    RoutingStatus,
)

__all__ = [
    "Endpoint",
    "EndpointStatus",
    "NoEndpointError",
    "Observer",
    "Pick",
    "RoutingConfig",
    "RoutingStatus",
]
