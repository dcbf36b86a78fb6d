"""The plain simulator of `load_balancer_reference.py` against hand-computed numbers."""

from typing import Any

import pytest

from grpo_gym.envs.load_balancer.presets import make_config
from load_balancer_reference import Job, Server


def by_hand(faults: list[tuple[float, float, str]], **settings: Any) -> Server:
    settings = {"service_rates": (2.0,), "slow_factor": 3.0, **settings}
    return Server(make_config(**settings), 0, faults, 0.0)


def test_first_come_first_served() -> None:
    server = by_hand([], base_latency_ms=5.0)
    assert server.meet(10.0, 8.0) == (10.0, 14.0, 9.0, 0.001, False)
    server.jobs = [Job(10.0, 14.0, 9.0, False)]
    assert server.meet(11.0, 2.0) == (14.0, 15.0, 9.0, 0.001, False)


def test_faults_are_those_at_the_start_of_service() -> None:
    server = by_hand([(0.0, 12.0, "slow"), (20.0, 30.0, "down")], recovery_ramp_ms=10.0)
    assert server.meet(10.0, 8.0)[:2] == (10.0, 22.0)  # three times 4 ms
    assert server.meet(17.0, 8.0)[:2] == (17.0, 25.0)  # half recovered: twice 4 ms
    assert server.meet(25.0, 8.0) == (25.0, 25.0, 1.0, 1.0, True)
    server.jobs = [Job(10.0, 22.0, 12.0, False)]
    assert server.meet(19.0, 8.0)[:2] == (30.0, 42.0)  # waits until it is back, slow at first
    assert server.meet(30.0, 8.0)[4] is False


def test_averages() -> None:
    server = by_hand([], metrics_weight=0.25)
    assert server.average([]) == 0.0
    assert server.average([8.0]) == 8.0
    assert server.average([8.0, 16.0]) == pytest.approx(10.0)
    assert server.average([8.0, 16.0, 2.0]) == pytest.approx(8.0)
