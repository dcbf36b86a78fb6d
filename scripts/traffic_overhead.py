"""What each way from a client to a backend costs: Envoy, the picker's three modes, the proxy.

    python scripts/traffic_overhead.py                # needs wrk, and the extras envoy and serve
    python scripts/traffic_overhead.py --seconds 10 --repeats 5

`wrk` keeps a number of connections busy. The backends are listeners of an Envoy that answer at
once, so that what is measured is the way. Repeats go through all ways in turn, because a machine's
speed drifts. What `--results` has is not measured again. On a machine that does something else at
the same time, only the order of the ways means anything.
"""

import asyncio
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from grpo_gym.deployment.demo.processes import Process, free_ports
from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig
from grpo_gym.deployment.picker.config import Mode as PickerMode
from grpo_gym.deployment.picker.envoy_config import envoy_config
from grpo_gym.deployment.picker.envoy_process import EnvoyProcess
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.storage.results import Results

BACKENDS = 4
WAYS = (
    ("direct", ""),
    ("envoy", "least request"),
    ("weights", "pretrained:router"),
    ("ext_authz", "round_robin"),
    ("ext_authz", "pretrained:router"),
    ("ext_proc", "round_robin"),
    ("ext_proc", "pretrained:router"),
    ("route", "round_robin"),
    ("route", "pretrained:router"),
)
"""How requests go, and who chooses."""
_FAILURES = r"(failure_mode_allowed|message_timeouts|logs_dropped|ext_authz\.error)$"


@dataclass
class Options:
    """What to measure."""

    results: Path = Path("docs/results/traffic_overhead.json")
    """Measurements, kept one by one."""
    seconds: float = 5.0
    """Length of each measurement."""
    repeats: int = 3
    """Measurements of each way."""
    connections: int = 16
    """Connections that are busy all the time."""


def main(options: Options) -> None:
    """Measure, and print the table."""
    if shutil.which("wrk") is None:
        sys.exit("error: wrk must be installed: apt-get install wrk")
    console = Console()
    with Results(options.results, console.print) as results, backends() as endpoints:
        results.measure("machine", machine)
        for repeat in range(options.repeats):
            for way, policy in WAYS:
                run = partial(measure, way, policy, endpoints, options)
                results.measure(f"{way}/{policy}/{repeat}", run)
        console.print(table(results.values))


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


