"""The proxy as a whole: it starts, serves, and ends without losing requests."""

import asyncio
from contextlib import suppress
from logging import Logger
from typing import Self

from aiohttp import ClientSession, web

from grpo_gym.deployment.proxy.attempt import Core
from grpo_gym.deployment.proxy.backend import open_session
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.connections import Server
from grpo_gym.deployment.proxy.exchange import Exchanges
from grpo_gym.deployment.proxy.health import HealthChecks

_BACKLOG = 1024
_CUT_S = 1.0
"""Time for what is cut off to say goodbye."""
_LOOK_S = 0.02


class Proxy:
    """A reverse proxy in front of the endpoints of a core."""

    def __init__(
        self,
        core: Core,
        config: ProxyConfig,
        session: ClientSession,
        access_log: Logger | None = None,
    ) -> None:
        """Prepare it; `start` makes one.

        Args:
            core: Picks endpoints.
            config: Settings.
            session: The client of backends, which the proxy closes.
            access_log: Where each request is logged; None: nowhere.
        """
        self._config = config
        self._session = session
        self._exchanges = Exchanges(core, session, config)
        self._server = Server(self._exchanges.handle, config, access_log)
        self._runner = web.ServerRunner(self._server)
        self._site: web.TCPSite | None = None
        self._checks = asyncio.create_task(HealthChecks(core, session, config).run())

    @classmethod
    async def start(
        cls,
        core: Core,
        config: ProxyConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        access_log: Logger | None = None,
    ) -> Self:
        """Listen.

        Args:
            core: Picks endpoints.
            config: Settings; None: the defaults.
            host: Address to listen at.
            port: Port to listen at; 0: any that is free.
            access_log: Where each request is logged; None: nowhere.

        Raises:
            ConfigError: If the file of certificates cannot be read.
            OSError: If the port is in use.
        """
        config = ProxyConfig() if config is None else config
        proxy = cls(core, config, open_session(config), access_log)
        try:
            await proxy._listen(host, port)
        except BaseException:
            await proxy.close()
            raise
        return proxy

    @property
    def port(self) -> int:
        """The port that it listens at."""
        if self._site is None:
            raise RuntimeError("the proxy does not listen")
        return self._site.port

    @property
    def in_flight(self) -> int:
        """Requests that are being handled."""
        return self._exchanges.in_flight

    @property
    def connections(self) -> int:
        """Open connections of clients."""
        return len(self._server.connections)

    async def drain(self) -> int:
        """Stop listening, finish what is in flight, and close.

        Idle connections stay open for a moment, for requests that are on their way; each answer now
        ends its connection.

        Returns:
            The number of requests that were cut off at the end of the grace period.
        """
        self._exchanges.draining = True
        if self._site is not None:
            await asyncio.sleep(0)  # accept what is in the backlog
            await self._site.stop()
            self._site = None
        await asyncio.sleep(min(self._config.lame_duck_s, self._config.grace_s))
        await self._finish(self._config.grace_s)
        self._exchanges.closing.set()
        await self._finish(_CUT_S)
        cut = self.in_flight
        await self.close()
        return cut

    async def close(self) -> None:
        """Cut off what is in flight, and free everything. Idempotent."""
        if self._session.closed:
            return
        self._checks.cancel()
        await self._server.shutdown(timeout=0.01)
        await self._runner.cleanup()
        await self._session.close()

    async def _listen(self, host: str, port: int) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=_BACKLOG)
        await site.start()
        self._site = site

    async def _finish(self, seconds: float) -> None:
        """Wait until nothing is in flight, for so long at most; close what is idle."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._server.close_idle()
                while self.in_flight:
                    await asyncio.sleep(_LOOK_S)
                    self._server.close_idle()
