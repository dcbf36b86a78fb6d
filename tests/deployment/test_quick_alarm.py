"""The quick alarm: what rolls back within minutes, in simulated time, and what must not."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment import (
    GuardConfig,
    GuardStateError,
    QuickAlarmConfig,
    QuickAlarmStatus,
    state_file,
)
from grpo_gym.deployment.latency_sketch import RELATIVE_ERROR, LatencySketch
from grpo_gym.settings import ConfigError
from guard_bench import Bench, bench


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


def alarmed(mode: str = "full", **settings: Any) -> Bench:
    """A guard that decides every ten seconds; of a minute's requests 60 are a block's arm's."""
    alarm = {"minimum_requests": 100, "reference_requests": 100, **settings}
    return bench(
        mode=mode, holdout_percentage=50, block_steps=6, warmup_steps=0, outcome_test=False,
        clean_hours=1e6, quick_alarm=QuickAlarmConfig(**alarm),
    )  # fmt: skip


def minutes(
    world: Bench,
    count: int,
    *,
    errors: float = 0.0,
    slowness: float = 1.0,
    fallback_errors: float = 0.0,
    requests: int = 10,
) -> None:
    """Decisions every ten seconds, each with requests of 1 to 2 ms; the policy's may be worse."""
    chance = np.random.default_rng(0)
    for _ in range(6 * count):
        decision = world.step(10.0)
        worse = decision.arm == "policy"
        for _ in range(requests):
            ok = chance.random() >= (errors if worse else fallback_errors)
            latency_ms = chance.uniform(1.0, 2.0) * (slowness if worse else 1.0)
            world.guard.observe_request(bool(ok), latency_ms, decision.arm)


def rolled_back(world: Bench) -> str:
    """Why; empty if it was not."""
    return world.guard.transitions[-1].reason if world.guard.mode == "shadow" else ""


