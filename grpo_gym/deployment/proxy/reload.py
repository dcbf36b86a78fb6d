"""A policy file that changes while the proxy runs is loaded again."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from grpo_gym.settings import ConfigError

_log = logging.getLogger(__name__)

_EVERY_S = 1.0

_Stamp = tuple[int, int, int]
"""What changes with a file: its time, size and inode."""


class PolicyFile:
    """Watches the file of a policy, and loads it again when it has changed or on request."""

    def __init__(self, policy: str, swap: Callable[[str], None]) -> None:
        """Start from the file as it is now.

        Args:
            policy: The policy as the core takes it; one that is no file is never watched.
            swap: Loads and installs it; may raise ConfigError or OSError, and then changes nothing.
        """
        self._policy = policy
        self._swap = swap
        self._seen = self._stamp()

    async def watch(self) -> None:
        """Look at the file every second."""
        while True:
            await asyncio.sleep(_EVERY_S)
            stamp = self._stamp()
            if stamp is not None and stamp != self._seen:
                await self.load()

    async def load(self) -> None:
        """Load the policy now; one that cannot be used is reported, and the old one stays."""
        self._seen = self._stamp()
        try:
            await asyncio.to_thread(self._swap, self._policy)
        except (ConfigError, OSError) as error:
            _log.error("the old policy stays: %s", error)
        else:
            _log.warning("loaded %s again", self._policy)

    def _stamp(self) -> _Stamp | None:
        try:
            status = Path(self._policy).stat()
        except (OSError, ValueError):
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
