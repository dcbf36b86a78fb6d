"""Picks as answers to the HTTP calls of Envoy's `ext_authz`: a third of the cost of `ext_proc`.

The answer's headers become metadata, which choose the endpoint and come back in the access log.
"""

import asyncio

from aiohttp import web

from grpo_gym.deployment.picker.protocol import AUTHZ_PREFIX, DESTINATION, HEALTH_PATH, PICK_ID
from grpo_gym.deployment.routing import NoEndpointError, RoutingCore


class Authorization:
    """Answers every method, and every path below its prefix: Envoy would hand a 404 on.

    Attributes:
        serving: Whether the health check succeeds.
    """

    def __init__(self, core: RoutingCore) -> None:
        self._core = core
        self.serving = True

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """A pick with status 200, or 429 or 503; Envoy answers a 503 with a choice of its own."""
        path = request.raw_path
        if not path.startswith(AUTHZ_PREFIX):
            healthy = path == HEALTH_PATH and self.serving
            return web.Response(status=200 if healthy else 503)
        # After a pause of this process, calls wait that Envoy has given up; one turn of the loop
        # shows it, and their picks would count as in flight for long.
        await asyncio.sleep(0)
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=503)
        try:
            pick = self._core.pick()
        except NoEndpointError as error:
            return web.Response(status=429 if error.saturated else 503)
        headers = {DESTINATION: ",".join(pick.endpoints), PICK_ID: str(pick.token)}
        return web.Response(headers=headers)
