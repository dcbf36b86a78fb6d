"""The proxy with everything around it: core, admin port, and the policy's file."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from grpo_gym.deployment.admin import AdminServer, start_admin
from grpo_gym.deployment.proxy.reload import PolicyFile
from grpo_gym.deployment.proxy.server import Proxy
from grpo_gym.deployment.proxy.settings import RouteSettings
from grpo_gym.deployment.routing import RoutingCore
from grpo_gym.settings import ConfigError

_ACCESS = logging.getLogger("grpo_gym.access")


class RouteService:
    """A running proxy.

    Attributes:
        proxy: Serves clients.
        admin: Serves operators.
        policy_file: Loads the policy again.
    """

    def __init__(self, proxy: Proxy, admin: AdminServer, policy_file: PolicyFile) -> None:
        self.proxy = proxy
        self.admin = admin
        self.policy_file = policy_file

    async def drain(self) -> int:
        """End without losing requests; the number of those that were cut off."""
        self.admin.drain()
        return await self.proxy.drain()


@asynccontextmanager
async def serve(core: RoutingCore, settings: RouteSettings) -> AsyncIterator[RouteService]:
    """Run a proxy in front of a core's endpoints until the end of the `with`.

    Args:
        core: Picks; who made it closes it.
        settings: Where to listen, and limits.

    Raises:
        ConfigError: If a port cannot be bound, or the file of certificates cannot be read.
    """
    log = _ACCESS if settings.access_log else None
    host, port = settings.host, settings.port
    try:
        proxy = await Proxy.start(core, settings.proxy, host=host, port=port, access_log=log)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else error  # below: no such host
        raise ConfigError(
            f"port must be free, got {host}:{port} ({reason}): choose another"
        ) from None
    try:
        admin = await start_admin(core, settings.admin_host, settings.admin_port)
        policy_file = PolicyFile(core)
        watching = asyncio.create_task(policy_file.watch())
        try:
            yield RouteService(proxy, admin, policy_file)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await admin.close()
    finally:
        await proxy.close()