@pytest.mark.parametrize("mode", ["gradual", "full"])
@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        ({"errors": 0.5}, {}, "requests failed, at most 1 % may"),
        ({"slowness": 10.0}, {}, "1.5 times the fallback's p99, at most 1 % may"),
        (
            {"slowness": 10.0},
            {"maximum_p99_ms": 5.0, "maximum_p99_ratio": None},
            "took longer than 5 ms, the p99 allowed",
        ),
        ({"slowness": 10.0}, {"maximum_p99_ms": 2.0}, "took longer than 2 ms, the p99 allowed"),
        ({"slowness": 10.0}, {"maximum_p99_ms": 9.0}, "1.5 times the fallback's p99"),
        ({"requests": 0}, {"unobserved_decisions": 3}, "no request was observed in 6 decisions"),
    ],
)
def test_each_threshold_rolls_back_within_minutes(
    mode: str, fault: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    world = alarmed(mode, **settings)
    if mode == "gradual":
        world.guard.set_percentage(50)
    minutes(world, 20)
    assert rolled_back(world) == ""
    began_s = world.now_s
    minutes(world, 30, **fault)
    text = rolled_back(world)
    assert "5 of the last 10 quick checks failed" in text and reason in text
    # Half of the minutes are the policy's.
    assert world.guard.transitions[-1].time_s - began_s <= 16 * 60
    assert world.guard.transitions[-1].by == "guard"
    assert sum(each.to_mode == "shadow" for each in world.guard.transitions) == 1


@pytest.mark.parametrize(
    ("well", "settings"),
    [
        ({}, {}),
        ({"errors": 0.5}, {"minimum_success_percentage": 0}),
        ({"slowness": 10.0}, {"maximum_p99_ratio": None}),
        ({"slowness": 1.4}, {}),
        ({"slowness": 10.0}, {"maximum_p99_ms": 21.0, "maximum_p99_ratio": None}),
        ({"fallback_errors": 0.5}, {}),
        ({"errors": 0.5}, {"minimum_requests": 10**6}),
        ({"requests": 0}, {"unobserved_decisions": None}),
        ({"requests": 0}, {"unobserved_decisions": 7}),
    ],
)
def test_within_the_thresholds_nothing_happens(
    well: dict[str, Any], settings: dict[str, Any]
) -> None:
    world = alarmed(**settings)
    minutes(world, 60, **well)
    assert rolled_back(world) == ""


def test_nothing_is_checked_in_shadow_and_a_new_rollout_starts_clean() -> None:
    world = alarmed(mode="shadow")
    minutes(world, 30, fallback_errors=1.0, errors=1.0)
    for _ in range(30):  # late answers
        for _ in range(100):
            world.guard.observe_request(False, 1.0, "policy")
        world.step(60.0)
    assert status_of(world).checks == 0
    world.guard.set_mode("full")
    minutes(world, 30, errors=1.0)
    assert "quick checks failed" in rolled_back(world)
    world.guard.set_mode("full")
    minutes(world, 30)
    status = world.guard.status().quick_alarm
    assert status is not None
    assert world.guard.mode == "full"
    assert (status.failed_checks, status.last_failure) == (0, "")


def test_a_check_passes_with_enough_requests_only_and_fails_as_soon_as_it_must() -> None:
    """Of 100 requests, of which 6 come a minute, one may fail."""
    world = alarmed(minimum_requests=100, failed_checks=1, of_last_checks=1)
    counts = []
    for errors in (0, 1, 1, 2):
        for minute in range(200):
            checks = status_of(world).checks
            for number in range(6):
                ok = not (minute == 3 and number < errors)
                world.guard.observe_request(ok, 1.0, "policy")
            world.step(60.0)
            if status_of(world).checks > checks or world.guard.mode == "shadow":
                counts.append(6 * (minute + 1))
                break
    assert counts == [102, 102, 102, 24]
    assert "2 of 24 requests failed" in rolled_back(world)


def status_of(world: Bench) -> QuickAlarmStatus:
    status = world.guard.status().quick_alarm
    assert status is not None
    return status


def failed_checks(world: Bench) -> int:
    return status_of(world).failed_checks


def test_failures_of_long_ago_are_forgotten() -> None:
    world = alarmed(failed_checks=4, of_last_checks=5)
    for _ in range(4):
        for _ in range(60):
            if failed_checks(world) == 2:
                break
            minutes(world, 1, errors=1.0)
        assert failed_checks(world) == 2
        minutes(world, 30)
        assert failed_checks(world) == 0
    assert world.guard.mode == "full"
    minutes(world, 30, errors=1.0)
    assert "4 of the last" in rolled_back(world)


@pytest.mark.parametrize(("slow_after", "is_noticed"), [(10, True), (100, False)])
def test_the_fallback_of_shadow_is_compared_with_for_an_hour(
    slow_after: int, is_noticed: bool
) -> None:
    world = alarmed(mode="shadow")
    minutes(world, 10)
    world.guard.set_mode("full")
    for minute in range(slow_after + 30):
        for decision in world.steps(6, seconds=10.0):
            for _ in range(10 * (decision.arm == "policy")):  # nothing new of the fallback
                slowness = 10.0 if minute >= slow_after else 1.0
                world.guard.observe_request(True, 1.5 * slowness, "policy")
    assert ("times the fallback's" in rolled_back(world)) is is_noticed


def test_status_shows_the_requests_since_the_last_check() -> None:
    world = alarmed(mode="shadow")
    assert bench().guard.status().quick_alarm is None
    for latency_ms in (10.0, 20.0, None):
        world.guard.observe_request(latency_ms is not None, latency_ms, "policy")
    status = world.guard.status().quick_alarm
    assert status is not None
    assert status.policy_requests == 3
    assert status.policy_success_percentage == pytest.approx(200 / 3)
    assert status.policy_p99_ms == pytest.approx(20.0, rel=RELATIVE_ERROR)
    assert (status.fallback_requests, status.fallback_p99_ms) == (0, None)


def test_a_clock_that_is_set_back_delays_the_next_check_only() -> None:
    world = alarmed()
    minutes(world, 20)
    world.now_s -= 5 * 3600
    minutes(world, 30, errors=1.0)
    assert "quick checks failed" in rolled_back(world)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((True, math.nan, "policy"), "latency_ms must be finite and >= 0, or None, got nan"),
        ((True, math.inf, "policy"), "got inf"),
        ((True, -1.0, "policy"), "got -1.0"),
        ((True, "fast", "policy"), "got 'fast'"),
        ((True, 1.0, "canary"), "arm must be 'policy' or 'fallback', got 'canary'"),
        ((True, 1.0, ["policy"]), "arm must be 'policy' or 'fallback'"),
    ],
)
def test_what_is_no_request_is_refused(arguments: Any, message: str) -> None:
    for world in (alarmed(), bench()):
        with pytest.raises(ConfigError, match=message):
            world.guard.observe_request(*arguments)


