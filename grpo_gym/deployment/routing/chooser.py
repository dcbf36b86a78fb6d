"""Policy, fallback and guard: in which order the endpoints are tried."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from grpo_gym.deployment.config import GuardConfig
from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import Decision
from grpo_gym.deployment.routing.fleet import Fleet
from grpo_gym.deployment.routing.ledger import Ledger
from grpo_gym.deployment.routing.rankers import Ranker
from grpo_gym.deployment.routing.roster import Candidates, Member
from grpo_gym.deployment.routing.tickets import Ticket

ERROR_COST = 7.5
"""What an error costs, in mean service times: 1.5 times the latency scale, as in `flaky`."""


class Choice(NamedTuple):
    """An order of endpoints, best first, and the guard's decision, if it was asked."""

    order: list[Member]
    decision: Decision | None


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
    ) -> None:
        """Start the guard, or continue from its saved state.

        Raises:
            GuardStateError: As `Guard` does.
        """
        self.ranker = ranker
        self._fleet: Fleet
        self._candidates: Candidates
        self._in_flight: Sequence[int] = ()
        self._proposed: list[Member] = []
        self._fallback: list[Member] = []
        self.guard = Guard(
            self._propose, self._fall_back, config, clock=clock, state_path=state_path
        )

    def choose(self, ledger: Ledger, candidates: Candidates, in_flight: Sequence[int]) -> Choice:
        """Order the candidates for the request that has arrived.

        Args:
            ledger: What is known of endpoints.
            candidates: Who may get it.
            in_flight: Requests in flight of each endpoint.
        """
        self._fleet, self._candidates, self._in_flight = ledger.fleet, candidates, in_flight
        if candidates.probe is not None:
            self._fall_back(None)
            rest = [member for member in self._fallback if member is not candidates.probe]
            return Choice([candidates.probe, *rest], None)
        if self.ranker.needs_service_time and not ledger.scale.is_known:
            self._fall_back(None)
            return Choice(self._fallback, None)
        decision = self.guard.act(ledger.fleet.observe())
        order = self._proposed if decision.source == "policy" else self._fallback
        return Choice(order, decision)

    def report(self, ticket: Ticket, ok: bool, latency_ms: float, service_ms: float) -> None:
        """Tell guard and policy how a request ended."""
        if ticket.decision is not None:
            outcome = -latency_ms / service_ms - ERROR_COST * (not ok)
            self.guard.report(outcome, ticket.decision)
            self.guard.observe_request(ok, latency_ms, ticket.decision.arm)
        if ticket.memo is not None:
            ticket.ranker.learn(ticket.memo, ok, latency_ms)

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
        """The least requests in flight; of several the one that has waited longest for one."""
        in_flight, (preferred, others, _) = self._in_flight, self._candidates

        def rank(member: Member) -> Any:
            return in_flight[member.place], member.last_pick

        self._fallback = sorted(preferred, key=rank) + sorted(others, key=rank)
        return self._fallback[0].place
