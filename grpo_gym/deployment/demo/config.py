"""Settings of the demonstration. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    Integer,
    Natural,
    Number,
    Positive,
    checked_dataclass,
)

Path = Literal["proxy", "envoy"]
TITLES: dict[Path, str] = {"proxy": "through the embedded proxy", "envoy": "through Envoy"}
PHASES = ("well", "slow", "errors", "dead", "back")
"""What the second backend does: it is well, ten times slower, answers 500 at once, is killed, and
is started again."""


@checked_dataclass
class TrafficConfig:
    """The load, the backends, and who routes."""

    policies: tuple[str, ...] = (
        "round_robin",
        "envoy_least_request",
        "least_connections",
        "peak_ewma_p2c",
        "pretrained:router",
        "online",
    )
    """Policies, as `grpo-gym route` takes them. Round robin, least request (of two choices) and
    least connections (all of them) are Envoy's own where Envoy routes."""
    paths: tuple[Path, ...] = ("proxy", "envoy")
    """What requests go through: the embedded proxy, or Envoy, which is left out where it is not
    installed."""
    service_ms: tuple[Positive, ...] = (15.0, 20.0, 25.0, 30.0)
    """Mean service times of the backends, exponential; one backend for each."""
    workers: Count = 2
    """Requests that each backend serves at a time; others wait there."""
    utilisation: Annotated[Number, Field(gt=0, lt=1)] = 0.6
    """Offered work over what all backends can do while they are well."""
    phase_seconds: Annotated[Number, Field(ge=0.2, le=600)] = 2.0
    """Length of each of the five phases: the second backend is well, ten times slower, answers 500
    at once, is killed, and is back."""
    warmup_seconds: Annotated[Number, Field(ge=0, le=60)] = 1.0
    """Time before them, which does not count."""
    timeout_seconds: Annotated[Number, Field(gt=0, le=60)] = 5.0
    """Time after which a client gives up: an error."""
    runs: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Times that everything is repeated, each with other arrivals and service times."""
    seed: Natural = 0
    """Seed of the first run."""

    def __post_init__(self) -> None:
        if len(self.service_ms) < 2:
            raise ConfigError(
                f"service_ms must name at least two backends, got {list(self.service_ms)}"
            )
        for name in ("policies", "paths"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be different ones, got {list(values)}")

    @property
    def rate(self) -> float:
        """Requests per second."""
        capacity = sum(1_000.0 * self.workers / each for each in self.service_ms)
        return self.utilisation * capacity

    @property
    def seconds(self) -> float:
        """Length of a run, without its warm-up."""
        return self.phase_seconds * len(PHASES)
