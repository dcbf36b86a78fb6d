"""`scaler`: scale a deployment with KEDA by a policy of AutoScaler-v0 behind the guard."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from grpo_gym.cli.failures import extra_serve, reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.serving import on_signals, say, unless_impatient
from grpo_gym.deployment.scaler.settings import ScalerSettings
from grpo_gym.settings import ConfigError, Integer, checked_dataclass, from_mapping, load_yaml

Port = Annotated[Integer, Field(ge=0, le=65_535)]


@checked_dataclass
class ScalerOptions:
    """Settings, and where to listen."""

    config: Path | None = None
    """YAML file of settings: the deployment, its metrics, the policy, and the guard.
    docs/how_to/keda.md describes it."""
    host: str = "127.0.0.1"
    """Address at which KEDA asks; 0.0.0.0 in a pod."""
    port: Port = 6000
    """Port at which KEDA asks, over gRPC; 0: any that is free."""
    admin_host: str = "127.0.0.1"
    """Address of metrics and status page; commands are taken from loopback only."""
    admin_port: Port = 9902
    """Port of metrics, status page and commands; 0: any that is free."""
    prometheus: str | None = None
    """URL of Prometheus, instead of that in the file."""
    policy: str | None = None
    """Policy, instead of that in the file: a baseline, an exported file, a checkpoint, a run's
    folder."""


_LINE = CommandLine(
    "scaler",
    "Say to KEDA how many replicas a deployment is to have: an external scaler that reads "
    "Prometheus and asks a policy of AutoScaler-v0 behind a guard. See docs/how_to/keda.md.\n\n"
    "For example:\n"
    "  --config scaler.yaml --host 0.0.0.0\n"
    "  --config scaler.yaml --prometheus http://127.0.0.1:9090 --policy runs/AutoScaler-v0/...",
    {"scaler": ScalerOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options: ScalerOptions = _LINE.read(arguments)["scaler"]
    return asyncio.run(_serve(options, _settings(options)))


def _settings(options: ScalerOptions) -> ScalerSettings:
    """The settings of the file, and of the command line over them.

    Raises:
        ConfigError: If there is no file, or a value cannot be used.
    """
    if options.config is None:
        raise ConfigError("--config must name a YAML file of settings: see docs/how_to/keda.md")
    given = {"prometheus": options.prometheus, "policy": options.policy}
    values = {name: value for name, value in given.items() if value is not None}
    return from_mapping(
        ScalerSettings, {**load_yaml(options.config), **values}, str(options.config)
    )


async def _serve(options: ScalerOptions, settings: ScalerSettings) -> int:
    """Scale until SIGTERM or Ctrl-C.

    Raises:
        Stopped: If a second signal comes.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines would come beside our errors
    with extra_serve("scaler"):
        from grpo_gym.deployment.scaler.core import ScalingCore
        from grpo_gym.deployment.scaler.service import ScalerService  # of the extra `serve`
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    signals: asyncio.Queue[int] = asyncio.Queue()
    on_signals(("SIGTERM", "SIGINT"), signals.put_nowait)
    with contextlib.closing(ScalingCore(settings)) as core:
        service = ScalerService(
            core,
            host=options.host,
            port=options.port,
            admin_host=options.admin_host,
            admin_port=options.admin_port,
        )
        await service.start()
        say(
            f"scaling {settings.namespace}/{settings.deployment} by {settings.policy} "
            f"({core.guard.mode}, fallback {settings.fallback}): gRPC at "
            f"{options.host}:{service.server.port}"
        )
        say(f"admin port: http://{options.admin_host}:{service.admin.port}")
        asked = asyncio.create_task(signals.get())
        await asyncio.wait((asked, service.reading), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not service.reading.done():
            say("stopping")
        await unless_impatient(service.close(), signals)
        if not service.reading.cancelled():
            await service.reading  # raises what ended it
    return 0
