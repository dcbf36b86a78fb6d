"""What Envoy says of a request's end, as outcomes of the endpoints that were tried."""

from dataclasses import dataclass

from grpo_gym.deployment.routing import Failure, NoEndpointError, Pick, RoutingCore


@dataclass(frozen=True)
class Ending:
    """How a request, or one attempt at it, ended.

    Attributes:
        code: HTTP status of the answer; 0: the client went away.
        served: "ip:port" of the last endpoint that was tried; None if Envoy does not say.
        attempts: How often Envoy sent the request; 0: never.
        latency_ms: Duration of the last attempt; None: since the pick.
        refused: Whether there was no connection.
    """

    code: int
    served: str | None
    attempts: int
    latency_ms: float | None = None
    refused: bool = False

    @property
    def ok(self) -> bool:
        """Whether the endpoint did its part; a client's mistake (4xx) is no fault of it."""
        return 0 < self.code < 500

    @property
    def failure(self) -> Failure | None:
        """How it failed, as far as Envoy says."""
        if self.refused:
            return "refused"
        return "timeout" if self.code == 504 else None


def settle(core: RoutingCore, pick: Pick, ending: Ending) -> None:
    """Tell the core which endpoints failed and which one answered.

    Envoy tries the picked ones in their order, so those before the one that served have failed.
    """
    if not ending.code or not (ending.attempts or ending.served):
        core.cancel(pick.token)  # the client went away, or another filter answered
        return
    tried = list(pick.endpoints[: max(ending.attempts, 1)])
    served = tried[-1] if ending.served is None else ending.served
    if served == tried[0]:
        core.finish(pick.token, ending.ok, ending.latency_ms, failure=ending.failure)
    elif ending.attempts > 1:
        # The core takes it that the first has failed; the one that served is not among the failed.
        core.finish(pick.token, ending.ok, ending.latency_ms, served, ending.failure)
        failed = tried[1 : tried.index(served)] if served in tried else tried[1:-1]
        for endpoint in failed:
            record(core, endpoint, Ending(503, endpoint, 1, refused=True))
    else:  # Envoy did not follow the pick
        core.cancel(pick.token)
        record(core, served, ending)


def record(core: RoutingCore, endpoint: str, ending: Ending) -> None:
    """Tell the core of an attempt that it did not choose."""
    try:
        pick = core.pick(at=endpoint)
    except NoEndpointError:  # removed meanwhile
        return
    core.finish(pick.token, ending.ok, ending.latency_ms, failure=ending.failure)
