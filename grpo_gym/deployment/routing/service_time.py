"""The mean service time of endpoints, estimated from answers.

Times in observations are relative to the mean service time, which a simulator knows. In front of
real traffic it is what requests take that find a free worker, in the mean.
"""

from collections.abc import Iterable

_ENOUGH = 10
"""Answers of free workers after which the estimate is used."""
_WITHOUT_FREE = 100
"""Answers after which those that had to wait are used too, if so few found a free worker."""
_OUTLIER = 8.0
"""Samples count as at most this many times the mean so far: of exponential times 1 in 3,000 is
longer, which lowers their mean by 0.03 %."""
_LEAST_WEIGHT = 1e-3
"""Least weight of a sample: a lasting change is followed within a thousand answers."""


class ServiceTime:
    """The service time of one endpoint, as two running means."""

    def __init__(self) -> None:
        self.free = RunningMean()
        """Of requests that found a free worker."""
        self.any = RunningMean()
        """Of all, with the time in the queue taken off as if it moved up evenly."""

    def observe(self, response_ms: float, in_flight: int, workers: int) -> None:
        """Add an answer.

        Args:
            response_ms: Its response time.
            in_flight: Requests in flight at its arrival, itself included.
            workers: Of the endpoint.
        """
        if in_flight <= workers:
            self.free.observe(response_ms)
            self.any.observe(response_ms)
        else:
            self.any.observe(response_ms * workers / in_flight)


class RunningMean:
    """The mean of samples, robust against outliers; old ones are forgotten slowly."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0

    def observe(self, sample: float) -> None:
        """Add a sample."""
        self.count += 1
        if self.count > _ENOUGH:
            sample = min(sample, _OUTLIER * self.mean)
        self.mean += max(1.0 / self.count, _LEAST_WEIGHT) * (sample - self.mean)


def mean_service_ms(endpoints: Iterable[ServiceTime]) -> float | None:
    """The service time of a fleet; None while too few answers are known.

    It is the harmonic mean over endpoints, the time at their mean rate, as in `LoadBalancer-v0`: an
    endpoint that has become slow hardly changes it.
    """
    endpoints = tuple(endpoints)
    free = [endpoint.free for endpoint in endpoints]
    if sum(each.count for each in free) >= _ENOUGH:
        return _harmonic_mean(free)
    answers = [endpoint.any for endpoint in endpoints]
    if sum(each.count for each in answers) >= _WITHOUT_FREE:
        return _harmonic_mean(answers)
    return None


def _harmonic_mean(means: Iterable[RunningMean]) -> float:
    known = [each.mean for each in means if each.mean > 0.0]
    return len(known) / sum(1.0 / mean for mean in known) if known else 1.0
