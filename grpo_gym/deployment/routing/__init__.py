"""The routing core: which endpoint gets the next request, behind a guard. Imports no torch."""

from grpo_gym.deployment.routing.config import RoutingConfig, routing_guard
from grpo_gym.deployment.routing.core import RoutingCore
from grpo_gym.deployment.routing.records import (
    ChoiceLogStatus,
    Endpoint,
    EndpointStatus,
    Failure,
    NoEndpointError,
    Observer,
    Pick,
    RoutingStatus,
)

__all__ = [
    "ChoiceLogStatus",
    "Endpoint",
    "EndpointStatus",
    "Failure",
    "NoEndpointError",
    "Observer",
    "Pick",
    "RoutingConfig",
    "RoutingCore",
    "RoutingStatus",
    "routing_guard",
]
