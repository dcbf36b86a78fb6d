"""Policy, fallback and guard: in which order the endpoints are tried."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from grpo_gym.deployment.config import GuardConfig
from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import Decision
from grpo_gym.deployment.routing.exploration import Explorer, LoggedChoice
from grpo_gym.deployment.routing.fleet import Fleet
from grpo_gym.deployment.routing.ledger import Ledger
from grpo_gym.deployment.routing.rankers import Ranker
from grpo_gym.deployment.routing.roster import Candidates, Member
from grpo_gym.deployment.routing.tickets import Ticket

ERROR_COST = 7.5
"""What an error costs, in mean service times: 1.5 times the latency scale, as in `flaky`."""


class Choice(NamedTuple):
    """An order of endpoints, best first.

    Attributes:
        order: The endpoints.
        decision: The guard's; None if it was not asked.
        row: What the log of choices will say; None if nothing.
    """

    order: list[Member]
    decision: Decision | None
    row: LoggedChoice | None = None


class Chooser:
    """Asks the policy and the fallback behind the guard. One caller at a time.

    Attributes:
        ranker: The policy.
        guard: The guard.
    """

    def __init__(
        self,
        ranker: Ranker,
        config: GuardConfig,
        clock: Callable[[], float],
        state_path: str | os.PathLike[str] | None,
        explorer: Explorer | None,
    ) -> None:
        """Start the guard, or continue from its saved state; an explorer acts in shadow.

        Raises:
            GuardStateError: As `Guard` does.
        """
        self.ranker = ranker
        self._explorer = explorer
        self._fleet: Fleet
        self._candidates: Candidates
        self._in_flight: Sequence[int] = ()
        self._proposed: list[Member] = []
        self._fallback: list[Member] = []
        self.guard = Guard(
            self._propose, self._fall_back, config, clock=clock, state_path=state_path
        )

    def choose(
        self,
        ledger: Ledger,
        candidates: Candidates,
        in_flight: Sequence[int],
        may_explore: bool,
    ) -> Choice:
        """Order the candidates for the request that has arrived.

        Args:
            ledger: What is known of endpoints.
            candidates: Who may get it.
            in_flight: Requests in flight of each endpoint.
            may_explore: Whether it will go to the first of the order.
        """
        self._fleet, self._candidates, self._in_flight = ledger.fleet, candidates, in_flight
        if candidates.probe is not None:
            self._fall_back(None)
            rest = [member for member in self._fallback if member is not candidates.probe]
            return Choice([candidates.probe, *rest], None)
        if self.ranker.needs_service_time and not ledger.scale.is_known:
            self._fall_back(None)
            return Choice(self._fallback, None)
        observation = ledger.fleet.observe()
        decision = self.guard.act(observation)
        order = self._proposed if decision.source == "policy" else self._fallback
        if self._explorer is None or not may_explore or decision.mode != "shadow":
            return Choice(order, decision)
        preferred, count = candidates.preferred, len(in_flight)
        order, row = self._explorer.draw(order, preferred, count, decision, observation)
        return Choice(order, decision, row)

    def report(self, ticket: Ticket, ok: bool, latency_ms: float, service_ms: float) -> None:
        """Tell guard and policy how a request ended."""
        if ticket.decision is not None:
            outcome = -latency_ms / service_ms - ERROR_COST * (not ok)
            if not ticket.was_drawn:
                self.guard.report(outcome, ticket.decision)
                self._observe_request(ticket, ok, latency_ms)
            if ticket.row is not None and self._explorer is not None:
                self._explorer.write(ticket.row, outcome)
        if ticket.memo is not None:
            ticket.ranker.learn(ticket.memo, ok, latency_ms)

    def report_expired(self, ticket: Ticket) -> None:
        """Tell the guard of a request whose end nobody told."""
        if ticket.decision is not None and not ticket.was_drawn:
            self._observe_request(ticket, False, None)

    def _observe_request(self, ticket: Ticket, ok: bool, latency_ms: float | None) -> None:
        arm = ticket.arm
        if arm == "fallback" or ticket.ranker is self.ranker:  # the policy's own
            self.guard.observe_request(ok, latency_ms, arm)

    def _propose(self, observation: np.ndarray) -> int:
        """The policy's choice.

        Raises:
            ValueError: If a score of a candidate is not a number.
        """
        preferred, others, _ = self._candidates
        allowed = self._fleet.simulator.allowed
        allowed[:] = False
        for member in preferred:
            allowed[member.place] = True
        scores = self.ranker.rank(observation, allowed[: len(self._in_flight)]).tolist()
        if any(math.isnan(scores[member.place]) for member in preferred):
            raise ValueError(f"scores must be numbers, got {scores}")

        def rank(member: Member) -> Any:
            return -scores[member.place], member.last_pick

        self._proposed = sorted(preferred, key=rank) + sorted(others, key=rank)
        return self._proposed[0].place

    def _fall_back(self, observation: np.ndarray | None) -> int:
        """Fewest requests in flight; among equals the endpoint picked least recently."""
        in_flight, (preferred, others, _) = self._in_flight, self._candidates

        def rank(member: Member) -> Any:
            return in_flight[member.place], member.last_pick

        self._fallback = sorted(preferred, key=rank) + sorted(others, key=rank)
        return self._fallback[0].place
