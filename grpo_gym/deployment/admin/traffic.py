"""Counts and latencies of each endpoint's requests, for the metrics and the status page."""

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace

BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Upper bounds of the latency histogram, in seconds; the last bucket, without a bound, follows."""
RECENT = 500
"""Answers of an endpoint that its recent quantiles are of."""


@dataclass
class Tally:
    """The requests of one endpoint."""

    picks: int = 0
    successes: int = 0
    errors: int = 0
    cancelled: int = 0
    total_s: float = 0.0
    """Sum of all latencies, in seconds."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """Answers whose latency lies in each bucket, not cumulated."""
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last latencies, in milliseconds."""

    def quantile_ms(self, share: float) -> float | None:
        """The recent latency that `share` of the answers did not exceed; None before the first."""
        if not self.recent_ms:
            return None
        # The nearest rank, which is a latency that occurred.
        ordered = sorted(self.recent_ms)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def copy(self) -> "Tally":
        """A copy that no longer changes."""
        return replace(self, buckets=self.buckets.copy(), recent_ms=self.recent_ms.copy())


class Traffic:
    """An observer of a routing core; may be called from any thread."""

    def __init__(self) -> None:
        """Begin with no requests."""
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def on_pick(self, endpoint: str) -> None:
        """Count a request that goes to an endpoint."""
        with self._lock:
            self._tally(endpoint).picks += 1

    def on_finish(self, endpoint: str, ok: bool, latency_ms: float) -> None:
        """Count an answer, or a failure, and its latency."""
        with self._lock:
            tally = self._tally(endpoint)
            if ok:
                tally.successes += 1
            else:
                tally.errors += 1
            seconds = latency_ms / 1000.0
            tally.total_s += seconds
            tally.buckets[bisect_left(BUCKETS_S, seconds)] += 1
            tally.recent_ms.append(latency_ms)

    def on_cancel(self, endpoint: str) -> None:
        """Count a request whose client went away."""
        with self._lock:
            self._tally(endpoint).cancelled += 1

    def of(self, endpoints: Collection[str]) -> dict[str, Tally]:
        """Copies of the tallies of the present endpoints; those of others are forgotten.

        Metrics thus stay as many as there are endpoints, however many come and go.
        """
        with self._lock:
            self._tallies = {name: self._tally(name) for name in endpoints}
            return {name: tally.copy() for name, tally in self._tallies.items()}

    def _tally(self, endpoint: str) -> Tally:
        return self._tallies.get(endpoint) or self._tallies.setdefault(endpoint, Tally())
