"""What the admin port asks of the service that it belongs to: the proxy, the picker, the scaler."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import GuardStatus
from grpo_gym.deployment.routing import Endpoint, Observer, RoutingStatus


@dataclass(frozen=True, kw_only=True)
class ScalingStatus:
    """A scaler in figures.

    Attributes:
        policy: The name of its policy.
        guard: The guard in figures.
        decisions: Decisions so far.
        failures: Readings without usable metrics, or without a safe action.
        replicas: The last answer, as a number of replicas; None before the first.
        target: The last answer, as a target of the autoscaler; None if it gives none.
        age_s: Age of the newest metrics; None before the first.
        problem: Why it cannot answer now; None if it can.
    """

    policy: str
    guard: GuardStatus
    decisions: int
    failures: int
    replicas: float | None
    target: float | None
    age_s: float | None
    problem: str | None


Status = RoutingStatus | ScalingStatus


class Service(Protocol):
    """A service with a guard. Its methods are called from other threads than its own."""

    @property
    def guard(self) -> Guard:
        """The guard that operators promote and roll back."""

    def status(self) -> Status:
        """The state in figures; quick, as every scrape and every open page asks for it."""


@runtime_checkable
class SwapsPolicy(Protocol):
    """A service whose policy can be replaced while it runs."""

    def swap_policy(self, policy: str) -> None:
        """Replace the policy.

        Raises:
            ConfigError: If there is none of that name, or it does not fit; the old one stays.
            CheckpointError: If its file cannot be used; the old one stays.
        """


@runtime_checkable
class RoutesRequests(Protocol):
    """A service with endpoints, such as `RoutingCore`.

    Attributes:
        observers: What hears of every request.
    """

    observers: list[Observer]

    def add(self, endpoint: Endpoint) -> None:
        """Add an endpoint.

        Raises:
            ConfigError: If there is one of that name.
        """

    def remove(self, name: str) -> None:
        """Remove an endpoint; requests in flight still finish.

        Raises:
            ConfigError: If there is none of that name.
        """
