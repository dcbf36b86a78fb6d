"""The routing core: which endpoint gets the next request. See docs/how_to/routing.md.

A request is picked for, sent, and finished or cancelled:

    with RoutingCore([Endpoint.from_url("http://127.0.0.1:9001"), ...]) as core:
        pick = core.pick()
        ...  # send the request to pick.endpoints[0]
        core.finish(pick.token, ok=True)
"""

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager

from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.routing.chooser import Chooser
from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.exploration import explorer_of
from grpo_gym.deployment.routing.figures import endpoint_figures
from grpo_gym.deployment.routing.ledger import FAILURES, Ledger
from grpo_gym.deployment.routing.online_file import OnlineFile
from grpo_gym.deployment.routing.policies import PRETRAINED, depends_on_weights, observes_weights
from grpo_gym.deployment.routing.rankers import Ranker
from grpo_gym.deployment.routing.records import (
    Endpoint,
    Failure,
    NoEndpointError,
    Observer,
    Pick,
    RoutingStatus,
)
from grpo_gym.deployment.routing.roster import Member, Roster
from grpo_gym.deployment.routing.tickets import Ticket
from grpo_gym.settings import ConfigError, suggest


class RoutingCore(AbstractContextManager["RoutingCore"]):
    """Chooses endpoints for requests, and learns from their answers. Thread-safe.

    Attributes:
        config: Its settings.
        observers: Hear of every request.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        policy: str | Ranker = PRETRAINED,
        config: RoutingConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        guard_clock: Callable[[], float] = time.time,
        state_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start with nothing in flight, or with the guard and the weights of an earlier process.

        Args:
            endpoints: Where requests can go; more may come and go while running.
            policy: See `make_ranker`, or a ranker of your own.
            config: Settings; None: the defaults.
            clock: Returns seconds that never go back.
            guard_clock: Of the guard; must continue across restarts.
            state_path: File of the guard's state; beside it, with the suffix ".online", lie the
                weights of the policy "online". None: nothing is kept.

        Raises:
            ConfigError: If an argument cannot be used, or the log of choices cannot be written.
            CheckpointError: If the policy's file cannot be.
            GuardStateError: If the saved state cannot be.
        """
        self.config = RoutingConfig() if config is None else config
        self.observers: list[Observer] = []
        self._lock = threading.RLock()
        self._clock = clock
        start_s = clock()
        self._online = OnlineFile(state_path, start_s)
        roster = Roster(tuple(endpoints), self.config)
        ranker = self._online.make_ranker(policy, roster.endpoints, self.config)
        ranker.check(len(roster.members))
        self._ledger = Ledger(roster, ranker.layout, self.config, start_s)
        self._ledger.fleet.warm_up()
        ranker.bind(self._ledger.fleet)
        self._policy = policy if isinstance(policy, str) else type(policy).__name__
        self._picks = self._finished = self._errors = 0
        self._cancelled = self._expired = self._unknown = 0
        # Last, because they own files.
        self._explorer = explorer_of(self.config)
        try:
            self._chooser = Chooser(
                ranker, self.config.guard, guard_clock, state_path, self._explorer
            )
        except BaseException:
            self._close_log()
            raise

    @property
    def guard(self) -> Guard:
        """Decides when the policy may act."""
        return self._chooser.guard

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints now, in the order in which they came."""
        return self._ledger.roster.endpoints

    # Requests

    def pick(
        self,
        *,
        size: float | None = None,
        among: Collection[str] | None = None,
        exclude: Collection[str] = (),
        probe: bool = True,
        at: str | None = None,
    ) -> Pick:
        """Choose an endpoint for a request; from now on it counts as in flight there.

        Args:
            size: Its size, if `observe_sizes`; None: a mean size.
            among: Names of endpoints to choose from; None: all.
            exclude: Names not to choose, such as those that a retry has tried.
            probe: Whether it may go to an endpoint that was ejected, to see whether it is well
                again. Say no for a request that could not be sent again.
            at: The endpoint that somebody else has sent it to already, where it counts as in
                flight; the pick says where it would have gone.

        Raises:
            NoEndpointError: If no endpoint can take it, or there is none of the name `at`.
            ValueError: If the size is not finite and above 0.
        """
        if size is not None and not 0.0 < size < math.inf:
            raise ValueError(f"size must be finite and > 0, or None, got {size!r}")
        with self._lock:
            now_s, ledger, ranker = self._pass_time(), self._ledger, self._chooser.ranker
            in_flight = ledger.fleet.in_flight()
            there = None if at is None else ledger.roster.get(at)
            if at is not None and there is None:
                raise NoEndpointError(f"there is no endpoint {at!r}", False)
            may_probe = probe and there is None
            candidates = ledger.roster.candidates(in_flight, among, exclude, may_probe)
            if ledger.make_room():
                ranker.log_moved()
            ledger.fleet.arrive(ledger.milliseconds(now_s), ledger.scale.size_ms(size))
            choice = self._chooser.choose(ledger, candidates, in_flight, there is None)
            chosen = there or choice.order[0]
            is_probe = chosen is candidates.probe if there is None else there.health.wants_probe
            chosen.health.probes += is_probe
            self._picks += 1
            chosen.last_pick = self._picks
            ticket = Ticket(
                member=chosen,
                slot=ledger.fleet.send(chosen.place),
                sent_s=now_s,
                in_flight=in_flight[chosen.place] + 1,
                probe=is_probe,
                decision=choice.decision,
                ranker=ranker,
                memo=None if choice.decision is None else ranker.sent(chosen.place),
                row=choice.row,
            )
            token = ledger.tickets.add(ticket)
            names = tuple([member.endpoint.name for member in choice.order])
        for observer in self.observers:
            observer.on_pick(chosen.endpoint.name, ticket.arm)
        return Pick(names, token)

    def finish(
        self,
        token: int,
        ok: bool,
        latency_ms: float | None = None,
        endpoint: str | None = None,
        failure: Failure | None = None,
    ) -> bool:
        """Note how a request ended.

        Args:
            token: Of its pick.
            ok: Whether it was answered well.
            latency_ms: How long that took; None: the time since the pick.
            endpoint: Who served it, if not the first of the pick, which then counts as having
                failed.
            failure: How it failed. None: "refused" if it took less than a mean service time, else
                "error". What was refused says nothing about latency; a "timeout" says nothing about
                the time of one service.

        Returns:
            Whether the token was known.

        Raises:
            ValueError: If the latency is not finite and >= 0, or the failure is unknown.
        """
        if latency_ms is not None and not 0.0 <= latency_ms < math.inf:
            raise ValueError(f"latency_ms must be finite and >= 0, or None, got {latency_ms!r}")
        if failure is not None and failure not in FAILURES:
            raise ValueError(f"failure must be one of {', '.join(FAILURES)}, got {failure!r}")
        with self._lock:
            ticket = self._ledger.tickets.pop(token)
            if ticket is None:
                self._unknown += 1
                return False
            now_s = self._clock()
            if latency_ms is None:
                latency_ms = max(0.0, 1_000.0 * (now_s - ticket.sent_s))
            self._finished += 1
            self._errors += not ok
            name = ticket.member.endpoint.name if endpoint is None else endpoint
            self._ledger.finish(ticket, ok, latency_ms, endpoint, failure, now_s)
            self._chooser.report(ticket, ok, latency_ms, self._ledger.scale.service_ms)
        for observer in self.observers:
            observer.on_finish(name, ticket.arm, ok, latency_ms)
        return True

    def cancel(self, token: int, waited_ms: float | None = None) -> bool:
        """Note that a client went away: the request is no longer in flight.

        Args:
            token: Of its pick.
            waited_ms: How long the endpoint had not even begun to answer, the client's own delays
                left out: it raises the endpoint's average latency if it is longer than that. None:
                the request teaches nothing.

        Returns:
            Whether the token was known.

        Raises:
            ValueError: If the time is not finite and >= 0.
        """
        if waited_ms is not None and not 0.0 <= waited_ms < math.inf:
            raise ValueError(f"waited_ms must be finite and >= 0, or None, got {waited_ms!r}")
        with self._lock:
            ticket = self._ledger.tickets.pop(token)
            if ticket is None:
                self._unknown += 1
                return False
            self._cancelled += 1
            self._ledger.withdraw(ticket, self._clock(), waited_ms)
            self._tell_of_cancelled(ticket)
        return True

    # Endpoints and policies

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Route to these endpoints from now on; those that stay keep what is known of them.

        Requests in flight at others still finish.

        Raises:
            ConfigError: If two have one name, or the policy cannot choose among them; then nothing
                changes.
        """
        with self._lock:
            roster = Roster(tuple(endpoints), self.config, self._ledger.roster)
            ranker = self._chooser.ranker
            if depends_on_weights(self._policy) and ranker.layout.weights != observes_weights(
                roster.endpoints, self.config
            ):
                ranker = self._online.make_ranker(self._policy, roster.endpoints, self.config)
            self._use(roster, ranker)

    def add(self, endpoint: Endpoint) -> None:
        """Route to one more endpoint; one of the same name is replaced, and keeps its averages.

        Raises:
            ConfigError: As `set_endpoints`.
        """
        with self._lock:
            kept = [each for each in self._ledger.roster.endpoints if each.name != endpoint.name]
            self.set_endpoints([*kept, endpoint])

    def remove(self, name: str) -> None:
        """Route to an endpoint no more; what is in flight there still finishes.

        Raises:
            ConfigError: If there is none of this name, or as `set_endpoints`.
        """
        with self._lock:
            self._known(name)
            self.set_endpoints(
                [each for each in self._ledger.roster.endpoints if each.name != name]
            )

    def swap_policy(self, policy: str | Ranker) -> None:
        """Let another policy act from the next request on, in the guard's present mode.

        The guard forgets what it has observed of the old one.

        Raises:
            ConfigError: If there is no such policy, or it does not fit; the old one stays.
            CheckpointError: If its file cannot be used; the old one stays.
        """
        with self._lock:
            endpoints = self._ledger.roster.endpoints
        # Reads a file, while requests go on.
        ranker = self._online.make_ranker(policy, endpoints, self.config)
        with self._lock:
            self._online.save(self._chooser.ranker)
            self._use(self._ledger.roster, ranker)
            self._policy = policy if isinstance(policy, str) else type(policy).__name__
            self.guard.restart(f"the policy is {self._policy} now")

    def set_health(self, name: str, healthy: bool) -> None:
        """Take over the result of an active health check.

        An endpoint that is not healthy gets no requests, unless none is. A good check of one that
        is ejected ends its ejection: single requests try it.

        Raises:
            ConfigError: If there is no endpoint of this name.
        """
        with self._lock:
            member = self._known(name)
            if member.health.report(healthy):
                self._ledger.fleet.forget_answers(member.place)

    def status(self) -> RoutingStatus:
        """Everything in figures."""
        with self._lock:
            ledger, guard = self._ledger, self.guard.status()
            now_ms = ledger.milliseconds(self._pass_time())
            return RoutingStatus(
                policy=self._policy,
                mode=guard.mode,
                percentage=guard.percentage,
                guard=guard,
                picks=self._picks,
                finished=self._finished,
                errors=self._errors,
                cancelled=self._cancelled,
                expired=self._expired,
                unknown_tokens=self._unknown,
                service_ms=ledger.scale.service_ms if ledger.scale.is_known else None,
                endpoints=endpoint_figures(ledger.roster, ledger.fleet, now_ms),
                choice_log=None if self._explorer is None else self._explorer.status(),
            )

    def save(self) -> None:
        """Save the guard's state and what the policy "online" has learnt, if there is a file.

        Raises:
            GuardError: If the state cannot be saved.
            CheckpointError: If the weights cannot be.
        """
        with self._lock:
            self._online.save(self._chooser.ranker)
            if self._online.path is not None:
                self.guard.save()

    def close(self) -> None:
        """Save, and let another process have the files. Idempotent."""
        with self._lock:
            try:
                self._online.save(self._chooser.ranker)
            finally:
                self._close_log()
                self.guard.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    # Internals, with the lock held

    def _pass_time(self) -> float:
        """Read the clock, and do what is due; the time in seconds."""
        now_s = self._clock()
        for ticket in self._ledger.pass_time(now_s):
            self._expired += 1
            self._chooser.report_expired(ticket)
            self._tell_of_cancelled(ticket)
        self._online.save_if_due(self._chooser.ranker, now_s)
        return now_s

    def _tell_of_cancelled(self, ticket: Ticket) -> None:
        for observer in self.observers:
            observer.on_cancel(ticket.member.endpoint.name, ticket.arm)

    def _use(self, roster: Roster, ranker: Ranker) -> None:
        """Go on with other endpoints or another policy, or raise ConfigError and change nothing."""
        ranker.check(len(roster.members))
        fleet = self._ledger.change(roster, ranker.layout)
        ranker.bind(fleet)
        self._ledger.take(roster, fleet)
        self._chooser.ranker = ranker

    def _known(self, name: str) -> Member:
        member = self._ledger.roster.get(name)
        if member is None:
            names = [endpoint.name for endpoint in self._ledger.roster.endpoints]
            raise ConfigError(f"there is no endpoint {name!r}.{suggest(name, names)}")
        return member

    def _close_log(self) -> None:
        if self._explorer is not None:
            self._explorer.close()
