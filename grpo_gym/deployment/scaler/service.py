"""A running scaler: readings at a steady pace, the gRPC server, and the admin port."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from grpo_gym.deployment.admin import AdminServer, start_admin
from grpo_gym.deployment.scaler.core import ScalingCore
from grpo_gym.deployment.scaler.prometheus import MetricsError, Prometheus
from grpo_gym.deployment.scaler.server import ScalerServer
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig

_log = logging.getLogger(__name__)


class ScalerService:
    """Reads, decides and answers from `start` to `close`.

    Attributes:
        server: The gRPC server.
        admin: The admin port.
        reading: Reads for ever; ends only by an error that nobody expected.
    """

    admin: AdminServer
    reading: "asyncio.Task[None]"

    def __init__(
        self,
        core: ScalingCore,
        *,
        host: str = "127.0.0.1",
        port: int = 6000,
        admin_host: str = "127.0.0.1",
        admin_port: int = 9902,
    ) -> None:
        """Choose what decides, and where to listen; port 0: any that is free."""
        self.server = ScalerServer(core)
        self._core = core
        self._address = host, port
        self._admin_address = admin_host, admin_port
        queries = core.settings.all_queries(core.config.step_seconds, service_seconds(core.config))
        self._prometheus = Prometheus(core.settings, queries)

    async def start(self) -> None:
        """Listen, and begin to read.

        Raises:
            ConfigError: If an address or a port cannot be used.
        """
        self.admin = await start_admin(self._core, *self._admin_address)
        try:
            await self.server.start(*self._address)
        except BaseException:
            await self.admin.close()
            raise
        self.reading = asyncio.create_task(self._read_on())

    async def close(self) -> None:
        """Finish calls, and stop."""
        self.admin.drain()
        self.reading.cancel()
        await asyncio.wait((self.reading,))
        await self.server.close()
        await self.admin.close()
        await self._prometheus.close()

    async def _read_on(self) -> None:
        """Read for ever. Late readings do not delay the next ones."""
        loop = asyncio.get_running_loop()
        pause_s = min(self._core.settings.poll_seconds, self._core.config.step_seconds)
        start_s, count = loop.time(), 0
        while True:
            await self._read()
            count = max(count, int((loop.time() - start_s) / pause_s)) + 1
            await asyncio.sleep(start_s + count * pause_s - loop.time())

    async def _read(self) -> None:
        before = self._core.problem
        try:
            measured = await self._prometheus.read()
        except MetricsError as error:
            self._core.fail(str(error))
        else:
            await _finished(asyncio.to_thread(self._core.take, measured))
        await self.server.announce()
        if (problem := self._core.problem) != before:
            _log.warning("%s", problem or "metrics are back")


async def _finished(call: Coroutine[Any, Any, None]) -> None:
    """Wait for a call in a thread, as the guard may wait for the policy; at shutdown too."""
    task = asyncio.create_task(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def service_seconds(config: AutoScalerConfig) -> float:
    """Service time of one request on an idle replica."""
    return 0.001 * (config.batch_overhead_ms + config.request_ms)
