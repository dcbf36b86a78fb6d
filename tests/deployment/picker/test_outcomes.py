"""What the core learns from what Envoy says, attempt by attempt."""

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

from grpo_gym.deployment.picker.outcomes import Ending, settle
from grpo_gym.deployment.routing import Endpoint, NoEndpointError, RoutingConfig, RoutingCore
from picker_bench import Picks, Steered

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


@pytest.fixture
def core() -> RoutingCore:
    """A core whose picks begin with A; all of it is healthy."""
    endpoints = [Endpoint.from_url(f"http://{name}") for name in (A, B, C)]
    return RoutingCore(endpoints, Steered(), RoutingConfig(consecutive_errors=1_000))


def _learnt(core: RoutingCore) -> dict[str, bool | None]:
    """Whether each endpoint has failed; None: nothing is known of it."""
    status = core.status().endpoints
    assert all(each.in_flight == 0 for each in status)
    return {
        each.name: None if each.age_s is None else each.error_rate > 0.0
        for each in status
        if each.age_s is not None
    }


@pytest.mark.parametrize(
    ("ending", "learnt"),
    [
        (Ending(200, A, 1), {A: False}),
        (Ending(404, A, 1), {A: False}),
        (Ending(500, A, 1), {A: True}),
        (Ending(503, None, 1), {A: True}),
        (Ending(200, B, 2), {A: True, B: False}),
        (Ending(502, B, 2), {A: True, B: True}),
        (Ending(200, C, 3), {A: True, B: True, C: False}),
        (Ending(503, None, 3), {A: True, B: True, C: True}),
        (Ending(503, None, 4), {A: True, B: True, C: True}),
        # Retries have found nobody else than the first.
        (Ending(200, A, 2), {A: False}),
        # Envoy has not followed the pick: A was never tried.
        (Ending(200, B, 1), {B: False}),
        (Ending(200, "10.9.9.9:80", 1), {}),
        (Ending(200, "10.9.9.9:80", 2), {}),
        # The client went away, or another filter of Envoy answered.
        (Ending(0, A, 1), {}),
        (Ending(403, None, 0), {}),
    ],
)
def test_each_attempt_is_learnt(core: RoutingCore, ending: Ending, learnt: dict[str, bool]) -> None:
    pick = core.pick()
    assert pick.endpoints == (A, B, C)

    settle(core, pick, ending)

    assert _learnt(core) == learnt


def test_an_ending_without_its_pick_is_counted_and_nothing_else(core: RoutingCore) -> None:
    pick = core.pick()
    settle(core, pick, Ending(200, A, 1))
    settle(core, pick, Ending(500, A, 1))

    assert _learnt(core) == {A: False}
    assert core.status().unknown_tokens == 1


def test_refusals_and_time_outs_are_what_they_are() -> None:
    assert Ending(503, A, 1, refused=True).failure == "refused"
    assert Ending(504, A, 1).failure == "timeout"
    assert Ending(500, A, 1).failure is None


def test_requests_that_are_somewhere_already_count_there(core: RoutingCore) -> None:
    seen = Picks()
    core.observers.append(seen)

    pick = core.pick(at=C)

    assert pick.endpoints[0] == A, "who would have got it"
    assert seen.picked == [C]
    assert [each.in_flight for each in core.status().endpoints] == [0, 0, 1]
    core.finish(pick.token, True, 5.0)
    assert _learnt(core) == {C: False}
    with pytest.raises(NoEndpointError, match="no endpoint"):
        core.pick(at="10.9.9.9:80")
