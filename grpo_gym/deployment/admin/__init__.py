"""The admin port: metrics, health, status page and commands, on loopback. Needs aiohttp."""

from grpo_gym.deployment.admin.server import AdminServer, start_admin
from grpo_gym.deployment.admin.service import (
    RoutesRequests,
    ScalingStatus,
    Service,
    Status,
    SwapsPolicy,
)

__all__ = [
    "AdminServer",
    "RoutesRequests",
    "ScalingStatus",
    "Service",
    "Status",
    "SwapsPolicy",
    "start_admin",
]
