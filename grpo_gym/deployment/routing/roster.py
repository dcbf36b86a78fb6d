"""Who may get a request: endpoints with their health, limits, and service times."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.health import Health, most_ejected
from grpo_gym.deployment.routing.records import Endpoint, NoEndpointError
from grpo_gym.deployment.routing.service_time import ServiceTime
from grpo_gym.settings import ConfigError


@dataclass(eq=False)
class Member:
    """An endpoint of the roster.

    Attributes:
        endpoint: Its settings.
        place: Its index.
        health: Whether it may be chosen.
        service: Its service time.
        last_pick: Number of the last pick that chose it.
    """

    endpoint: Endpoint
    place: int
    health: Health
    service: ServiceTime = field(default_factory=ServiceTime)
    last_pick: int = 0


class Candidates(NamedTuple):
    """The endpoints that a request may go to.

    Attributes:
        preferred: Those to choose from: healthy ones, or all if none is.
        others: The rest, for when the preferred ones fail.
        probe: The endpoint that the request should try first, if one waits for a probe.
    """

    preferred: list[Member]
    others: list[Member]
    probe: Member | None


class Roster:
    """The endpoints of a core, in order.

    Attributes:
        members: One for each endpoint.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], config: RoutingConfig, before: "Roster | None" = None
    ) -> None:
        """Take endpoints; those with a name of an earlier roster keep what is known of them.

        Raises:
            ConfigError: If two have one name.
        """
        names = [endpoint.name for endpoint in endpoints]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"endpoint names must differ, got {name!r} twice")
        self._config = config
        self._by_name: dict[str, Member] = {}
        for place, endpoint in enumerate(endpoints):
            known = None if before is None else before.get(endpoint.name)
            health = Health(config) if known is None else known.health
            member = Member(endpoint, place, health)
            if known is not None:
                member.service, member.last_pick = known.service, known.last_pick
            self._by_name[endpoint.name] = member
        self.members = tuple(self._by_name.values())

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints, in order."""
        return tuple(member.endpoint for member in self.members)

    def get(self, name: str) -> Member | None:
        """The endpoint of a name, if there is one."""
        return self._by_name.get(name)

    def pass_time(self, now_s: float) -> list[Member]:
        """End ejections that are over; the endpoints that wait for probes since now."""
        return [member for member in self.members if member.health.pass_time(now_s)]

    def candidates(
        self,
        in_flight: Sequence[int],
        among: Collection[str] | None,
        exclude: Collection[str],
        probe: bool,
    ) -> Candidates:
        """Who may get the next request.

        Args:
            in_flight: Requests in flight of each endpoint.
            among: Names to choose from; None: all.
            exclude: Names not to choose.
            probe: Whether the request may be a probe.

        Raises:
            NoEndpointError: If nobody may.
        """
        preferred, others, probed, saturated = [], [], None, False
        for member in self.members:
            name, limit = member.endpoint.name, member.endpoint.max_in_flight
            if (among is not None and name not in among) or name in exclude:
                continue
            if limit is not None and in_flight[member.place] >= limit:
                saturated = True
                continue
            if member.health.may_be_chosen:
                preferred.append(member)
                continue
            others.append(member)
            if probe and probed is None and member.health.wants_probe:
                probed = member
        if not preferred:
            preferred, others = others, []
        if not preferred:
            raise NoEndpointError(self._nobody(saturated), saturated)
        return Candidates(preferred, others, probed)

    def may_eject(self) -> bool:
        """Whether one more endpoint may be ejected."""
        out = sum(not member.health.may_be_chosen for member in self.members)
        return out < most_ejected(len(self.members), self._config)

    def _nobody(self, saturated: bool) -> str:
        if not self.members:
            return "there are no endpoints: add one"
        if saturated:
            return "all endpoints have max_in_flight requests: try again soon"
        return "no endpoint is left to choose from: the request allows none, or has tried all"
