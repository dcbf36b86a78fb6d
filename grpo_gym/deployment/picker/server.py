"""The picker's ports: gRPC for picks, access logs and health checks, HTTP for `ext_authz`."""

import asyncio
import logging

import grpc
from aiohttp import web
from envoy.service.accesslog.v3.als_pb2_grpc import add_AccessLogServiceServicer_to_server
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import (
    add_ExternalProcessorServicer_to_server,
)
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from grpo_gym.deployment.picker.access_log import AccessLog, Outcomes
from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.external_authorization import Authorization
from grpo_gym.deployment.picker.external_processor import EndpointPicker
from grpo_gym.deployment.picker.weights import WeightFile
from grpo_gym.deployment.routing import RoutingCore
from grpo_gym.settings import ConfigError

_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second picker on the same port is an error, not a rival
    ("grpc.max_concurrent_streams", 100_000),
)

_SILENT = logging.getLogger("grpo_gym.picker.http")
"""aiohttp would write the bytes of malformed requests into the log."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class PickerServer:
    """A picker that listens.

    Attributes:
        port: Port of gRPC, once it has started.
        http_port: Port of `ext_authz`, in that mode.
    """

    def __init__(self, core: RoutingCore, config: PickerConfig) -> None:
        self._config = config
        self._health = health.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._authorization = Authorization(core)
        self._runner: web.ServerRunner | None = None
        self._weights = WeightFile(core, config) if config.mode == "weights" else None
        receive = Outcomes(core).receive if self._weights is None else self._weights.receive
        add_HealthServicer_to_server(self._health, self._server)
        add_AccessLogServiceServicer_to_server(AccessLog(receive), self._server)
        if config.mode == "ext_proc":
            add_ExternalProcessorServicer_to_server(EndpointPicker(core), self._server)
        self.port = config.port
        self.http_port = config.http_port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: If a port is taken.
            OSError: If the file of weights cannot be written.
        """
        self.port = self._bind_grpc()
        if self._config.mode == "ext_authz":
            self.http_port = await self._bind_http()
        if self._weights is not None:
            await self._weights.start()
        await self._set_serving(HealthCheckResponse.SERVING)
        await self._server.start()

    def addresses(self) -> list[str]:
        """What listens where, in lines for a person."""
        grpc_address = f"{self._written_host}:{self.port}"
        if self._config.mode == "ext_proc":
            return [f"picks: gRPC, ext_proc, at {grpc_address}"]
        log = f"access log: gRPC at {grpc_address}"
        if self._config.mode == "ext_authz":
            return [f"picks: HTTP, ext_authz, at {self._written_host}:{self.http_port}", log]
        return [f"weights: {self._config.eds_file.absolute()}", log]

    async def close(self) -> None:
        """Fail the health checks, wait until Envoy has noticed, and stop."""
        await self._set_serving(HealthCheckResponse.NOT_SERVING)
        self._authorization.serving = False
        await asyncio.sleep(self._config.drain_s)
        if self._weights is not None:
            await self._weights.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._server.stop(grace=0)

    async def _set_serving(self, status: HealthCheckResponse.ServingStatus) -> None:
        for service in ("", _SERVICE):
            await self._health.set(service, status)

    @property
    def _written_host(self) -> str:
        host = self._config.host
        return f"[{host}]" if ":" in host else host

    def _bind_grpc(self) -> int:
        host, port = self._config.host, self._config.port
        try:
            bound = self._server.add_insecure_port(f"{self._written_host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise _taken("port", host, port)
        return int(bound)

    async def _bind_http(self) -> int:
        host, port = self._config.host, self._config.http_port
        server = web.Server(self._authorization.handle, access_log=None, logger=_SILENT)
        self._runner = web.ServerRunner(server, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            raise _taken("http_port", host, port) from None
        return int(self._runner.addresses[0][1])


def _taken(name: str, host: str, port: int) -> ConfigError:
    return ConfigError(f"{name} must be free to listen at, got {host}:{port}: choose another")
