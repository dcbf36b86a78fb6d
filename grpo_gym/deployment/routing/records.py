"""What the routing core takes and gives: endpoints, picks, and its state in figures."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

from grpo_gym.deployment.config import Mode
from grpo_gym.deployment.records import Arm, GuardStatus
from grpo_gym.settings import ConfigError

Failure = Literal["error", "refused", "timeout"]
"""How a request failed: after it was served, before, or because it took too long."""


@dataclass(frozen=True)
class Endpoint:
    """A server that may get requests.

    Attributes:
        name: Its name, unique in a core, such as "host:port".
        url: Its base URL, such as "http://10.0.0.1:8080".
        weight: Its configured speed: only ratios matter.
        workers: The requests that it serves side by side.
        max_in_flight: Requests in flight at which it gets no more; None: no limit.
    """

    name: str
    url: str
    weight: float = 1.0
    workers: int = 1
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError('endpoint name must not be empty: use "host:port"')
        if not 0.0 < self.weight < math.inf:
            raise ConfigError(f"weight of {self.name} must be a number > 0, got {self.weight!r}")
        if self.workers < 1:
            raise ConfigError(f"workers of {self.name} must be >= 1, got {self.workers!r}")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ConfigError(
                f"max_in_flight of {self.name} must be >= 1 or None, got {self.max_in_flight!r}"
            )

    @classmethod
    def from_url(
        cls, url: str, weight: float = 1.0, workers: int = 1, max_in_flight: int | None = None
    ) -> "Endpoint":
        """The endpoint of an HTTP URL, with "host:port" as its name.

        Raises:
            ConfigError: If it is not "http://HOST[:PORT]" or "https://HOST[:PORT]" with an optional
                path.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            parts, port = urlsplit(""), None
        if port is None or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ConfigError(f"backend must be http://HOST[:PORT], got {url!r}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{host}:{port}", url.rstrip("/"), weight, workers, max_in_flight)


@dataclass(frozen=True)
class Pick:
    """Where a request may go.

    Attributes:
        endpoints: Names, best first; those that are not healthy come last. The request counts as
            in flight at the first.
        token: For `finish` or `cancel`.
    """

    endpoints: tuple[str, ...]
    token: int


class NoEndpointError(RuntimeError):
    """No endpoint can take the request.

    Attributes:
        saturated: Whether there are endpoints, but all have `max_in_flight` requests (HTTP 429);
            otherwise there is none to choose from (HTTP 503).
    """

    def __init__(self, message: str, saturated: bool) -> None:
        super().__init__(message)
        self.saturated = saturated


class Observer(Protocol):
    """Hears of every request, at once and in the caller's thread: be quick, and do not raise.

    `arm` is that of the guard's decision: who chose, the policy or the fallback.
    """

    def on_pick(self, endpoint: str, arm: Arm) -> None:
        """A request goes to an endpoint."""

    def on_finish(self, endpoint: str, arm: Arm, ok: bool, latency_ms: float) -> None:
        """An endpoint has answered, or failed."""

    def on_cancel(self, endpoint: str, arm: Arm) -> None:
        """A client went away, or a token was forgotten by age."""


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint in figures.

    Attributes:
        name: Its name.
        url: Its base URL.
        weight: Its configured weight.
        in_flight: Requests that it has not answered.
        latency_ms: Moving average of its latency; None before the first answer.
        error_rate: Moving average of its errors.
        share: Its share of the last picks.
        healthy: Whether the policy may choose it.
        ejected: Whether it is ejected for errors, or has only probes since.
        age_s: Time since its last answer; None before the first.
        probing: Whether its ejection is over, and single requests try it.
    """

    name: str
    url: str
    weight: float
    in_flight: int
    latency_ms: float | None
    error_rate: float
    share: float
    healthy: bool
    ejected: bool
    age_s: float | None
    probing: bool = False


@dataclass(frozen=True)
class ChoiceLogStatus:
    """A log of choices in figures.

    Attributes:
        path: Its file.
        rows: Rows written by this process.
        dropped: Rows that were lost, because the disk was full or too slow.
        error: Why the last row could not be written; None if it could.
    """

    path: str
    rows: int
    dropped: int
    error: str | None


@dataclass(frozen=True, kw_only=True)
class RoutingStatus:
    """A routing core in figures.

    Attributes:
        policy: The name of its policy.
        mode: The guard's mode.
        percentage: The guard's percentage.
        guard: The guard in figures.
        picks: Picks so far.
        finished: Requests that were answered or failed.
        errors: Of these, those that failed.
        cancelled: Requests whose clients went away.
        expired: Requests that were forgotten by age.
        unknown_tokens: Calls of `finish` and `cancel` with unknown tokens.
        service_ms: The mean service time that features are relative to; None while it is unknown.
        endpoints: The endpoints, in the order in which they came.
        choice_log: The log of choices; None without one.
    """

    policy: str
    mode: Mode
    percentage: float
    guard: GuardStatus
    picks: int
    finished: int
    errors: int
    cancelled: int
    expired: int
    unknown_tokens: int
    service_ms: float | None
    endpoints: tuple[EndpointStatus, ...]
    choice_log: ChoiceLogStatus | None = None
