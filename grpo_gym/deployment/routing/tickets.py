"""Requests in flight by token."""

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grpo_gym.deployment.records import Arm, Decision
from grpo_gym.deployment.routing.exploration import LoggedChoice
from grpo_gym.deployment.routing.rankers import Ranker
from grpo_gym.deployment.routing.roster import Member

NO_SLOT = -1
"""Slot of a request whose endpoint was removed."""


@dataclass(slots=True)
class Ticket:
    """A request in flight.

    Attributes:
        member: Where it was sent to.
        slot: Its place in the log, or `NO_SLOT`.
        sent_s: When, by the core's clock.
        in_flight: Requests in flight there, itself included.
        probe: Whether it tries an endpoint that was ejected.
        decision: The guard's; None if the guard was not asked.
        ranker: The policy at that time.
        memo: What the policy wants to learn from.
        row: What the log of choices will say; None if nothing.
    """

    member: Member
    slot: int
    sent_s: float
    in_flight: int
    probe: bool
    decision: Decision | None
    ranker: Ranker
    memo: Any
    row: LoggedChoice | None

    @property
    def was_drawn(self) -> bool:
        """Whether neither policy nor fallback chose, but chance."""
        return self.row is not None and not self.row.is_fallbacks

    @property
    def arm(self) -> Arm:
        """Who chose: without a decision of the guard that was the fallback."""
        return "fallback" if self.decision is None else self.decision.arm


class Tickets:
    """Tickets by token, oldest first."""

    def __init__(self, age_s: float) -> None:
        """Forget what is older than `age_s`."""
        self._age_s = age_s
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        # Another start, so that an outcome for an earlier process finds nothing here; JSON and
        # protobuf's Struct have numbers of 53 bits.
        self._next = secrets.randbits(52)

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets.values())

    def add(self, ticket: Ticket) -> int:
        """Keep a ticket; its token."""
        token = self._next
        self._next += 1
        self._tickets[token] = ticket
        return token

    def pop(self, token: int) -> Ticket | None:
        """Take a ticket; None if it is not here."""
        return self._tickets.pop(token, None)

    def pop_old(self, now_s: float) -> list[Ticket]:
        """Take the tickets that are too old."""
        old = []
        while self._tickets:
            token, ticket = next(iter(self._tickets.items()))
            if now_s - ticket.sent_s < self._age_s:
                break
            del self._tickets[token]
            old.append(ticket)
        return old
