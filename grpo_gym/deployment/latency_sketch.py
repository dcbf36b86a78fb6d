"""Quantiles of latencies in bounded memory: counts in buckets whose widths grow geometrically.

Source: DDSketch (Masson, Rim and Lee 2019, arXiv 1908.10693): with bucket edges at powers of
(1 + a) / (1 - a), the middle of a bucket is within the relative error a of all its values.
"""

import math
from collections.abc import Mapping

RELATIVE_ERROR = 0.01
"""Of a quantile, for latencies from 1 microsecond to 10,000 seconds."""
_SHORTEST_MS, _LONGEST_MS = 1e-3, 1e7
_GAMMA = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
_BUCKETS_PER_E = 1.0 / math.log(_GAMMA)


class LatencySketch:
    """Counts of latencies; adding one is O(1).

    Attributes:
        count: Number of latencies.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, latency_ms: float) -> None:
        """Count a latency >= 0; what lies outside the range counts as its nearest end."""
        self.count += 1
        bucket = 0
        if latency_ms > _SHORTEST_MS:
            steps = math.log(min(latency_ms, _LONGEST_MS) / _SHORTEST_MS) * _BUCKETS_PER_E
            bucket = math.ceil(steps)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile(self, probability: float) -> float | None:
        """The smallest latency that is not exceeded with this probability, in ms; None if empty."""
        if not self.count:
            return None
        left = math.ceil(probability * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                break
        return _middle_ms(bucket)

    def count_above(self, limit_ms: float) -> int:
        """How many latencies were longer, but for the relative error."""
        if limit_ms >= _LONGEST_MS:
            return 0
        return sum(each for bucket, each in self._buckets.items() if _middle_ms(bucket) > limit_ms)

    def state(self) -> dict[str, int]:
        """What `restore` needs, in JSON types."""
        return {str(bucket): count for bucket, count in self._buckets.items()}

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue from a state."""
        self._buckets = {int(bucket): count for bucket, count in state.items()}
        self.count = sum(self._buckets.values())


def _middle_ms(bucket: int) -> float:
    """The latency that is nearest, relatively, to all of a bucket's."""
    return _SHORTEST_MS * 2.0 * _GAMMA**bucket / (1.0 + _GAMMA)
