"""Counts and latencies of each endpoint's requests, for the metrics and the status page."""

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import get_args

from grpo_gym.deployment.records import Arm

ARMS: tuple[Arm, ...] = get_args(Arm)
BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the latency histogram, in seconds; one more bucket has no bound."""
RECENT = 500
"""Answers of an endpoint that its recent quantiles are of."""


@dataclass
class Tally:
    """The requests that one arm of the guard sent to one endpoint."""

    picks: int = 0
    successes: int = 0
    errors: int = 0
    cancelled: int = 0
    total_s: float = 0.0
    """Sum of all latencies, in seconds."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """Answers whose latency lies in each bucket, not cumulated."""


@dataclass
class EndpointTally:
    """The requests of one endpoint."""

    arms: dict[Arm, Tally] = field(default_factory=lambda: {arm: Tally() for arm in ARMS})
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last latencies, in milliseconds."""

    def copy(self) -> "EndpointTally":
        """A copy that no longer changes."""
        arms = {arm: replace(tally, buckets=[*tally.buckets]) for arm, tally in self.arms.items()}
        return EndpointTally(arms, self.recent_ms.copy())


class Traffic:
    """An observer of a routing core; may be called from any thread."""

    def __init__(self) -> None:
        """Begin with no requests."""
        self._lock = threading.Lock()
        self._endpoints: dict[str, EndpointTally] = {}

    def on_pick(self, endpoint: str, arm: Arm) -> None:
        """Count a request that goes to an endpoint."""
        with self._lock:
            self._endpoint(endpoint).arms[arm].picks += 1

    def on_finish(self, endpoint: str, arm: Arm, ok: bool, latency_ms: float) -> None:
        """Count an answer, or a failure, and its latency."""
        seconds = latency_ms / 1000.0
        with self._lock:
            of_endpoint = self._endpoint(endpoint)
            of_endpoint.recent_ms.append(latency_ms)
            tally = of_endpoint.arms[arm]
            if ok:
                tally.successes += 1
            else:
                tally.errors += 1
            tally.total_s += seconds
            tally.buckets[bisect_left(BUCKETS_S, seconds)] += 1

    def on_cancel(self, endpoint: str, arm: Arm) -> None:
        """Count a request whose client went away."""
        with self._lock:
            self._endpoint(endpoint).arms[arm].cancelled += 1

    def of(self, endpoints: Collection[str]) -> dict[str, EndpointTally]:
        """Copies of the tallies of the present endpoints; those of others are forgotten.

        Metrics thus stay as many as there are endpoints, however many come and go.
        """
        with self._lock:
            self._endpoints = {name: self._endpoint(name) for name in endpoints}
            return {name: tally.copy() for name, tally in self._endpoints.items()}

    def _endpoint(self, name: str) -> EndpointTally:
        return self._endpoints.get(name) or self._endpoints.setdefault(name, EndpointTally())


def quantile(values: Iterable[float], share: float) -> float | None:
    """The least of the values that `share` of them do not exceed; None if there are none."""
    ordered = sorted(values)
    # The nearest rank: a latency that occurred, however few there are.
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None
