"""What an operator can tell a running service; each returns what /guard or /status then says."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from grpo_gym.deployment.admin.service import RoutesRequests, Service, SwapsPolicy
from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import plain
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.settings import ConfigError, Count, Positive, checked_dataclass, from_mapping

_LAST_TRANSITIONS = 20


class UnsupportedError(LookupError):
    """A command that this service does not have, or an endpoint that it does not have."""


class ConflictError(RuntimeError):
    """A command that the present state does not allow."""


@checked_dataclass
class Reason:
    """Why an operator changes the mode, for the guard's transitions."""

    reason: Annotated[str, Field(min_length=1, max_length=200)] = "by the admin port"


@checked_dataclass
class NewPolicy:
    """The policy to swap in, as the service's command line names it."""

    policy: Annotated[str, Field(min_length=1, max_length=4096)]


@checked_dataclass
class NewEndpoint:
    """An endpoint to add; see `routing.Endpoint`."""

    url: Annotated[str, Field(max_length=2048)]
    weight: Positive = 1.0
    workers: Count = 1
    max_in_flight: Count | None = None


def guard_report(guard: Guard) -> dict[str, Any]:
    """Status and last transitions of a guard, newest last, in JSON types."""
    report: dict[str, Any] = plain(asdict(guard.status()))
    report["transitions"] = plain([asdict(each) for each in guard.transitions[-_LAST_TRANSITIONS:]])
    return report


def promote(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Go up one step.

    Raises:
        ConfigError: If the body cannot be used.
        GuardError: If the guard does not allow it.
    """
    service.guard.promote(from_mapping(Reason, body, "body").reason)
    return guard_report(service.guard)


def to_shadow(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Take all traffic from the policy, at once.

    Raises:
        ConfigError: If the body cannot be used.
    """
    service.guard.set_mode("shadow", from_mapping(Reason, body, "body").reason)
    return guard_report(service.guard)


def swap_policy(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the policy.

    Raises:
        ConfigError: If there is none of that name, or it does not fit; the old one stays.
        CheckpointError: If its file cannot be used; the old one stays.
        UnsupportedError: If the service keeps the policy that it started with.
    """
    if not isinstance(service, SwapsPolicy):
        raise UnsupportedError("this service keeps the policy that it started with")
    policy = from_mapping(NewPolicy, body, "body").policy
    try:
        service.swap_policy(policy)
    except OSError as error:
        raise ConfigError(f"policy must be a file that can be read: {error.strerror}") from None
    return {"policy": service.status().policy}


def add_endpoint(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Add an endpoint.

    Raises:
        ConfigError: If it cannot be used.
        ConflictError: If there is one of that name.
        UnsupportedError: If the service has no endpoints.
    """
    routes = _routes_requests(service)
    new = from_mapping(NewEndpoint, body, "body")
    endpoint = Endpoint.from_url(new.url, new.weight, new.workers, new.max_in_flight)
    if endpoint.name in _names(service):
        raise ConflictError(f"there is an endpoint {endpoint.name!r} already: remove it first")
    routes.add(endpoint)
    return {"endpoints": _names(service)}


def remove_endpoint(service: Service, name: str) -> dict[str, Any]:
    """Remove an endpoint; its requests in flight still finish.

    Raises:
        ConfigError: If the service cannot do without it.
        UnsupportedError: If there is none of that name.
    """
    routes = _routes_requests(service)
    if name not in (names := _names(service)):
        raise UnsupportedError(f"there is no endpoint {name!r}, only {', '.join(names) or 'none'}")
    routes.remove(name)
    return {"endpoints": _names(service)}


def _routes_requests(service: Service) -> RoutesRequests:
    if not isinstance(service, RoutesRequests):
        raise UnsupportedError("this service has no endpoints")
    return service


def _names(service: Service) -> list[str]:
    return [each.name for each in getattr(service.status(), "endpoints", ())]
