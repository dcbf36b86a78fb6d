"""`route`: a reverse proxy that sends each request where a policy says, behind the guard."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import SOURCE, CommandLine
from grpo_gym.cli.signals import Stopped
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.files import check_open_files
from grpo_gym.deployment.proxy.settings import RouteSettings, read_settings
from grpo_gym.deployment.routing import RoutingConfig, RoutingCore
from grpo_gym.settings import ConfigError, checked_dataclass, from_mapping, load_yaml

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
    "docs/routing.md.\n\n"
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
    with core, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(core, settings))


def _settings(arguments: Sequence[str]) -> RouteSettings:
    """The settings of the file, if one is named, and of the command line over them."""
    given = _LINE.parse(_gathered(arguments))
    options = from_mapping(FileOptions, given.values["file"], SOURCE)
    path = options.config
    file = {} if path is None else load_yaml(path)
    settings = read_settings(file, given.values, SOURCE if path is None else str(path))
    if given.help:
        parts = {"proxy": settings.proxy, "routing": settings.routing}
        _LINE.show_help({"route": settings, "file": options, **parts})
    return settings


def _gathered(arguments: Sequence[str]) -> list[str]:
    """The words with all that follow `--backend` in one place."""
    words: list[str] = []
    backends: list[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if name == "--backend":
            taking = True
            backends += [value] if equals else []
        elif word.startswith("-"):
            taking = False
            words.append(word)
        else:
            (backends if taking else words).append(word)
    return [*words, "--backend", *backends] if backends else words


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """A faster event loop, where there is one."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(core: RoutingCore, settings: RouteSettings) -> int:
    """Route until SIGTERM or Ctrl-C, and then until nothing is in flight.

    Raises:
        Stopped: If a second signal comes.
    """
    try:
        from grpo_gym.deployment.proxy.service import serve  # of the extra `serve`
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"route must have the packages of the extra serve, and there is no {error.name}: "
            "pip install 'grpo-gym[serve]'"
        ) from error
    signals: asyncio.Queue[int] = asyncio.Queue()
    _on_signals(("SIGTERM", "SIGINT"), signals.put_nowait)
    async with serve(core, settings) as service:
        reloads: set[asyncio.Task[None]] = set()  # the event loop itself keeps no reference
        _on_signals(("SIGHUP",), lambda _: reloads.add(_reload(service, reloads)))
        for line in _introduction(core, settings, service):
            _say(line)
        await signals.get()
        _say("draining: requests in flight finish; once more to stop at once")
        draining = asyncio.create_task(service.drain())
        impatient = asyncio.create_task(signals.get())
        await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        if not draining.done():
            draining.cancel()
            raise Stopped(impatient.result())
        if cut := draining.result():
            _say(f"stopped; {cut} requests were cut off after {settings.proxy.grace_s:g} s")
        else:
            _say("stopped")
    return 0


def _on_signals(names: Sequence[str], react: Callable[[int], object]) -> None:
    loop = asyncio.get_running_loop()
    for name in names:
        if (number := getattr(signal, name, None)) is not None:
            try:
                loop.add_signal_handler(number, react, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda got, _: loop.call_soon_threadsafe(react, got))


def _reload(service: "RouteService", reloads: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(service.policy_file.load())
    task.add_done_callback(reloads.discard)
    return task


def _introduction(core: RoutingCore, settings: RouteSettings, service: "RouteService") -> list[str]:
    status = core.status()
    names = ", ".join(endpoint.name for endpoint in status.endpoints)
    acting = {
        "shadow": "shadow: it only proposes, and least_connections decides",
        "gradual": f"gradual: it decides for {status.percentage:g} % of the requests",
        "full": "full: it decides, except for the guard's holdout",
    }[status.mode]
    return [
        f"listening at http://{settings.host}:{service.proxy.port}, backends: {names}",
        f"policy: {status.policy}; guard: {acting}",
        f"admin port: http://{settings.admin_host}:{service.admin.port}",
    ]


def _say(line: str) -> None:
    Console(highlight=False, soft_wrap=True).print(line, markup=False)
    sys.stdout.flush()
