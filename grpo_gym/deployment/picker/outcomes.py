"""What Envoy says of a request's end, as outcomes of the endpoints that were tried."""

from dataclasses import dataclass

from grpo_gym.deployment.routing import NoEndpointError, Pick, RoutingCore


@dataclass(frozen=True)
class Ending:
    """How a request ended.

    Attributes:
        code: HTTP status of the answer; 0: there was none.
        served: "ip:port" of the last endpoint that was tried; None if Envoy does not say.
        attempts: How often Envoy sent the request; 0: never.
        latency_ms: Duration of the last attempt; None: since the pick.
    """

    code: int
    served: str | None
    attempts: int
    latency_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the endpoint did its part; a client's mistake (4xx) is no fault of it."""
        return 0 < self.code < 500


def settle(core: RoutingCore, pick: Pick, ending: Ending) -> None:
    """Tell the core which endpoints failed and which one answered.

    Envoy tries the picked ones in their order, so those before the one that served have failed.
    """
    if not ending.code or not (ending.attempts or ending.served):
        core.cancel(pick.token)  # the client went away, or another filter answered
        return
    tried = pick.endpoints[: max(ending.attempts, 1)]
    if ending.served in tried:
        failed = tried[: tried.index(ending.served)]
    else:
        failed = tried if ending.served is None else tried[: ending.attempts - 1]
    served = ending.served if ending.served is not None else tried[-1]
    failed = tuple(each for each in failed if each != served)
    if not failed:
        core.finish(pick.token, ending.ok, ending.latency_ms, endpoint=served)
        return
    core.finish(pick.token, False)
    for endpoint in failed[1:]:
        _record(core, endpoint, False, None)
    _record(core, served, ending.ok, ending.latency_ms)


def _record(core: RoutingCore, endpoint: str, ok: bool, latency_ms: float | None) -> None:
    """The outcome of an attempt that was not the first."""
    try:
        pick = core.pick(among=(endpoint,))
    except NoEndpointError:  # removed meanwhile, or full
        return
    core.finish(pick.token, ok, latency_ms)
