"""The plain simulator of `load_balancer_reference.py` against hand-computed numbers."""

from typing import Any

import pytest

from grpo_gym.envs.load_balancer.presets import make_config
from load_balancer_reference import Job, Server, average


def by_hand(faults: list[tuple[float, float, str]], **settings: Any) -> Server:
    settings = {"service_rates": (2.0,), "slow_factor": 3.0, **settings}
    return Server(make_config(**settings), 0, faults)


def test_first_come_first_served() -> None:
    server = by_hand([], base_latency_ms=5.0)
    assert server.meet(10.0, 8.0)[:5] == (10.0, 14.0, 9.0, 0.001, False)
    server.accept(Job(10.0, 14.0, 9.0, False))
    assert server.meet(11.0, 2.0)[:5] == (14.0, 15.0, 9.0, 0.001, False)


def test_workers_serve_side_by_side() -> None:
    server = by_hand([], workers=2)
    server.accept(Job(10.0, 30.0, 20.0, False))
    assert server.meet(11.0, 8.0)[:2] == (11.0, 15.0)
    server.accept(Job(11.0, 15.0, 4.0, False))
    assert server.meet(12.0, 2.0)[:2] == (15.0, 16.0)
    server.accept(Job(12.0, 16.0, 4.0, False))
    assert server.meet(12.0, 40.0)[:2] == (16.0, 36.0)
    server.accept(Job(12.0, 36.0, 24.0, False))
    assert server.meet(12.0, 2.0)[:2] == (30.0, 31.0)


def test_a_full_server_rejects() -> None:
    server = by_hand([], connection_limit=2)
    server.accept(Job(10.0, 14.0, 4.0, False))
    assert not server.meet(11.0, 8.0).rejected
    server.accept(Job(11.0, 18.0, 7.0, False))
    assert server.meet(12.0, 8.0) == (12.0, 12.0, 1.0, 1.0, True, True, False, False)
    server.leave(14.0)
    assert not server.meet(14.0, 8.0).rejected


def test_time_outs_in_service_and_in_the_queue() -> None:
    server = by_hand([], timeout_ms=10.0)
    assert server.meet(0.0, 20.0)[:4] == (0.0, 10.0, 10.0, 0.001)
    late = server.meet(0.0, 21.0)
    assert late[:4] == (0.0, 10.0, 10.0, 1.0)
    assert late.timed_out
    assert not late.abandoned
    server.accept(Job(0.0, 10.0, 10.0, True), late.abandoned)
    assert server.meet(0.0, 2.0)[:2] == (10.0, 10.0)
    two = by_hand([(1.0, 90.0, "down")], timeout_ms=10.0)
    two.accept(Job(0.0, 5.0, 5.0, False))
    queued = two.meet(0.5, 2.0)
    assert queued[:4] == (10.5, 10.5, 10.0, 1.0)
    assert queued.abandoned


def test_faults_are_those_at_the_start_of_service() -> None:
    server = by_hand([(0.0, 12.0, "slow"), (20.0, 30.0, "down")], recovery_ramp_ms=10.0)
    assert server.meet(10.0, 8.0)[:2] == (10.0, 22.0)  # three times 4 ms
    assert server.meet(17.0, 8.0)[:2] == (17.0, 25.0)  # half recovered: twice 4 ms
    assert server.meet(25.0, 8.0)[:5] == (25.0, 25.0, 1.0, 1.0, True)
    server.accept(Job(10.0, 22.0, 12.0, False))
    assert server.meet(19.0, 8.0)[:2] == (30.0, 42.0)  # waits until it is back, slow at first
    assert server.meet(30.0, 8.0)[4] is False


def test_averages() -> None:
    assert average([], 0.25) == 0.0
    assert average([8.0], 0.25) == 8.0
    assert average([8.0, 16.0], 0.25) == pytest.approx(10.0)
    assert average([8.0, 16.0, 2.0], 0.25) == pytest.approx(8.0)
