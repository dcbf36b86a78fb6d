"""Active health checks: is there a connection, or a good answer?"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress

import aiohttp
from yarl import URL

from grpo_gym.deployment.proxy.attempt import Core
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.settings import ConfigError

_log = logging.getLogger(__name__)


class HealthChecks:
    """Tells the core which endpoints are well, for as long as `run` runs."""

    def __init__(self, core: Core, session: aiohttp.ClientSession, config: ProxyConfig) -> None:
        self._core = core
        self._session = session
        self._config = config
        self._failures: Counter[str] = Counter()
        """Failed checks in a row, by endpoint."""

    async def run(self) -> None:
        """Check all endpoints again and again."""
        while True:
            await self.check_all()
            await asyncio.sleep(self._config.health_interval_s)

    async def check_all(self) -> None:
        """Check all endpoints once, side by side."""
        endpoints = tuple(self._core.endpoints)
        for name in self._failures.keys() - {endpoint.name for endpoint in endpoints}:
            del self._failures[name]
        outcomes = await asyncio.gather(*map(self._is_well, endpoints))
        for endpoint, is_well in zip(endpoints, outcomes, strict=True):
            self._note(endpoint.name, is_well)

    def _note(self, name: str, is_well: bool) -> None:
        before, limit = self._failures[name], self._config.health_failures
        now = self._failures[name] = 0 if is_well else before + 1
        if before < limit and now < limit:
            return  # nothing new: a good check would end the ejection of one that answers errors
        if is_well:
            _log.warning("%s is well again", name)
        elif before < limit:
            _log.warning("%s does not answer health checks: it gets no requests", name)
        with suppress(ConfigError):  # it was removed meanwhile
            self._core.set_health(name, is_well)

    async def _is_well(self, endpoint: Endpoint) -> bool:
        try:
            async with asyncio.timeout(self._config.health_timeout_s):
                if self._config.health_path is None:
                    return await _has_connection(URL(endpoint.url))
                url = endpoint.url + self._config.health_path
                async with self._session.get(url, allow_redirects=False) as response:
                    return response.status < 400
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            return False


async def _has_connection(url: URL) -> bool:
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.close()
    return True
