"""Ejection for errors, probes, active health checks, and panic."""

from grpo_gym.deployment.routing import Endpoint
from routing_bench import Bench, Script, bench


def states(world: Bench) -> str:
    """One letter for each endpoint: healthy, ejected (or probing), or reported unhealthy."""
    return "".join(
        "h" if each.healthy else "e" if each.ejected else "u"
        for each in world.core.status().endpoints
    )


def fail(world: Bench, count: int, name: str = "a") -> None:
    for _ in range(count):
        assert world.one(ok=False, latency_ms=1.0, among=[name], probe=False) == name


def test_errors_in_a_row_eject() -> None:
    world = bench(Script(0), consecutive_errors=3)
    fail(world, 2)
    world.one()
    fail(world, 2)
    assert states(world) == "hhhh"
    fail(world, 1)
    assert states(world) == "ehhh"
    pick = world.pick()
    assert pick.endpoints[0] != "a" and pick.endpoints[-1] == "a"


def test_a_large_share_of_errors_ejects() -> None:
    world = bench(Script(0), error_share=0.5, error_period_requests=10, error_period_s=1e6)
    for number in range(18):
        world.one(ok=number % 2 == 0, among=["a"])
        assert states(world) == ("hhhh" if number < 9 else "ehhh")


def test_errors_of_an_old_period_do_not_count() -> None:
    world = bench(Script(0), error_share=0.5, error_period_requests=10, error_period_s=10.0)
    for number in range(18):
        world.one(ok=number % 2 == 0, latency_ms=2_000.0, among=["a"])
    assert states(world) == "hhhh"


def test_ejections_take_twice_as_long_each_time() -> None:
    world = bench(Script(0), consecutive_errors=2, ejection_s=2.0, longest_ejection_s=10.0)
    lengths = []
    for _ in range(5):
        fail(world, 2)
        start_s = world.now_s
        while world.one(latency_ms=100.0) != "a":
            assert states(world) == "ehhh"
        lengths.append(world.now_s - start_s)
        for _ in range(2):  # two more good probes
            assert world.one() == "a"
        assert states(world) == "hhhh"
    assert [round(each) for each in lengths] == [2, 4, 8, 10, 10]
    world.now_s += 10.0  # well for as long as the longest ejection
    fail(world, 2)
    world.now_s += 2.0
    assert world.one() == "a"


def test_one_probe_at_a_time_and_a_bad_one_ejects_again() -> None:
    world = bench(Script(0), consecutive_errors=1, ejection_s=1.0)
    fail(world, 1)
    world.now_s += 1.0
    probe = world.pick()
    assert probe.endpoints[0] == "a" and len(probe.endpoints) == 4
    assert [world.pick().endpoints[0] for _ in range(3)] != ["a"] * 3
    assert states(world) == "ehhh"
    world.core.finish(probe.token, ok=False)
    world.now_s += 1.9
    assert world.one(latency_ms=0.0) != "a"
    world.now_s += 0.2
    assert world.one() == "a"


def test_a_cancelled_probe_lets_another_through() -> None:
    world = bench(Script(0), consecutive_errors=1, ejection_s=1.0)
    fail(world, 1)
    world.now_s += 1.0
    probe = world.pick()
    assert world.pick().endpoints[0] != "a"
    world.core.cancel(probe.token)
    assert world.pick(probe=False).endpoints[0] != "a"
    assert world.pick().endpoints[0] == "a"


def test_who_returns_is_judged_by_new_answers_only() -> None:
    world = bench(Script(0), consecutive_errors=2, ejection_s=1.0)
    world.one(latency_ms=500.0)
    fail(world, 2)
    world.now_s += 1.0
    assert world.core.status().endpoints[0].error_rate == 0.0
    for _ in range(3):
        world.one(latency_ms=20.0)
    first = world.core.status().endpoints[0]
    assert first.healthy and abs((first.latency_ms or 0.0) - 20.0) < 1e-6


def test_no_more_are_ejected_than_the_share_allows() -> None:
    world = bench(Script(0), consecutive_errors=1, ejected_share=0.5)
    for name in "abcd":
        fail(world, 3, name)
    assert states(world) == "eehh"
    alone = bench(Script(0), count=1, consecutive_errors=1)
    fail(alone, 5)
    assert states(alone) == "h"
    two = bench(Script(0), count=2, consecutive_errors=1, ejected_share=0.1)
    fail(two, 1, "a")
    fail(two, 1, "b")
    assert states(two) == "eh"


def test_active_checks() -> None:
    world = bench(Script(0))
    world.one(latency_ms=500.0)
    world.core.set_health("a", False)
    assert states(world) == "uhhh"
    assert world.pick().endpoints[-1] == "a"
    world.core.set_health("a", False)
    world.core.set_health("a", True)
    assert states(world) == "hhhh"
    assert world.core.status().endpoints[0].latency_ms is None  # what was before says nothing
    world.one(latency_ms=30.0)
    world.core.set_health("a", True)
    assert world.core.status().endpoints[0].latency_ms is not None


def test_a_good_check_lets_probes_through_at_once() -> None:
    world = bench(Script(0), consecutive_errors=1, ejection_s=50.0)
    fail(world, 1)
    world.core.set_health("a", True)
    assert world.one() == "a"
    assert states(world) == "ehhh"  # one good probe is not enough
    world.one()
    world.one()
    assert states(world) == "hhhh"


def test_all_are_candidates_if_none_is_healthy() -> None:
    world = bench(Script(2))
    for name in "abcd":
        world.core.set_health(name, False)
    pick = world.pick()
    assert pick.endpoints[0] == "c" and len(pick.endpoints) == 4
    world.core.set_health("b", True)
    assert world.pick().endpoints[0] == "b"
    assert world.pick(exclude=["b"]).endpoints[0] == "c"


def test_health_belongs_to_the_name() -> None:
    world = bench(Script(0), consecutive_errors=1, ejection_s=50.0)
    fail(world, 1)
    world.core.add(Endpoint("e", "http://e"))
    assert states(world) == "ehhhh"
    world.core.remove("a")
    world.core.add(Endpoint("a", "http://a"))
    assert states(world) == "hhhhh"


def test_an_endpoint_that_another_had_to_stand_in_for_is_ejected() -> None:
    world = bench(Script(0), consecutive_errors=3)
    for _ in range(3):
        world.core.finish(world.pick().token, ok=True, endpoint="b")
    assert states(world) == "ehhh"
