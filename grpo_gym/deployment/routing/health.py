"""Which endpoints may be chosen: ejection for errors, and the way back.

An endpoint is ejected after errors in a row, or when errors are a large share of its answers. When
the ejection is over it gets one request at a time, its probes; after enough good ones it is healthy
again, and after a bad one ejected for twice as long.

Source: Envoy's outlier detection, and the half-open state of circuit breakers.
"""

from typing import Literal

from grpo_gym.deployment.routing.config import RoutingConfig

State = Literal["healthy", "ejected", "probing"]


class Health:
    """The health of one endpoint.

    Attributes:
        state: "probing" while single requests try it.
        reported: What active health checks said last.
        probes: Probes in flight.
    """

    def __init__(self, config: RoutingConfig) -> None:
        """Start healthy."""
        self._config = config
        self.state: State = "healthy"
        self.reported = True
        self.probes = 0
        self._until_s = 0.0
        self._ejections = 0
        self._returned_s = 0.0
        self._consecutive_errors = 0
        self._successes = 0
        self._begin_period(0.0)

    @property
    def may_be_chosen(self) -> bool:
        """Whether a policy may choose the endpoint."""
        return self.reported and self.state == "healthy"

    @property
    def wants_probe(self) -> bool:
        """Whether the next request should be a probe."""
        return self.reported and self.state == "probing" and self.probes == 0

    def pass_time(self, now_s: float) -> bool:
        """End an ejection that is over; return whether it has just ended."""
        if self.state != "ejected" or now_s < self._until_s:
            return False
        self.state = "probing"
        self._successes = self.probes = 0
        return True

    def report(self, healthy: bool) -> bool:
        """Take over what an active health check says; return whether it is news that it is well.

        A good check ends an ejection: single requests try the endpoint at once.
        """
        news = healthy and not self.reported
        self.reported = healthy
        if healthy and self.state == "ejected":
            self._until_s = 0.0
        return news

    def observe(self, ok: bool, probe: bool, now_s: float, may_eject: bool) -> None:
        """Note how a request ended.

        Args:
            ok: Whether it was answered well.
            probe: Whether it was a probe.
            now_s: The time.
            may_eject: Whether the endpoint may be ejected, for all that others are.
        """
        if self.state == "probing" and probe:
            self._observe_probe(ok, now_s)
        elif self.state == "healthy":
            self._consecutive_errors = 0 if ok else self._consecutive_errors + 1
            if now_s >= self._period_end_s:
                self._begin_period(now_s)
            self._answers += 1
            self._errors += not ok
            if may_eject and not ok and self._is_outlier:
                self._eject(now_s)

    def _observe_probe(self, ok: bool, now_s: float) -> None:
        if not ok:
            self._eject(now_s)
            return
        self._successes += 1
        if self._successes >= self._config.probe_successes:
            self.state = "healthy"
            self._returned_s = now_s
            self._consecutive_errors = 0
            self._begin_period(now_s)

    @property
    def _is_outlier(self) -> bool:
        config = self._config
        many = self._answers >= config.error_period_requests
        return self._consecutive_errors >= config.consecutive_errors or (
            many and self._errors >= config.error_share * self._answers
        )

    def _eject(self, now_s: float) -> None:
        config = self._config
        if self.state == "healthy" and now_s - self._returned_s >= config.longest_ejection_s:
            self._ejections = 0
        length_s = min(config.ejection_s * 2.0**self._ejections, config.longest_ejection_s)
        # So the power above stays finite.
        self._ejections += length_s < config.longest_ejection_s
        self.state = "ejected"
        self._until_s = now_s + length_s

    def _begin_period(self, now_s: float) -> None:
        self._period_end_s = now_s + self._config.error_period_s
        self._answers = self._errors = 0


def most_ejected(endpoints: int, config: RoutingConfig) -> int:
    """How many of so many endpoints may be ejected at once."""
    if endpoints < 2:
        return 0
    return max(1, int(config.ejected_share * endpoints))
