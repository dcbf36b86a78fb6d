"""A policy file that changes while the proxy runs is loaded again."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from grpo_gym.deployment.routing import RoutingStatus
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError

_log = logging.getLogger(__name__)

_EVERY_S = 1.0

_IN_A_RUN = ("best.ckpt", "latest.ckpt")
_Stamp = tuple[int, int, int]
"""What changes with a file: its time, size and inode."""


class Swaps(Protocol):
    """What is asked of a `RoutingCore`."""

    def swap_policy(self, policy: str) -> None:
        """Install another policy, or raise and change nothing."""

    def status(self) -> RoutingStatus:
        """Says which policy it has."""


class PolicyFile:
    """The file of a core's policy, if it has one: loaded again when it has changed."""

    def __init__(self, core: Swaps) -> None:
        """Start from the policy and its file as they are now."""
        self._core = core
        self._policy = core.status().policy
        self._seen = _stamps(self._policy)

    async def watch(self) -> None:
        """Look at the file every second."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Load the policy again if its file has changed."""
        policy = self._core.status().policy
        stamps = _stamps(policy)
        if policy == self._policy and stamps and stamps != self._seen:
            await self.load()
        self._policy, self._seen = policy, stamps or self._seen

    async def load(self) -> None:
        """Load the policy again; one that cannot be used is reported, and the old one stays."""
        policy = self._core.status().policy
        try:
            await asyncio.to_thread(self._core.swap_policy, policy)
        except (CheckpointError, ConfigError, OSError) as error:
            _log.error("the old policy stays: %s", error)
        else:
            _log.warning("loaded %s again", policy)


def _stamps(policy: str) -> list[_Stamp]:
    """Of a policy's file, or of the checkpoints in its folder; none for other policies."""
    path = Path(policy)
    files = [path / "checkpoints" / name for name in _IN_A_RUN] if path.is_dir() else [path]
    stamps = []
    for file in files:
        with suppress(OSError, ValueError):
            status = file.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return stamps
