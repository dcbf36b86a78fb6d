"""Settings of the picker, and of the Envoy that belongs to it. Imports no torch."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Integer,
    Number,
    Positive,
    PositiveFraction,
    checked_dataclass,
)

Mode = Literal["ext_proc", "ext_authz", "weights"]
Port = Annotated[Integer, Field(ge=0, le=65_535)]
"""A TCP port; 0: a free one."""


@checked_dataclass
class PickerConfig:
    """How the picker listens, and what it tells Envoy."""

    mode: Mode = "ext_proc"
    """ext_proc: a pick for each request by the Endpoint Picker protocol; ext_authz: the same by an
    HTTP call, with outcomes from the access log; weights: no call, a file of weights instead."""
    host: str = "127.0.0.1"
    """IP address to listen at. The ports need no password: only Envoy may reach them."""
    port: Port = 9002
    """Port of gRPC: the Endpoint Picker protocol, the access log, and health checks."""
    http_port: Port = 9003
    """Port of the HTTP calls of ext_authz."""
    drain_s: Annotated[Number, Field(ge=0, le=600)] = 2.0
    """After SIGTERM, time in which Envoy notices by its health checks that the picker goes away,
    and requests that are under way come to their end."""
    eds_file: Path = Path("endpoints.json")
    """In mode weights, the file of endpoints and weights that Envoy watches."""
    update_s: Positive = 1.0
    """Time between two versions of that file."""
    smoothing: PositiveFraction = 0.5
    """What the newest estimate counts in a server's weight; the weight before counts the rest."""
    weight_floor: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """Least weight of a server, as a fraction of an equal share, so that it is never forgotten."""

    def __post_init__(self) -> None:
        _check_address("host", self.host)
        if self.eds_file.suffix != ".json":
            raise ConfigError(
                f"eds_file must end in .json, got {str(self.eds_file)!r}: Envoy goes by its name"
            )
        if self.port == self.http_port != 0:
            raise ConfigError(f"http_port must differ from port, got {self.port} twice")


@checked_dataclass
class EnvoyConfig:
    """What else the generated configuration of Envoy sets."""

    listen_host: str = "127.0.0.1"
    """IP address where Envoy accepts clients; 0.0.0.0 for all."""
    listen_port: Port = 8080
    """Port where Envoy accepts clients."""
    envoy_admin_port: Port = 9900
    """Port of Envoy's own admin page, always on loopback."""
    picker_host: str | None = None
    """IP address at which Envoy reaches the picker; by default where it listens."""
    pick_timeout_ms: Annotated[Number, Field(gt=0, le=10_000)] = 50.0
    """Longest wait for a pick; then Envoy chooses by itself."""
    request_timeout_s: Annotated[Number, Field(ge=0)] = 60.0
    """Longest time for a whole request; 0: no limit."""

    def __post_init__(self) -> None:
        _check_address("listen_host", self.listen_host)
        if self.picker_host is not None:
            _check_address("picker_host", self.picker_host)
        if self.listen_port == self.envoy_admin_port:
            raise ConfigError(
                f"listen_port must differ from envoy_admin_port, got {self.listen_port} twice"
            )

    def reached(self, picker: PickerConfig) -> PickerConfig:
        """The picker as Envoy sees it: one that listens at all addresses is next to Envoy."""
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(picker.host, picker.host)
        return replace(picker, host=self.picker_host or own)


def _check_address(name: str, value: str) -> None:
    try:
        ip_address(value)
    except ValueError:
        raise ConfigError(
            f"{name} must be an IP address, got {value!r}: Envoy and the picker look up no names"
        ) from None
