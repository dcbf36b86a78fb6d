"""`route`: a reverse proxy that sends each request where a policy says, behind the guard."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_gym.cli.failures import extra_serve, reported
from grpo_gym.cli.options import SOURCE, CommandLine
from grpo_gym.cli.serving import (
    gathered,
    loop_factory,
    on_signals,
    say,
    unless_impatient,
    who_decides,
)
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.files import check_open_files
from grpo_gym.deployment.proxy.settings import RouteSettings, read_settings
from grpo_gym.deployment.routing import RoutingConfig, RoutingCore
from grpo_gym.settings import checked_dataclass, from_mapping, load_yaml

if TYPE_CHECKING:
    from grpo_gym.deployment.proxy.service import RouteService


@checked_dataclass
class FileOptions:
    """Where settings come from."""

    config: Path | None = None
    """YAML file of settings; options come over it."""


_LINE = CommandLine(
    "route",
    "Send HTTP requests to the backend that a policy chooses: a reverse proxy behind a guard. See "
    "docs/how_to/routing.md.\n\n"
    "For example:\n"
    "  --backend http://127.0.0.1:9001 --backend http://127.0.0.1:9002\n"
    "  --backend http://127.0.0.1:9001,weight=2,workers=4 http://127.0.0.1:9002 --policy online\n"
    "  --config route.yaml --port 80 --host 0.0.0.0",
    {
        "route": RouteSettings,
        "file": FileOptions,
        "proxy": ProxyConfig,
        "routing": RoutingConfig,
    },
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    settings = _settings(arguments)
    endpoints = settings.endpoints()
    check_open_files(settings.proxy.max_connections)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("grpo_gym.access").setLevel(logging.INFO)
    core = RoutingCore(endpoints, settings.policy, settings.routing, state_path=settings.state)
    with core, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(core, settings))


def _settings(arguments: Sequence[str]) -> RouteSettings:
    """The settings of the file, if one is named, and of the command line over them."""
    given = _LINE.parse(gathered(arguments, "--backend"))
    options = from_mapping(FileOptions, given.values["file"], SOURCE)
    path = options.config
    file = {} if path is None else load_yaml(path)
    settings = read_settings(file, given.values, SOURCE if path is None else str(path))
    if given.help:
        parts = {"proxy": settings.proxy, "routing": settings.routing}
        _LINE.show_help({"route": settings, "file": options, **parts})
    return settings


async def _serve(core: RoutingCore, settings: RouteSettings) -> int:
    """Route until SIGTERM or Ctrl-C, and then until nothing is in flight.

    Raises:
        Stopped: If a second signal comes.
    """
    with extra_serve("route"):
        from grpo_gym.deployment.proxy.service import serve  # of the extra `serve`
    signals: asyncio.Queue[int] = asyncio.Queue()
    on_signals(("SIGTERM", "SIGINT"), signals.put_nowait)
    async with serve(core, settings) as service:
        reloads: set[asyncio.Task[None]] = set()  # the event loop itself keeps no reference
        on_signals(("SIGHUP",), lambda _: reloads.add(_reload(service, reloads)))
        for line in _introduction(core, settings, service):
            say(line)
        await signals.get()
        say("draining: waiting for requests in flight; a second signal stops at once")
        if cut := await unless_impatient(service.drain(), signals):
            say(f"stopped; {cut} requests were cut off after {settings.proxy.grace_s:g} s")
        else:
            say("stopped")
    return 0


def _reload(service: "RouteService", reloads: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(service.policy_file.load())
    task.add_done_callback(reloads.discard)
    return task


def _introduction(core: RoutingCore, settings: RouteSettings, service: "RouteService") -> list[str]:
    status = core.status()
    names = ", ".join(endpoint.name for endpoint in status.endpoints)
    return [
        f"listening at http://{settings.host}:{service.proxy.port}, backends: {names}",
        who_decides(status),
        f"admin port: http://{settings.admin_host}:{service.admin.port}",
    ]
