"""`picker`: the routing core beside Envoy, and the Envoy configuration that belongs to it."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.deployment.config import Mode
from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig, Port
from grpo_gym.deployment.picker.envoy_config import check_backend, envoy_config
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, RoutingCore, routing_guard
from grpo_gym.settings import ConfigError, Count, Flag, checked_dataclass

_LOG_SIZE = 32_768
"""Twice the requests that may be in flight."""


@checked_dataclass
class PickerOptions:
    """Where requests can go, and who chooses."""

    backend: tuple[str, ...] = ()
    """Backends that Envoy sends requests to, each http://IP:PORT."""
    policy: str = "pretrained:router"
    """pretrained:router, online, a baseline's name, an exported file, a checkpoint or a run."""
    guard_mode: Mode = "shadow"
    """Mode of a guard without saved state: in shadow the policy only proposes, and least
    connections decides, until an operator promotes it."""
    state: Path | None = None
    """File of the guard's state, kept across restarts; by default none."""
    max_in_flight: Count | None = None
    """Requests in flight of each backend at which it gets no more; when all are full, clients get
    429. By default no limit."""
    admin_port: Port = 9901
    """Port of metrics, status page and commands, on loopback."""
    write_envoy_config: Flag = False
    """Print Envoy's configuration for these options, and exit."""


_LINE = CommandLine(
    "picker",
    "Choose endpoints for a real Envoy: request by request, or by slow weights. See docs/envoy.md."
    "\n\nFor example:\n"
    "  --backend http://127.0.0.1:9001 http://127.0.0.1:9002 --write-envoy-config > envoy.yaml\n"
    "  --backend http://127.0.0.1:9001 http://127.0.0.1:9002\n"
    "  envoy -c envoy.yaml",
    {"picker": PickerOptions, "protocol": PickerConfig, "envoy": EnvoyConfig},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    configs = _LINE.read(arguments)
    options: PickerOptions = configs["picker"]
    config: PickerConfig = configs["protocol"]
    endpoints = _endpoints(options)
    if options.write_envoy_config:
        text = yaml.safe_dump(envoy_config(config, configs["envoy"], endpoints), sort_keys=False)
        print(text, end="")
        return 0
    routing = RoutingConfig(log_size=_LOG_SIZE, guard=routing_guard(mode=options.guard_mode))
    with RoutingCore(endpoints, options.policy, routing, state_path=options.state) as core:
        return asyncio.run(_serve(core, config, options.admin_port))


def _endpoints(options: PickerOptions) -> list[Endpoint]:
    if not options.backend:
        raise ConfigError("--backend must name at least one server, such as http://127.0.0.1:9001")
    endpoints = [
        Endpoint.from_url(url, max_in_flight=options.max_in_flight) for url in options.backend
    ]
    for endpoint in endpoints:
        check_backend(endpoint)
    return endpoints


async def _serve(core: RoutingCore, config: PickerConfig, admin_port: int) -> int:
    """Pick until SIGTERM or Ctrl-C."""
    try:
        from grpo_gym.deployment.admin import start_admin
        from grpo_gym.deployment.picker.server import PickerServer  # of the extra `serve`
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"picker must have the packages of the extra serve, and there is no {error.name}: "
            "pip install 'grpo-gym[serve]'"
        ) from error
    console = Console(highlight=False, soft_wrap=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    admin = await start_admin(core, port=admin_port)
    try:
        server = PickerServer(core, config)
        await server.start()
        for line in server.addresses():
            console.print(line, markup=False)
        console.print(f"admin port: http://127.0.0.1:{admin.port}", markup=False)
        await stopped.wait()
        console.print("stopping")
        await server.close()
    finally:
        await admin.close()
    return 0
