"""Picks for each request, by ext_proc and by ext_authz, with the real Envoy."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

from aiohttp import ClientSession

from envoy_bench import load, wait_until
from grpo_gym.deployment.picker.external_authorization import Authorization
from grpo_gym.deployment.picker.external_processor import Exchange
from picker_bench import Bench, Start, never_eject

MODES = pytest.mark.parametrize("mode", ["ext_proc", "ext_authz"])
_DESTINATION = "x-gateway-destination-endpoint"


@MODES
def test_envoy_follows_each_pick(start: Start, mode: str) -> None:
    bench = start(mode)

    one_by_one = load(bench.envoy.url, 30, at_once=1)
    together = load(bench.envoy.url, 90, at_once=12)

    assert one_by_one.statuses == {200: 30}
    assert together.statuses == {200: 90}
    assert one_by_one.served_by == bench.seen.picked[:30]
    assert Counter(together.served_by) == Counter(bench.seen.picked[30:])
    bench.wait_until_idle()
    assert len(bench.seen.finished) == 120
    assert all(ok for _, ok, _ in bench.seen.finished)
    bench.assert_no_failures()


@MODES
def test_latency_is_that_of_the_whole_answer(start: Start, mode: str) -> None:
    bench = start(mode)
    for backend in bench.backends:
        backend.delay_s, backend.body_delay_s = 0.1, 0.2

    load(bench.envoy.url, 3, at_once=3)

    bench.wait_until_idle()
    assert len(bench.seen.finished) == 3
    for _, _, latency_ms in bench.seen.finished:
        assert 295.0 < latency_ms < 600.0


@MODES
def test_requests_are_in_flight_until_their_end(start: Start, mode: str) -> None:
    bench = start(mode)
    for backend in bench.backends:
        backend.body_delay_s = 30.0

    clients = [_ask(bench) for _ in range(12)]
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert bench.in_flight == 12
    for client in clients:
        client.close()

    bench.wait_until_idle()
    if mode == "ext_authz":  # the access log tells an abort from an end
        assert len(bench.seen.cancelled) == 12


@MODES
def test_clients_that_go_away_before_an_answer_teach_nothing(start: Start, mode: str) -> None:
    bench = start(mode)
    for backend in bench.backends:
        backend.delay_s = 30.0

    clients = [_ask(bench) for _ in range(12)]
    wait_until(lambda: bench.in_flight == 12)
    for client in clients:
        client.close()

    bench.wait_until_idle()
    assert len(bench.seen.cancelled) == 12
    assert bench.seen.finished == []


@MODES
def test_clients_cannot_forge_a_pick(start: Start, mode: str) -> None:
    bench = start(mode)
    bench.policy.favourite = 0
    forged = {
        _DESTINATION: bench.backends[2].name,
        "x-gateway-destination-endpoint-subset": bench.backends[2].name,
        "x-grpo-gym-pick": "1",
    }

    answers = load(bench.envoy.url, 20, headers=forged)

    assert answers.served_by == [bench.backends[0].name] * 20
    assert _DESTINATION not in bench.backends[0].seen
    bench.wait_until_idle()
    assert bench.core.status().unknown_tokens == 0


@MODES
def test_the_picker_sees_no_credentials(
    start: Start, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    answer, handle = Exchange.answer, Authorization.handle

    def note_answer(self: Exchange, request: Any) -> Any:
        seen.append(str(request))
        return answer(self, request)

    async def note_handle(self: Authorization, request: Any) -> Any:
        seen.append(f"{request.method} {request.raw_path} {request.raw_headers}")
        return await handle(self, request)

    monkeypatch.setattr(Exchange, "answer", note_answer)
    monkeypatch.setattr(Authorization, "handle", note_handle)
    bench = start(mode)
    bench.policy.favourite = 0

    secret = {"Authorization": "Bearer s3cret", "Cookie": "s3cret", "X-Key": "s3cret"}
    assert load(f"{bench.envoy.url}/some/path", 3, headers=secret).statuses == {200: 3}

    assert len(seen) >= 3
    assert "s3cret" not in "".join(seen)
    assert bench.backends[0].seen["authorization"] == "Bearer s3cret"


@MODES
def test_a_dead_pick_costs_a_retry_and_no_error(start: Start, mode: str) -> None:
    bench = start(mode)
    bench.policy.favourite = 0
    dead = bench.backends[0]
    dead.stop()

    answers = load(bench.envoy.url, 60, at_once=20)

    assert answers.statuses == {200: 60}
    bench.wait_until_idle()
    status = {each.name: each for each in bench.core.status().endpoints}
    assert status[dead.name].error_rate > 0.5
    assert status[dead.name].ejected
    served = status[bench.backends[1].name]
    assert served.error_rate == 0.0
    assert served.latency_ms is not None
    bench.assert_no_failures()


@MODES
def test_errors_of_backends_count_and_those_of_clients_do_not(start: Start, mode: str) -> None:
    bench = start(mode)
    bench.policy.favourite = 0
    bench.backends[0].status = 404
    load(bench.envoy.url, 4)
    bench.backends[0].status = 500
    load(bench.envoy.url, 4)

    bench.wait_until_idle()
    assert sorted(ok for _, ok, _ in bench.seen.finished) == [False] * 4 + [True] * 4


@MODES
def test_full_endpoints_shed_with_429(start: Start, mode: str) -> None:
    bench = start(mode, max_in_flight=1)
    for backend in bench.backends:
        backend.delay_s = 0.5

    answers = load(bench.envoy.url, 9, at_once=9)

    assert answers.statuses == {200: 3, 429: 6}


@MODES
def test_a_hung_picker_costs_a_bounded_time(start: Start, mode: str) -> None:
    bench = start(mode, timeout_ms=200.0)
    bench.loop.block(4.0)

    begin = time.monotonic()
    answers = load(bench.envoy.url, 200, at_once=8)
    duration_s = time.monotonic() - begin

    assert answers.statuses == {200: 200}
    assert answers.slowest_s < 1.0
    # The health check takes it out within a second: not 200 / 8 time-outs of 0.2 s.
    assert duration_s < 3.5
    wait_until(lambda: load(bench.envoy.url, 1).statuses == {200: 1} and bench.seen.picked != [])
    bench.wait_until_idle()


@MODES
def test_without_its_picker_envoy_chooses_by_itself(start: Start, mode: str) -> None:
    bench = start(mode)
    load(bench.envoy.url, 3)
    bench.backends[0].stop()
    bench.loop.run(bench.server.close())
    picks = len(bench.seen.picked)

    answers = load(bench.envoy.url, 60)

    assert answers.statuses == {200: 60}
    assert len(bench.seen.picked) == picks


@pytest.mark.parametrize("count", [2, 3])
@MODES
def test_a_retry_of_envoy_finds_another_backend_before_any_ejection(
    start: Start, mode: str, count: int
) -> None:
    bench = start(mode, count, change=never_eject)
    dead, *others = bench.backends
    for backend in others:
        backend.delay_s = 0.02  # so the dead one is always the least busy
    dead.stop()
    bench.loop.run(bench.server.close())

    answers = load(bench.envoy.url, 200, at_once=16)

    assert answers.statuses == {200: 200}
    assert set(answers.served_by) == {each.name for each in others}


@MODES
def test_picks_go_on_after_garbage_at_the_ports(start: Start, mode: str) -> None:
    bench = start(mode)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frames = [
        b"\x00" * 2_000,
        bytes(range(256)) * 40,
        preface + b"\xff" * 3_000,
        preface
        + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        + b"\x00\x00\x05\x00\x00\x00\x00\x00\x01junk!",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /pick HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ]
    for port in [bench.server.port, bench.server.http_port][: 2 if mode == "ext_authz" else 1]:
        for frame in frames:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
                client.sendall(frame)
                client.settimeout(0.2)
                with contextlib.suppress(OSError):
                    client.recv(100)

    assert load(bench.envoy.url, 30).statuses == {200: 30}
    bench.assert_no_failures()


@MODES
def test_a_picker_that_says_nonsense_is_ignored(start: Start, mode: str) -> None:
    bench = start(mode)
    nonsense = "banana,10.0.0.1,[::1,:,\u20ac"
    real = bench.core.pick
    bench.core.pick = lambda **given: _renamed(real(**given), nonsense)  # type: ignore[method-assign]

    assert load(bench.envoy.url, 20).statuses == {200: 20}


def _renamed(pick: Any, name: str) -> Any:
    return replace(pick, endpoints=(name,))


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz", "weights"])
def test_websockets_are_in_flight_as_long_as_they_are_open(start: Start, mode: str) -> None:
    bench = start(mode)

    async def talk() -> list[str]:
        async with ClientSession() as session, session.ws_connect(bench.envoy.url) as client:
            said = []
            for text in ("a", "b"):
                await client.send_str(text)
                said.append(await client.receive_str(timeout=10))
            await asyncio.to_thread(wait_until, lambda: bench.in_flight == 1)
            return said

    said = asyncio.run(talk())

    served = bench.seen.picked[0]
    assert said == [f"{served} a", f"{served} b"]
    bench.wait_until_idle()


def test_a_backend_that_breaks_off_is_seen_in_the_access_log(start: Start) -> None:
    bench = start("ext_authz")
    bench.policy.favourite = 0
    bench.backends[0].breaks_off = True

    load(bench.envoy.url, 3)

    bench.wait_until_idle()
    assert [ok for _, ok, _ in bench.seen.finished] == [False] * 3


def _ask(bench: Bench) -> socket.socket:
    """A client that has sent a request and does not read."""
    client = socket.create_connection(("127.0.0.1", bench.envoy.port), timeout=10)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return client
