"""Slow weights: a policy that scores servers becomes a file of weights that Envoy watches.

Nothing of ours is in a request's path. The access log says when an attempt reaches an endpoint and
how it ends, so the core observes the traffic as if it had picked; and many times a second it says
what it would do now.
"""

import asyncio
import contextlib
import json
import logging
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import numpy as np
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry

from grpo_gym.deployment.picker.access_log import ending, endpoint_name
from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.envoy_clusters import load_assignment, typed
from grpo_gym.deployment.routing import NoEndpointError, RoutingCore
from grpo_gym.storage.files import write_atomic

_LOGGER = logging.getLogger(__name__)
_SAMPLES_PER_UPDATE = 50
_SCALE = 1_000
"""Weight of an endpoint with an equal share; Envoy takes whole numbers."""


class WeightEstimate:
    """Weights from the probabilities with which a policy would choose each endpoint.

    Policies that send nine requests in ten to one server, and the tenth to another, do so by turns,
    as the servers' states change. The mean of their probabilities over the states of the last
    period is the share of the traffic that each server would have got: that is its weight.
    """

    def __init__(self, smoothing: float, floor: float) -> None:
        """Set what a new estimate counts, and the least weight as a fraction of an equal share."""
        self._smoothing = smoothing
        self._floor = floor
        self._shares: dict[str, float] = {}
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._samples = 0

    def add(self, probabilities: Mapping[str, float]) -> None:
        """Note what the policy would do now; the probabilities' sum is 1."""
        for name, probability in probabilities.items():
            self._sums[name] += probability
        self._samples += 1

    def update(self, names: Sequence[str]) -> list[int]:
        """The weights of these endpoints from what was noted since the last update.

        New endpoints begin with an equal share.
        """
        equal = 1.0 / len(names)
        shares = np.array([self._shares.get(name, equal) for name in names])
        if self._samples:
            newest = np.array([self._sums[name] / self._samples for name in names])
            shares += self._smoothing * (newest - shares)
        shares /= shares.sum()
        self._shares = dict(zip(names, shares.tolist(), strict=True))
        self._sums.clear()
        self._samples = 0
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
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
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
            self._tokens[name].append(self._core.pick(among=(name,)).token)

    def _end(self, name: str, entry: HTTPAccessLogEntry) -> None:
        if not self._tokens[name]:  # no connection, or begun before this process
            self._begin(name)
        if not self._tokens[name]:
            return
        token, end = self._tokens[name].popleft(), ending(entry)
        if end.code:
            self._core.finish(token, end.ok, end.latency_ms)
        else:
            self._core.cancel(token)

    async def _run(self) -> None:
        pause = self._config.update_s / _SAMPLES_PER_UPDATE
        while True:
            for _ in range(_SAMPLES_PER_UPDATE):
                await asyncio.sleep(pause)
                self._estimate.add(self._core.shares())
            try:
                await asyncio.to_thread(self._write, self._assignment())
            except OSError as error:  # a full disk passes, and the old weights stay
                _LOGGER.warning("cannot write %s: %s", self._config.eds_file, error.strerror)

    def _assignment(self) -> dict[str, object]:
        status = self._core.status().endpoints
        names = [each.name for each in status]
        healthy = [each.healthy for each in status]
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
