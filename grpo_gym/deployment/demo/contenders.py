"""Who routes in the demonstration: policies behind the embedded proxy, and in or beside Envoy."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from grpo_gym.deployment.demo.config import Path, TrafficConfig
from grpo_gym.deployment.demo.processes import Process, free_ports
from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig
from grpo_gym.deployment.picker.envoy_config import envoy_config
from grpo_gym.deployment.picker.envoy_process import find_envoy
from grpo_gym.deployment.routing import Endpoint

_OF_ENVOY: dict[str, tuple[str, dict[str, str]]] = {
    "round_robin": ("round_robin", {}),
    "envoy_least_request": ("least_request", {}),
    "least_connections": ("least_request", {"selection_method": "FULL_SCAN"}),
}
"""Baselines that Envoy has itself: its name for them, and their settings."""
GUARD: dict[str, Any] = {
    "mode": "full",
    "holdout_percentage": 0.0,
    "outcome_test": False,
    "quick_alarm": None,
}
"""The policy alone acts: nothing of a comparison with the fallback within a run."""


class Contender(NamedTuple):
    """A policy, and what requests go through."""

    path: Path
    policy: str


@asynccontextmanager
async def running(
    contender: Contender, endpoints: Sequence[Endpoint], folder: FilePath
) -> AsyncIterator[str]:
    """Start a contender in front of backends, and give its URL.

    Args:
        contender: Which.
        endpoints: The backends.
        folder: For files of settings.

    Raises:
        DemoError: If a process does not start.
    """
    starts = {"proxy": _start_proxy, "envoy": _start_envoy}
    with ExitStack() as stack:
        port = await starts[contender.path](contender.policy, endpoints, folder, stack)
        yield f"http://127.0.0.1:{port}"


async def _start_proxy(
    policy: str, endpoints: Sequence[Endpoint], folder: FilePath, stack: ExitStack
) -> int:
    port, admin_port = free_ports(2)
    settings = {
        "backend": [f"{each.url},workers={each.workers}" for each in endpoints],
        "policy": policy,
        "port": port,
        "admin_port": admin_port,
        "routing": {"guard": GUARD},
        # Nothing of a run waits, once all its requests are answered.
        "proxy": {"grace_s": 0.0, "lame_duck_s": 0.0},
    }
    file = folder / "route.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "grpo_gym", "route", "--config", str(file)]
    await stack.enter_context(Process(command)).listens(port)
    return port


async def _start_envoy(
    policy: str, endpoints: Sequence[Endpoint], folder: FilePath, stack: ExitStack
) -> int:
    port, admin_port, grpc_port, http_port = free_ports(4)
    picker = PickerConfig(mode="ext_authz", port=grpc_port, http_port=http_port, drain_s=0.0)
    envoy = EnvoyConfig(listen_host="127.0.0.1", listen_port=port, envoy_admin_port=admin_port)
    config = envoy_config(picker, envoy, endpoints)
    if policy in _OF_ENVOY:
        _leave_alone(config, *_OF_ENVOY[policy])
    else:
        settings = {
            "endpoints": [[each.name, each.url, each.workers] for each in endpoints],
            "policy": policy,
            "ports": [grpc_port, http_port],
        }
        command = [sys.executable, "-m", "grpo_gym.deployment.demo.picker", json.dumps(settings)]
        await stack.enter_context(Process(command)).listens(http_port)
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(config))
    program = find_envoy()
    assert program is not None
    quiet = ["--log-level", "error", "--use-dynamic-base-id", "--concurrency", "1"]
    command = [program, "-c", str(file), *quiet]
    await stack.enter_context(Process(command)).listens(port)
    return port


def _leave_alone(config: dict[str, Any], name: str, settings: dict[str, str]) -> None:
    """Let Envoy balance by itself; its retries and its outlier detection stay."""
    resources = config["static_resources"]
    for chain in resources["listeners"][0]["filter_chains"]:
        manager = chain["filters"][0]["typed_config"]
        manager.pop("access_log", None)
        manager["http_filters"] = manager["http_filters"][-1:]
    resources["clusters"] = resources["clusters"][:1]
    kind = "".join(part.title() for part in name.split("_"))
    policy = {
        "name": f"envoy.load_balancing_policies.{name}",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies."
            f"{name}.v3.{kind}",
            **settings,
        },
    }
    resources["clusters"][0]["load_balancing_policy"] = {
        "policies": [{"typed_extension_config": policy}]
    }


def contenders(config: TrafficConfig) -> list[Contender]:
    """Every policy through every path."""
    return [Contender(path, policy) for path in config.paths for policy in config.policies]