@contextmanager
def backends() -> Iterator[list[Endpoint]]:
    """Listeners of an Envoy that answer at once."""
    *ports, admin = free_ports(BACKENDS + 1)
    with tempfile.TemporaryDirectory() as folder:
        config = envoy_config(PickerConfig(), _envoy_settings(ports[0], admin), [])
        (listener,) = config["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (host,) = manager["route_config"]["virtual_hosts"]
        answer = {"status": 200, "body": {"inline_string": "ok"}}
        host["routes"] = [{"match": {"prefix": "/"}, "direct_response": answer}]
        manager["http_filters"] = manager["http_filters"][-1:]
        addresses = [
            {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
            for port in ports[1:]
        ]
        listener["additional_addresses"] = addresses
        config["static_resources"]["clusters"] = []
        with EnvoyProcess(config, Path(folder)):
            yield [Endpoint.from_url(f"http://127.0.0.1:{port}") for port in ports]


def measure(way: str, policy: str, endpoints: list[Endpoint], options: Options) -> dict[str, float]:
    """Latency and throughput of one way."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, envoy = Path(name), None
        if way == "direct":
            url = endpoints[0].url
        elif way == "route":
            url = _start_route(policy, endpoints, stack)
        else:
            envoy = _start_envoy(way, policy, endpoints, folder, stack)
            url = envoy.url
        load(url, 1.0, options.connections)  # compiles, connects, learns the mean service time
        before = {} if envoy is None else envoy.stats(_FAILURES)
        found = load(url, options.seconds, options.connections)
        after = {} if envoy is None else envoy.stats(_FAILURES)
        # Requests that Envoy routed by itself, and entries of the log that it dropped.
        found["not_routed"] = sum(after.values()) - sum(before.values())
        return found


def load(url: str, seconds: float, connections: int) -> dict[str, float]:
    """Keep connections busy with wrk.

    Raises:
        RuntimeError: If a request failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"requests failed: {' '.join(text.split())}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None, text
    return {
        "p50_ms": _percentile_ms(text, 50),
        "p99_ms": _percentile_ms(text, 99),
        "requests_per_s": float(rate[1]),
    }


def _percentile_ms(text: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)\b", text)
    assert found is not None, text
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def _start_route(policy: str, endpoints: list[Endpoint], stack: ExitStack) -> str:
    port, admin = free_ports(2)
    command = _command("route", policy, endpoints, "--port", port, "--admin-port", admin)
    _start(command, port, stack)
    return f"http://127.0.0.1:{port}"


def _start_envoy(
    way: str, policy: str, endpoints: list[Endpoint], folder: Path, stack: ExitStack
) -> EnvoyProcess:
    port, envoy_admin, grpc_port, http_port, admin = free_ports(5)
    mode: PickerMode = "ext_authz" if way == "ext_authz" else "ext_proc"
    if way == "weights":
        mode = "weights"
    weights = folder / "endpoints.json"
    picker = PickerConfig(mode=mode, port=grpc_port, http_port=http_port, eds_file=weights)
    config = envoy_config(picker, _envoy_settings(port, envoy_admin), endpoints)
    if way == "envoy":
        _leave_alone(config)
    else:
        ports = ["--port", grpc_port, "--http-port", http_port, "--admin-port", admin]
        more = ["--mode", mode, "--eds-file", weights, "--drain-s", 0]
        _start(_command("picker", policy, endpoints, *ports, *more), grpc_port, stack)
        while way == "weights" and not weights.exists():  # Envoy would not start
            time.sleep(0.05)
    return stack.enter_context(EnvoyProcess(config, folder))


def _envoy_settings(port: int, admin: int) -> EnvoyConfig:
    return EnvoyConfig(listen_host="127.0.0.1", listen_port=port, envoy_admin_port=admin)


def _leave_alone(config: dict[str, Any]) -> None:
    """Let Envoy choose by itself, without a picker."""
    resources = config["static_resources"]
    (chain,) = resources["listeners"][0]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    manager["http_filters"] = manager["http_filters"][-1:]
    resources["clusters"] = resources["clusters"][:1]
    policy = resources["clusters"][0]["load_balancing_policy"]["policies"][0]
    override = policy["typed_extension_config"]["typed_config"]
    resources["clusters"][0]["load_balancing_policy"] = override["fallback_policy"]


def _command(command: str, policy: str, endpoints: list[Endpoint], *options: object) -> list[str]:
    urls = [endpoint.url for endpoint in endpoints]
    start = [sys.executable, "-m", "grpo_gym", command, "--backend", *urls, "--policy", policy]
    return [*start, "--guard-mode", "full", *map(str, options)]


def _start(command: list[str], port: int, stack: ExitStack) -> None:
    process = stack.enter_context(Process(command))
    asyncio.run(process.listens(port))


def table(values: dict[str, Any]) -> Table:
    """The median of the repeats of each way."""
    shown = Table("way", "who chooses", "p50 ms", "p99 ms", "requests/s", "not routed")
    for way, policy in WAYS:
        runs = [each for key, each in values.items() if key.startswith(f"{way}/{policy}/")]
        if runs:
            medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            shown.add_row(
                way,
                policy,
                f"{medians['p50_ms']:.2f}",
                f"{medians['p99_ms']:.1f}",
                f"{medians['requests_per_s']:,.0f}",
                f"{sum(run['not_routed'] for run in runs):,.0f}",
            )
    return shown


if __name__ == "__main__":
    main(tyro.cli(Options))
