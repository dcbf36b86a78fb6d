"""The picker of the demonstration, as a process: `grpo-gym picker` with a guard that never waits.

python -m grpo_gym.deployment.demo.picker '{"policy": ..., "endpoints": ..., "ports": ...}'
"""

import asyncio
import json
import signal
import sys
from typing import Any

from grpo_gym.deployment.demo.contenders import GUARD
from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.server import PickerServer
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, RoutingCore, routing_guard


async def _serve(settings: dict[str, Any]) -> None:
    endpoints = [
        Endpoint(name, url, workers=workers) for name, url, workers in settings["endpoints"]
    ]
    grpc_port, http_port = settings["ports"]
    config = PickerConfig(mode="ext_authz", port=grpc_port, http_port=http_port, drain_s=0.0)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    routing = RoutingConfig(guard=routing_guard(**GUARD))
    with RoutingCore(endpoints, settings["policy"], routing) as core:
        server = PickerServer(core, config)
        await server.start()
        await stopped.wait()
        await server.close()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
