"""State of the endpoints and of the requests in flight. It chooses no endpoint.

One caller at a time. Times are seconds by the core's clock; the fleet's are ms since the start.
"""

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.fleet import Fleet, Layout
from grpo_gym.deployment.routing.kernels import ANSWERED, FAILED, REFUSED, TIMED_OUT
from grpo_gym.deployment.routing.records import Failure, NoEndpointError
from grpo_gym.deployment.routing.roster import Member, Roster
from grpo_gym.deployment.routing.scale import Scale
from grpo_gym.deployment.routing.tickets import NO_SLOT, Ticket, Tickets

FAILURES: dict[Failure, int] = {"error": FAILED, "refused": REFUSED, "timeout": TIMED_OUT}
_EXPIRY_S = 1.0
"""Time between looks for tickets that are too old."""


class Ledger:
    """Endpoints, their requests in flight, and what their answers have shown.

    Attributes:
        roster: The endpoints with their health.
        fleet: The same as a policy sees them.
        scale: The units of observations.
        tickets: The requests in flight.
    """

    def __init__(
        self, roster: Roster, layout: Layout, config: RoutingConfig, start_s: float
    ) -> None:
        """Start with nothing in flight."""
        self.roster = roster
        self.scale = Scale(config)
        self.fleet = Fleet(roster.endpoints, layout, config.log_size)
        self.scale.apply(self.fleet)
        self.tickets = Tickets(config.token_age_s)
        self._start_s = start_s
        self._next_expiry_s = start_s
        self._most_in_flight = config.log_size // 2

    def milliseconds(self, now_s: float) -> float:
        """A time as the fleet counts it."""
        return 1_000.0 * (now_s - self._start_s)

    def pass_time(self, now_s: float) -> list[Ticket]:
        """End ejections; forget requests that are too old, and return them."""
        for member in self.roster.pass_time(now_s):
            self.fleet.forget_answers(member.place)
        if now_s < self._next_expiry_s:
            return []
        self._next_expiry_s = now_s + _EXPIRY_S
        old = self.tickets.pop_old(now_s)
        for ticket in old:
            ticket.member.health.probes -= ticket.probe
            if ticket.slot != NO_SLOT:
                # Its latency is not known, as with a refusal.
                now_ms, age_ms = self.milliseconds(now_s), 1_000.0 * (now_s - ticket.sent_s)
                self.fleet.answer(ticket.slot, now_ms, age_ms, REFUSED)
        return old

    def make_room(self) -> bool:
        """See to it that another request can be sent; return whether others have moved in the log.

        Raises:
            NoEndpointError: If too many are in flight.
        """
        if len(self.tickets) >= self._most_in_flight:
            raise NoEndpointError("log_size / 2 requests are in flight: try again soon", True)
        if not self.fleet.is_full:
            return False
        moves = self.fleet.compact().tolist()
        for ticket in self.tickets:
            if ticket.slot != NO_SLOT:
                ticket.slot = moves[ticket.slot]
        return True

    def withdraw(self, ticket: Ticket, now_s: float, waited_ms: float | None = None) -> None:
        """Remove a cancelled request; `waited_ms` is a lower bound of its latency."""
        ticket.member.health.probes -= ticket.probe
        if ticket.slot != NO_SLOT:
            self.fleet.withdraw(ticket.slot, self.milliseconds(now_s), float(waited_ms or 0.0))

    def finish(
        self,
        ticket: Ticket,
        ok: bool,
        latency_ms: float,
        endpoint: str | None,
        failure: Failure | None,
        now_s: float,
    ) -> None:
        """Note how a request ended, and what that shows of endpoints; see `RoutingCore.finish`."""
        served = self._served(ticket, endpoint, now_s)
        if served is None:
            return
        end = ANSWERED
        if not ok:
            quick = latency_ms < self.scale.service_ms
            end = FAILURES[failure or ("refused" if quick else "error")]
        self.fleet.answer(ticket.slot, self.milliseconds(now_s), latency_ms, end)
        self._observe_health(served, ticket, ok, now_s)
        if ok and served is ticket.member:
            served.service.observe(latency_ms, ticket.in_flight, served.endpoint.workers)
            self.scale.update((each.service for each in self.roster.members), self.fleet)

    def change(self, roster: Roster, layout: Layout) -> Fleet:
        """The fleet for other endpoints, or another observation; `take` puts it in place."""
        if roster is self.roster and layout == self.fleet.layout:
            return self.fleet
        return self.fleet.rebuilt(roster.endpoints, layout)

    def take(self, roster: Roster, fleet: Fleet) -> None:
        """Go on with what `change` made; requests at endpoints that are gone may still end."""
        for ticket in self.tickets:
            stays = roster.get(ticket.member.endpoint.name)
            if stays is None:
                ticket.slot, ticket.probe = NO_SLOT, False
            else:
                ticket.member = stays
        self.roster, self.fleet = roster, fleet

    def _served(self, ticket: Ticket, name: str | None, now_s: float) -> Member | None:
        """Who served a request, if still here; another than was picked has it now."""
        if name is None or name == ticket.member.endpoint.name:
            return ticket.member if ticket.slot != NO_SLOT else None
        other = self.roster.get(name)
        if ticket.slot == NO_SLOT or other is None:
            self.withdraw(ticket, now_s)
            return None
        self._observe_health(ticket.member, ticket, False, now_s)
        ticket.probe = False
        self.fleet.redirect(ticket.slot, other.place, self.milliseconds(now_s))
        return other

    def _observe_health(self, member: Member, ticket: Ticket, ok: bool, now_s: float) -> None:
        member.health.probes -= ticket.probe
        member.health.observe(ok, ticket.probe, now_s, self.roster.may_eject())
