"""`picker`: the routing core beside Envoy, and the Envoy configuration that belongs to it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import yaml

from grpo_gym.cli.failures import extra_serve, reported
from grpo_gym.cli.options import SOURCE, CommandLine, Given
from grpo_gym.cli.serving import (
    gathered,
    loop_factory,
    on_signals,
    say,
    unless_impatient,
    who_decides,
)
from grpo_gym.deployment.config import Mode
from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig, Port
from grpo_gym.deployment.picker.envoy_config import check_backend, envoy_config
from grpo_gym.deployment.proxy.settings import parse_backends
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, RoutingCore, routing_guard
from grpo_gym.settings import ConfigError, Flag, checked_dataclass, from_mapping

_LOG_SIZE = 32_768
"""Twice the requests that may be in flight: Envoy's clients wait longer than those of a test."""


@checked_dataclass
class PickerOptions:
    """Where requests can go, and who chooses."""

    backend: tuple[str, ...] = ()
    """Servers that Envoy sends requests to, each http://IP:PORT[,weight=W][,workers=W]
    [,max_in_flight=M]. The option may be given several times. When all have max_in_flight requests,
    clients get 429."""
    policy: str = "pretrained:router"
    """pretrained:router, online, a baseline's name, an exported file, a checkpoint or a run's
    folder."""
    guard_mode: Mode = "shadow"
    """Mode of a guard without saved state: in shadow the policy only proposes, and least
    connections decides, until an operator promotes it."""
    state: Path | None = None
    """File of the guard's state, kept across restarts; by default none."""
    admin_host: str = "127.0.0.1"
    """Address of metrics and status page; commands are taken from loopback only."""
    admin_port: Port = 9901
    """Port of metrics, status page and commands; 0: any that is free."""
    write_envoy_config: Flag = False
    """Print Envoy's configuration for these options, and end."""


_GROUPS = {
    "picker": PickerOptions,
    "protocol": PickerConfig,
    "envoy": EnvoyConfig,
    "routing": RoutingConfig,
}
_LINE = CommandLine(
    "picker",
    "Choose endpoints for a real Envoy, request by request or by slow weights, behind a guard. See "
    "docs/how_to/envoy.md.\n\n"
    "For example:\n"
    "  --backend http://127.0.0.1:9001 --backend http://127.0.0.1:9002\n"
    "  --backend http://127.0.0.1:9001 --backend http://127.0.0.1:9002 --write-envoy-config\n"
    "  --mode ext_authz --backend http://127.0.0.1:9001 http://127.0.0.1:9002 --policy online",
    _GROUPS,
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    given = _LINE.parse(gathered(arguments, "--backend"))
    options = from_mapping(PickerOptions, given.values["picker"], SOURCE)
    config = from_mapping(PickerConfig, given.values["protocol"], SOURCE)
    envoy = from_mapping(EnvoyConfig, given.values["envoy"], SOURCE)
    routing = _routing(given, options, config)
    if given.help:
        _LINE.show_help({"picker": options, "protocol": config, "envoy": envoy, "routing": routing})
    endpoints = _endpoints(options)
    if options.write_envoy_config:
        text = yaml.safe_dump(envoy_config(config, envoy, endpoints), sort_keys=False)
        print(text, end="")
        return 0
    core = RoutingCore(endpoints, options.policy, routing, state_path=options.state)
    with core, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(core, config, options))


def _routing(given: Given, options: PickerOptions, config: PickerConfig) -> RoutingConfig:
    guard = routing_guard(mode=options.guard_mode)
    values = {"log_size": _LOG_SIZE, **given.values["routing"], "guard": guard}
    routing = from_mapping(RoutingConfig, values, SOURCE)
    if routing.observe_sizes and config.mode != "ext_proc":
        raise ConfigError(
            f"observe_sizes must be false with mode {config.mode}, which does not show the length "
            "of a request: use ext_proc"
        )
    return routing


def _endpoints(options: PickerOptions) -> list[Endpoint]:
    endpoints = parse_backends(options.backend)
    for endpoint in endpoints:
        check_backend(endpoint)
    return endpoints


async def _serve(core: RoutingCore, config: PickerConfig, options: PickerOptions) -> int:
    """Pick until SIGTERM or Ctrl-C, and then until Envoy has noticed.

    Raises:
        Stopped: If a second signal comes.
    """
    with extra_serve("picker"):
        from grpo_gym.deployment.admin import start_admin
        from grpo_gym.deployment.picker.server import PickerServer  # of the extra `serve`
    signals: asyncio.Queue[int] = asyncio.Queue()
    on_signals(("SIGTERM", "SIGINT"), signals.put_nowait)
    admin = await start_admin(core, options.admin_host, options.admin_port)
    try:
        server = PickerServer(core, config)
        await server.start()
        for line in [*server.addresses(), who_decides(core.status())]:
            say(line)
        say(f"admin port: http://{options.admin_host}:{admin.port}")
        await signals.get()
        say("stopping: health checks fail now, so that Envoy looks elsewhere")
        await unless_impatient(server.close(), signals)
    finally:
        await admin.close()
    return 0
