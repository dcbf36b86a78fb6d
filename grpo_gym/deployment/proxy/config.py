"""Settings of the proxy. Imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Integer,
    Natural,
    NonNegative,
    Positive,
    checked_dataclass,
)

Status = Annotated[Integer, Field(ge=500, le=599)]


@checked_dataclass
class ProxyConfig:
    """Time-outs, retries and limits of the proxy."""

    connect_timeout_s: Positive = 2.0
    """Longest wait for a connection to a backend."""
    response_timeout_s: Positive = 60.0
    """Longest wait for the head of a backend's response, from the last byte that was sent."""
    idle_timeout_s: Positive = 60.0
    """Longest pause within a body, whoever sends it or does not read it."""
    header_timeout_s: Positive = 10.0
    """Longest time from the first byte of a request to the end of its headers."""
    keepalive_timeout_s: Positive = 75.0
    """How long an idle connection of a client is kept."""
    backend_keepalive_s: Positive = 4.0
    """How long an idle connection to a backend is kept: less than the backend keeps it, or it may
    close one just as a request goes out."""
    websocket_timeout_s: Positive = 300.0
    """Longest silence of a WebSocket, pings included."""
    grace_s: NonNegative = 30.0
    """After SIGTERM or Ctrl-C, how long requests in flight may take."""
    lame_duck_s: NonNegative = 0.5
    """After SIGTERM or Ctrl-C, how long idle connections stay open for a request on its way."""

    retries: Annotated[Integer, Field(ge=0, le=10)] = 1
    """How often a request that may be repeated goes to yet another backend."""
    retry_statuses: tuple[Status, ...] = (502, 503, 504)
    """Statuses of a backend upon which an idempotent request is repeated."""
    buffer_bytes: Annotated[Integer, Field(ge=0, le=16_777_216)] = 65_536
    """Bodies of requests up to this size are read before a backend is picked, so that they can be
    sent again; larger ones, and those of unknown size, are streamed."""

    max_line_bytes: Annotated[Integer, Field(ge=256, le=1_048_576)] = 8_192
    """Longest request target, and longest header."""
    max_header_bytes: Annotated[Integer, Field(ge=256, le=16_777_216)] = 32_768
    """Largest size of a request's headers together."""
    max_headers: Count = 100
    """Most headers of a request."""
    max_body_bytes: Natural = 104_857_600
    """Largest body of a request. Responses have no limit."""
    max_message_bytes: Count = 4_194_304
    """Largest message of a WebSocket."""
    max_connections: Count = 1_000
    """Most connections of clients at a time; others are answered with 503."""

    trust_forwarded: Flag = False
    """Whether clients are proxies whose X-Forwarded-* and Forwarded headers are right. Else those
    are replaced."""
    host_header: Literal["client", "backend"] = "client"
    """Whose name backends see in the Host header."""
    ca_file: Path | None = None
    """Certificates, in PEM, that sign those of https backends; by default the system's."""

    health_path: str | None = None
    """Path that is requested from each backend to see whether it is well, which a status below 400
    says. By default a connection is enough."""
    health_interval_s: Positive = 2.0
    """Time between two such checks."""
    health_timeout_s: Positive = 1.0
    """Longest wait for their outcome."""
    health_failures: Count = 2
    """Failed checks in a row after which a backend gets no requests; one good check is enough to
    bring it back."""

    def __post_init__(self) -> None:
        if self.health_path is not None and not self.health_path.startswith("/"):
            raise ConfigError(f"health_path must begin with /, got {self.health_path!r}")
