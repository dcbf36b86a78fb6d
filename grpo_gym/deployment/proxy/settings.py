"""Settings of `grpo-gym route`: what a YAML file and a command line may say. Needs no aiohttp."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from grpo_gym.deployment.config import Mode
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, routing_guard
from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Integer,
    Positive,
    checked_dataclass,
    from_mapping,
    parse_value,
)

Port = Annotated[Integer, Field(ge=0, le=65_535)]

_A_YEAR_S = 365 * 86_400.0
"""When a request is forgotten: no end gets lost in this process, and a WebSocket may live long."""


def _embedded_routing() -> RoutingConfig:
    return RoutingConfig(token_age_s=_A_YEAR_S)


@checked_dataclass
class RouteSettings:
    """Where to listen, where requests can go, and who chooses."""

    backend: tuple[str, ...] = ()
    """Servers that get the requests, each URL[,weight=W][,workers=W][,max_in_flight=M]: only ratios
    of weights matter; workers are the requests that it serves side by side. The option may be given
    several times."""
    policy: str = "pretrained:router"
    """pretrained:router, online, a baseline's name, an exported file, a checkpoint or a run's
    folder; a file that changes is loaded again."""
    guard_mode: Mode | None = None
    """Mode of a guard without saved state, by default shadow: the policy only proposes, and least
    connections decides, until an operator promotes it."""
    state: Path | None = None
    """File of the guard's state, kept across restarts; by default none."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all."""
    port: Port = 8080
    """Port to listen at; 0: any that is free."""
    admin_host: str = "127.0.0.1"
    """Address of metrics and status page; commands are taken from loopback only."""
    admin_port: Port = 9901
    """Port of metrics, status page and commands; 0: any that is free."""
    access_log: Flag = False
    """Print a line for each request: client, request line, status, bytes and seconds."""
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    """Time-outs, retries and limits."""
    routing: RoutingConfig = field(default_factory=_embedded_routing)
    """What the core observes and when it ejects; in it, `guard`."""

    def __post_init__(self) -> None:
        if self.routing.observe_sizes:
            raise ConfigError(
                "observe_sizes must be false here: a proxy does not know how much work a request "
                "is; give sizes to a RoutingCore of your own"
            )

    def endpoints(self) -> list[Endpoint]:
        """The backends.

        Raises:
            ConfigError: If there is none, or one cannot be used.
        """
        return parse_backends(self.backend)


@checked_dataclass
class _Extras:
    """What may follow the URL of a backend."""

    weight: Positive = 1.0
    workers: Count = 1
    max_in_flight: Count | None = None


def parse_backends(texts: Sequence[str]) -> list[Endpoint]:
    """The endpoints that `--backend` names.

    Raises:
        ConfigError: If there is none, or one cannot be used.
    """
    if not texts:
        raise ConfigError(
            "--backend must name at least one server, such as --backend http://127.0.0.1:9001"
        )
    endpoints = [parse_backend(text) for text in texts]
    names = [endpoint.name for endpoint in endpoints]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--backend must name each server once, got {name} twice")
    return endpoints


def parse_backend(text: str) -> Endpoint:
    """The endpoint that URL[,weight=W][,workers=W][,max_in_flight=M] means.

    Raises:
        ConfigError: If it is of another form.
    """
    url, *pairs = text.split(",")
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in values:
            raise ConfigError(
                "--backend must be URL[,weight=W][,workers=W][,max_in_flight=M], each once, got "
                f"{text!r}"
            )
        values[name] = parse_value(value)
    extras = from_mapping(_Extras, values, f"--backend {text}")
    return Endpoint.from_url(url, extras.weight, extras.workers, extras.max_in_flight)


def read_settings(
    file: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]], source: str
) -> RouteSettings:
    """The settings of a file, and of a command line over them.

    Args:
        file: What the file says.
        options: What the command line says, by group: route, proxy, routing.
        source: Where they come from, for errors.

    Raises:
        ConfigError: If a value cannot be used.
        UnknownSettingError: If a name is unknown.
    """
    routing = {"token_age_s": _A_YEAR_S, **_section(file, "routing", source), **options["routing"]}
    guard = dict(_section(routing, "guard", source))
    if (mode := options["route"].get("guard_mode", file.get("guard_mode"))) is not None:
        guard["mode"] = mode
    try:
        routing["guard"] = routing_guard(**guard)
    except ConfigError as error:
        error.args = (f"{source}: routing.guard: {error}",)
        raise
    proxy = {**_section(file, "proxy", source), **options["proxy"]}
    values = {**file, **options["route"], "proxy": proxy, "routing": routing}
    return from_mapping(RouteSettings, values, source)


def _section(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{source}: {name} must be a mapping of settings, got {section!r}")
    return section
