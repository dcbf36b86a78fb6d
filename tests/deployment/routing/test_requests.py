"""Requests in flight: picked, finished, cancelled, forgotten; limits, retries, threads."""

import random
import threading
from typing import Any

import pytest

from grpo_gym.deployment.routing import Endpoint, EndpointStatus, NoEndpointError
from grpo_gym.settings import ConfigError
from routing_bench import Bench, Script, bench, endpoints


def in_flight(world: Bench) -> list[int]:
    return [each.in_flight for each in world.core.status().endpoints]


def figures(world: Bench, name: str) -> EndpointStatus:
    return next(each for each in world.core.status().endpoints if each.name == name)


class Heard:
    """An observer."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_pick(self, *event: Any) -> None:
        self.events.append(("pick", *event))

    def on_finish(self, *event: Any) -> None:
        self.events.append(("finish", *event))

    def on_cancel(self, *event: Any) -> None:
        self.events.append(("cancel", *event))


def test_a_request_is_in_flight_until_it_ends() -> None:
    world = bench(Script(2))
    first, second, third = (world.pick() for _ in range(3))
    assert first.endpoints[0] == "c" and len(set(first.endpoints)) == 4
    assert in_flight(world) == [0, 0, 3, 0]
    assert world.core.finish(first.token, ok=True)
    assert world.core.cancel(second.token)
    assert in_flight(world) == [0, 0, 1, 0]
    world.now_s = 1.0
    assert world.core.finish(third.token, ok=False)
    status = world.core.status()
    assert (status.picks, status.finished, status.errors, status.cancelled) == (3, 2, 1, 1)
    assert in_flight(world) == [0, 0, 0, 0]
    assert figures(world, "c").share == 1.0


def test_a_token_ends_once() -> None:
    world = bench()
    token = world.pick().token
    assert world.core.finish(token, ok=True)
    assert not world.core.finish(token, ok=True)
    assert not world.core.cancel(token)
    assert world.core.status().unknown_tokens == 2
    assert in_flight(world) == [0, 0, 0, 0]


def test_tokens_of_another_process_are_unknown() -> None:
    first, second = bench(), bench()
    tokens = [first.pick().token for _ in range(100)]
    second.pick()
    assert not any(second.core.finish(token, ok=True) for token in tokens)
    assert max(tokens) < 2**53  # JSON keeps them
    assert sum(in_flight(second)) == 1


def test_latency_is_the_time_since_the_pick_or_what_is_said() -> None:
    world = bench(Script(0))
    token = world.pick().token
    world.now_s = 0.030
    world.core.finish(token, ok=True)
    assert figures(world, "a").latency_ms == pytest.approx(30.0)
    assert figures(world, "a").age_s == 0.0
    world.core.finish(world.pick().token, ok=True, latency_ms=130.0)
    assert figures(world, "a").latency_ms == pytest.approx(30.0 + 0.2 * 100.0)


@pytest.mark.parametrize("latency_ms", [float("nan"), float("inf"), -1.0])
def test_latencies_that_cannot_be_are_refused(latency_ms: float) -> None:
    world = bench()
    token = world.pick().token
    with pytest.raises(ValueError, match="latency_ms must be finite and >= 0"):
        world.core.finish(token, ok=True, latency_ms=latency_ms)
    assert world.core.finish(token, ok=True)  # the token is still good


def test_a_quick_failure_says_nothing_about_latency() -> None:
    world = bench(Script(0), service_ms=20.0)
    world.one(latency_ms=40.0)
    world.one(ok=False, latency_ms=1.0)
    assert figures(world, "a").latency_ms == pytest.approx(40.0)
    assert figures(world, "a").error_rate == pytest.approx(0.2)
    world.one(ok=False, latency_ms=90.0)  # served, and wrong
    assert figures(world, "a").latency_ms == pytest.approx(50.0)


def test_another_endpoint_may_have_served() -> None:
    world = bench(Script(0), count=2)
    world.core.observers.append(heard := Heard())
    token = world.pick().token
    world.now_s = 0.05
    assert world.core.finish(token, ok=True, endpoint="b")
    first, second = world.core.status().endpoints
    assert (first.in_flight, second.in_flight) == (0, 0)
    assert first.error_rate == 1.0 and first.latency_ms is None
    assert second.error_rate == 0.0 and second.latency_ms == pytest.approx(50.0)
    assert heard.events[-1] == ("finish", "b", "policy", True, 50.0)


def test_an_unknown_endpoint_may_have_served() -> None:
    world = bench(Script(0), count=2)
    assert world.core.finish(world.pick().token, ok=True, endpoint="elsewhere")
    first, second = world.core.status().endpoints
    assert (first.in_flight, first.error_rate, second.age_s) == (0, 0.0, None)


def test_old_requests_are_forgotten_and_counted() -> None:
    world = bench(Script(0), token_age_s=60.0)
    world.core.observers.append(heard := Heard())
    lost = world.pick()
    world.now_s = 30.0
    kept = world.pick()
    world.now_s = 61.0
    status = world.core.status()
    assert (status.expired, in_flight(world)) == (1, [1, 0, 0, 0])
    assert heard.events[-1] == ("cancel", "a", "policy")
    assert figures(world, "a").error_rate == 1.0
    assert not world.core.finish(lost.token, ok=True)
    assert world.core.finish(kept.token, ok=True)


def test_a_forgotten_request_is_an_error_that_ejects_nobody() -> None:
    world = bench(Script(0), token_age_s=60.0, consecutive_errors=1, service_ms=20.0)
    world.one(latency_ms=40.0)
    for _ in range(3):
        world.pick()
    world.now_s += 61.0
    seen = figures(world, "a")
    assert seen.error_rate == pytest.approx(1.0 - 0.8**3)
    assert seen.latency_ms == pytest.approx(40.0)  # nobody knows how long it took
    assert seen.healthy


def test_a_client_that_has_waited_longer_than_usual_tells_something() -> None:
    world = bench(Script(0), service_ms=20.0)

    def latency_ms() -> float | None:
        return figures(world, "a").latency_ms

    world.core.cancel(world.pick().token, waited_ms=500.0)
    assert latency_ms() is None  # there is no average to be raised
    world.one(latency_ms=40.0)
    for waited_ms in (None, 0.0, 39.0):
        world.core.cancel(world.pick().token, waited_ms)
        assert latency_ms() == pytest.approx(40.0)
    world.core.cancel(world.pick().token, waited_ms=140.0)
    assert latency_ms() == pytest.approx(40.0 + 0.2 * 100.0)
    seen = figures(world, "a")
    assert (seen.error_rate, seen.in_flight) == (0.0, 0)
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="waited_ms must be finite and >= 0"):
            world.core.cancel(world.pick().token, waited_ms=wrong)


def test_candidates_can_be_limited() -> None:
    world = bench()
    assert set(world.pick(among=["b", "d", "unknown"]).endpoints) == {"b", "d"}
    assert set(world.pick(exclude={"a", "c"}).endpoints) == {"b", "d"}
    assert world.pick(among={"b", "c"}, exclude={"c"}).endpoints == ("b",)
    with pytest.raises(NoEndpointError, match="no endpoint is left") as caught:
        world.pick(exclude="abcd")
    assert not caught.value.saturated


def test_nobody_without_endpoints() -> None:
    world = bench()
    world.core.set_endpoints([])
    with pytest.raises(NoEndpointError, match="there are no endpoints") as caught:
        world.pick()
    assert not caught.value.saturated
    assert world.core.status().endpoints == ()
    world.core.add(Endpoint("a", "http://a"))
    assert world.pick().endpoints == ("a",)


def test_limits_of_requests_in_flight() -> None:
    world = bench(endpoints=endpoints(2, max_in_flight=2))
    tokens = [world.pick().token for _ in range(4)]
    with pytest.raises(NoEndpointError, match="max_in_flight") as caught:
        world.pick()
    assert caught.value.saturated
    world.core.cancel(tokens[0])
    assert len(world.pick().endpoints) == 1


def test_no_more_in_flight_than_half_the_log() -> None:
    world = bench(log_size=20)
    tokens = [world.pick().token for _ in range(10)]
    with pytest.raises(NoEndpointError, match="in flight") as caught:
        world.pick()
    assert caught.value.saturated
    assert world.core.finish(tokens[3], ok=True)
    world.pick()


def test_ties_go_to_who_has_waited_longest() -> None:
    world = bench("least_connections", guard={"mode": "shadow"})
    assert [world.one() for _ in range(8)] == list("abcdabcd")


@pytest.mark.parametrize("policy", ["peak_ewma", "c3", "prequal", "pretrained:router", "online"])
def test_a_long_stream_in_a_short_log(policy: str) -> None:
    generator = random.Random(0)
    world = bench(policy, log_size=64, service_ms=20.0)
    open_tokens: list[int] = []
    for _ in range(3_000):
        world.now_s += 0.004
        open_tokens.append(world.pick().token)
        if len(open_tokens) > generator.randrange(12):
            token = open_tokens.pop(generator.randrange(len(open_tokens)))
            assert world.core.finish(token, ok=generator.random() < 0.9)
    slow = world.pick().token
    status = world.core.status()
    assert sum(each.in_flight for each in status.endpoints) == len(open_tokens) + 1
    assert status.guard.violations_in_window == 0
    for token in [*open_tokens, slow]:
        assert world.core.finish(token, ok=True)
    assert sum(in_flight(world)) == 0


def test_threads_lose_nothing() -> None:
    world = bench("pretrained:router", service_ms=10.0)
    failures: list[BaseException] = []

    def client(seed: int) -> None:
        generator = random.Random(seed)
        try:
            for _ in range(150):
                pick = world.core.pick()
                if generator.random() < 0.2:
                    assert world.core.cancel(pick.token)
                else:
                    assert world.core.finish(pick.token, ok=True, latency_ms=5.0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for number in range(20):
        world.core.set_endpoints(endpoints(3 + number % 3))
        world.core.swap_policy(("least_connections", "pretrained:router")[number % 2])
        world.core.status()
    for thread in threads:
        thread.join()
    assert not failures
    status = world.core.status()
    assert status.picks == 1_200 == status.finished + status.cancelled
    assert sum(in_flight(world)) == 0


def test_endpoints_are_checked() -> None:
    assert Endpoint.from_url("http://127.0.0.1:9001/").url == "http://127.0.0.1:9001"
    assert Endpoint.from_url("https://example.org/base").name == "example.org:443"
    assert Endpoint.from_url("http://[::1]:80").name == "[::1]:80"
    for url in ("127.0.0.1:80", "ftp://a", "http://", "http://a:99999", "http://a?b", "http://u@a"):
        with pytest.raises(ConfigError, match="backend must be http://HOST"):
            Endpoint.from_url(url)
    for settings in ({"weight": 0.0}, {"weight": float("nan")}, {"workers": 0},
                     {"max_in_flight": 0}):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} of a must be"):
            Endpoint("a", "http://a", **settings)
    with pytest.raises(ConfigError, match="endpoint names must differ, got 'a' twice"):
        bench(endpoints=[*endpoints(1), *endpoints(1)])