def test_more_failed_checks_than_count_are_refused() -> None:
    with pytest.raises(ConfigError, match="of_last_checks must be >= failed_checks, got 3 and 5"):
        QuickAlarmConfig(of_last_checks=3)


# State


@pytest.mark.parametrize("restart_every", [1, 7])
def test_a_restart_changes_nothing(tmp_path: Path, restart_every: int) -> None:
    worlds = [alarmed(), alarmed()]
    for number, world in enumerate(worlds):
        world.guard.close()
        world.state_path = tmp_path / f"{number}.json"
        world.start()
    for minute in range(25):
        for world in worlds:
            minutes(world, 1, errors=0.5 if minute >= 12 else 0.0, slowness=1.2)
        if minute % restart_every == 0:
            worlds[1].restart()
        assert worlds[0].guard.status() == worlds[1].guard.status()
    assert worlds[0].guard.transitions == worlds[1].guard.transitions
    assert "quick checks failed" in rolled_back(worlds[1])
    for world in worlds:
        world.guard.save()
    states = [state_file.read_state(tmp_path / f"{number}.json") for number in (0, 1)]
    assert states[0] == states[1]


def test_a_state_of_before_there_was_a_quick_alarm_is_read(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    world = bench(state_path=path)
    world.steps(5)
    world.guard.close()
    state = state_file.read_state(path)
    assert state is not None and "alarm" not in state
    assert state["config"].pop("quick_alarm", "absent") is None
    state_file.write_state(path, state)
    again = bench(state_path=path)
    assert again.guard.status().decisions == 5
    again.guard.close()
    with pytest.raises(GuardStateError, match="made with quick_alarm=None"):
        bench(state_path=path, quick_alarm=QuickAlarmConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [("total", -1), ("latencies", {"x": 1}), ("latencies", {"1": -1}), ("began_s", "soon"),
     ("checks", [2]), ("policy", {}), ("reference_s", None)],
)  # fmt: skip
def test_a_damaged_alarm_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "guard.json"
    settings: dict[str, Any] = {"state_path": path, "quick_alarm": QuickAlarmConfig()}
    bench(**settings).guard.close()
    state = state_file.read_state(path)
    assert state is not None
    alarm = state["alarm"]
    (alarm["policy"] if name == "latencies" else alarm)[name] = value
    state_file.write_state(path, state)
    with pytest.raises(GuardStateError, match="its content is not a guard's"):
        bench(**settings)


def test_the_alarm_can_be_set_in_a_file() -> None:
    config = GuardConfig(**json.loads('{"quick_alarm": {"maximum_p99_ms": 500}}'))
    assert config.quick_alarm == QuickAlarmConfig(maximum_p99_ms=500.0)


# The sketch of latencies


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_within_their_relative_error(probability: float, seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(3.0, 2.0, size=4_321)
    sketch = LatencySketch()
    for value in values:
        sketch.add(float(value))
    exact = np.quantile(values, probability, method="inverted_cdf")
    assert sketch.quantile(probability) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)


def test_the_sketch_is_bounded_and_takes_every_latency() -> None:
    sketch = LatencySketch()
    assert sketch.quantile(0.99) is None
    for exponent in np.linspace(-320, 308, 20_000):
        sketch.add(10.0**exponent)
    sketch.add(0.0)
    assert sketch.count == 20_001
    assert len(sketch.state()) <= 1_200
    last = sketch.quantile(1.0)
    assert last is not None and last == pytest.approx(1e7, rel=2 * RELATIVE_ERROR)
