"""Slow weights: a policy that scores servers becomes a file of weights that Envoy watches.

Nothing of ours is in a request's path. The access log says when an attempt reaches an endpoint and
how it ends, so the core observes the traffic as if it had picked, and says at each attempt whom it
would have picked.
"""

import asyncio
import contextlib
import json
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Sequence

import numpy as np
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry

from grpo_gym.deployment.picker.access_log import ending, endpoint_name
from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.envoy_clusters import load_assignment, typed
from grpo_gym.deployment.routing import NoEndpointError, RoutingCore
from grpo_gym.storage.files import write_atomic

_LOGGER = logging.getLogger(__name__)
_SCALE = 1_000
"""Weight of an endpoint with an equal share; Envoy takes whole numbers."""


class WeightEstimate:
    """Weights from how often a policy would choose each endpoint.

    A policy that would send nine requests in ten to one server, and the tenth to another, does so
    by turns, as their states change. The share of the last period's requests that it would have
    sent to a server is the server's weight.
    """

    def __init__(self, smoothing: float, floor: float) -> None:
        """Set what a new estimate counts, and the least weight as a fraction of an equal share."""
        self._smoothing = smoothing
        self._floor = floor
        self._shares: dict[str, float] = {}
        self._votes: Counter[str] = Counter()

    def vote(self, name: str) -> None:
        """Note whom the policy would have chosen for a request."""
        self._votes[name] += 1

    def update(self, names: Sequence[str]) -> list[int]:
        """The weights of these endpoints from the votes since the last update.

        New endpoints begin with an equal share, and without votes nothing changes.
        """
        equal = 1.0 / len(names)
        shares = np.array([self._shares.get(name, equal) for name in names])
        if votes := self._votes.total():
            newest = np.array([self._votes[name] / votes for name in names])
            shares += self._smoothing * (newest - shares)
        shares /= shares.sum()
        self._shares = dict(zip(names, shares.tolist(), strict=True))
        self._votes.clear()
        relative = np.maximum(shares * len(names), self._floor)
        return [max(int(weight), 1) for weight in np.rint(_SCALE * relative)]


class WeightFile:
    """Observes the traffic, and replaces the file of weights while it runs."""

    def __init__(self, core: RoutingCore, config: PickerConfig) -> None:
        self._core = core
        self._config = config
        self._estimate = WeightEstimate(config.smoothing, config.weight_floor)
        # Envoy says the latency of each attempt itself, so attempts at one endpoint are alike.
        self._tokens: defaultdict[str, deque[int]] = defaultdict(deque)
        self._written = b""
        self._versions = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write the first file, with the configured weights, and go on in a task.

        Raises:
            OSError: If it cannot be written.
        """
        self._write(self._configured())
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Leave the configured weights behind, as nobody will adapt them any more."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        self._write(self._configured())

    def receive(self, entry: HTTPAccessLogEntry) -> None:
        """Count an attempt that begins or ends."""
        common = entry.common_properties
        name = endpoint_name(common.upstream_remote_address)
        if name is None:
            return
        if common.access_log_type == AccessLogType.UpstreamPoolReady:
            self._begin(name)
        elif common.access_log_type == AccessLogType.UpstreamEnd:
            self._end(name, entry)

    def _begin(self, name: str) -> None:
        with contextlib.suppress(NoEndpointError):  # removed meanwhile
            pick = self._core.pick(at=name)
            self._tokens[name].append(pick.token)
            self._estimate.vote(pick.endpoints[0])

    def _end(self, name: str, entry: HTTPAccessLogEntry) -> None:
        tokens, end = self._tokens[name], ending(entry)
        if not tokens:  # there was no connection, or it began before this process
            self._begin(name)
        while tokens:  # those whose end was lost are forgotten by the core
            token = tokens.popleft()
            if not end.code:
                known = self._core.cancel(token)
            else:
                known = self._core.finish(token, end.ok, end.latency_ms, failure=end.failure)
            if known:
                return

    async def _run(self) -> None:
        while not await self._stops_within(self._config.update_s):
            try:
                await asyncio.to_thread(self._write, self._assignment())
            except OSError as error:  # a full disk passes, and the old weights stay
                _LOGGER.warning("cannot write %s: %s", self._config.eds_file, error.strerror)

    async def _stops_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _assignment(self) -> dict[str, object]:
        """What the votes since the last call say, without endpoints that are ejected."""
        status = self._core.status().endpoints
        names = [each.name for each in status]
        # One whose ejection is over needs requests, or it would never come back.
        healthy = [each.healthy or each.probing for each in status]
        return load_assignment(names, self._estimate.update(names), healthy)

    def _configured(self) -> dict[str, object]:
        status = self._core.status().endpoints
        weights = [max(round(_SCALE * each.weight), 1) for each in status]
        return load_assignment([each.name for each in status], weights)

    def _write(self, assignment: dict[str, object]) -> None:
        resource = typed("envoy.config.endpoint.v3.ClusterLoadAssignment", **assignment)
        content = json.dumps(resource, sort_keys=True).encode()
        if content == self._written:
            return
        self._versions += 1
        response = {"version_info": str(self._versions), "resources": [resource]}
        write_atomic(self._config.eds_file, json.dumps(response).encode())
        self._written = content
