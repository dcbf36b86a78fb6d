"""The units of an observation: the mean service time and the mean size of requests."""

from collections.abc import Iterable

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.fleet import Fleet
from grpo_gym.deployment.routing.service_time import RunningMean, ServiceTime, mean_service_ms

_UNKNOWN_SERVICE_MS = 20.0
"""What is taken for the mean service time while it is unknown; only baselines act then."""


class Scale:
    """Mean service time and mean size, given or estimated.

    Attributes:
        is_known: Whether the mean service time is.
        service_ms: The mean service time.
    """

    def __init__(self, config: RoutingConfig) -> None:
        """Start from what the settings say."""
        self.is_known = config.service_ms != "auto"
        self._is_given = self.is_known
        self.service_ms = _UNKNOWN_SERVICE_MS if config.service_ms == "auto" else config.service_ms
        self._given_size = None if config.size_mean == "auto" else config.size_mean
        self._sizes = RunningMean()

    def size_ms(self, size: float | None) -> float:
        """A request's size as its service time at a mean endpoint; None stands for the mean."""
        if size is None:
            return self.service_ms
        mean = self._given_size
        if mean is None:
            self._sizes.observe(size)
            mean = self._sizes.mean
        return size / mean * self.service_ms

    def update(self, endpoints: Iterable[ServiceTime], fleet: Fleet) -> None:
        """Take over what answers say of the mean service time, unless it was given."""
        if self._is_given:
            return
        service_ms = mean_service_ms(endpoints)
        if service_ms is not None:
            self.is_known = True
            self.service_ms = service_ms
            self.apply(fleet)

    def apply(self, fleet: Fleet) -> None:
        """Let observations of a fleet have these units."""
        fleet.set_scale(self.service_ms, self.service_ms)
