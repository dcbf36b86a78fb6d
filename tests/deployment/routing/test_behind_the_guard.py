"""The guard around the policy: shadow, violations, outcomes, the quick alarm, restarts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment import QuickAlarmConfig
from grpo_gym.settings import ConfigError
from routing_bench import Script, bench


def test_in_shadow_the_fallback_acts() -> None:
    script = Script(3)
    world = bench(script, guard={"mode": "shadow"})
    assert [world.one() for _ in range(4)] == list("abcd")
    assert len(script.observations) == 4
    world.core.guard.set_mode("full")
    assert world.one() == "d"
    assert world.core.status().mode == "full"


def test_the_fallback_sends_to_who_has_least_in_flight() -> None:
    world = bench(Script(0), guard={"mode": "shadow"})
    tokens = {name: world.pick(among=[name]).token for name in "abcd"}
    world.core.finish(tokens["c"], ok=True)
    assert world.pick().endpoints[0] == "c"


@pytest.mark.parametrize("wrong", ["raises", "nan", "short"])
def test_a_broken_policy_is_rolled_back(wrong: str) -> None:
    class Broken(Script):
        def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
            if wrong == "raises":
                raise RuntimeError("broken")
            return np.full(4 if wrong == "nan" else 1, np.nan)

    world = bench(Broken(3))
    picks = [world.one() for _ in range(30)]
    assert picks[:8] == list("abcdabcd")
    status = world.core.status()
    assert status.mode == "shadow" and status.finished == 30


def test_outcomes_are_compared() -> None:
    world = bench(
        Script(0),
        service_ms=20.0,
        guard={"outcome_test": True, "holdout_percentage": 20.0, "block_steps": 5,
               "warmup_steps": 1},
    )  # fmt: skip
    for _ in range(4_000):
        pick = world.pick()
        latency_ms = 100.0 if pick.endpoints[0] == "a" else 20.0
        world.now_s += latency_ms / 1_000.0
        world.core.finish(pick.token, ok=True)
        if world.core.guard.mode == "shadow":
            break
    status = world.core.status()
    assert status.mode == "shadow"
    assert "outcomes worse" in world.core.guard.transitions[-1].reason
    # In mean service times: five for the policy.
    assert status.guard.policy_outcome == pytest.approx(-5.0, rel=0.01)


def test_an_error_costs_seven_and_a_half_service_times() -> None:
    world = bench(
        Script(0),
        service_ms=20.0,
        consecutive_errors=10_000,
        error_period_requests=10_000,
        guard={"outcome_test": True, "block_steps": 5, "warmup_steps": 1},
    )
    for _ in range(20):
        world.one(ok=False, latency_ms=20.0)
    assert world.core.status().guard.policy_outcome == pytest.approx(-8.5)


def test_the_quick_alarm_hears_every_request() -> None:
    alarm = QuickAlarmConfig(check_seconds=10.0, minimum_requests=20, failed_checks=2)
    world = bench(
        Script(0),
        consecutive_errors=10_000,
        error_period_requests=10_000,
        guard={"quick_alarm": alarm},
    )
    for number in range(1_000):
        world.one(ok=number % 10 != 0, latency_ms=100.0)
        if world.core.guard.mode == "shadow":
            break
    assert world.core.guard.mode == "shadow" and number < 400


ALARM = QuickAlarmConfig(check_seconds=10.0, minimum_requests=20, failed_checks=2, of_last_checks=3)
NO_EJECTIONS = {"consecutive_errors": 10_000, "error_period_requests": 10_000}


def test_requests_that_are_forgotten_alarm() -> None:
    world = bench(Script(0), token_age_s=5.0, guard={"quick_alarm": ALARM}, **NO_EJECTIONS)
    for _ in range(1_000):
        world.pick()  # nobody tells the end
        world.now_s += 0.1
        if world.core.guard.mode == "shadow":
            break
    assert "requests failed" in world.core.guard.transitions[-1].reason


@pytest.mark.parametrize("swapped", [True, False])
def test_a_new_policy_is_not_judged_by_the_requests_of_the_old_one(swapped: bool) -> None:
    world = bench(Script(0), guard={"quick_alarm": ALARM}, **NO_EJECTIONS)

    def seconds(count: int, ok: bool) -> None:
        for _ in range(10 * count):
            world.one(ok, latency_ms=100.0)

    seconds(12, ok=False)  # one check has failed
    seconds(6, ok=False)  # the next one would
    in_flight = [world.pick().token for _ in range(50)]
    if swapped:
        world.core.swap_policy(Script(1))
    else:
        world.core.set_endpoints(world.core.endpoints)
    for token in in_flight:
        world.core.finish(token, ok=False)
    seconds(60, ok=True)
    assert world.core.guard.mode == ("full" if swapped else "shadow")
    if swapped:
        alarm = world.core.status().guard.quick_alarm
        assert alarm is not None and (alarm.last_failure, alarm.checks >= 4) == ("", True)
        seconds(40, ok=False)
        assert world.core.guard.mode == "shadow"  # it is judged by its own


def test_a_swap_begins_the_test_of_outcomes_anew(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "service_ms": 20.0,
        "state_path": tmp_path / "guard.json",
        "guard": {"outcome_test": True, "holdout_percentage": 20.0, "block_steps": 5,
                  "warmup_steps": 1, "quick_alarm": ALARM, "mode": "shadow"},
    }  # fmt: skip
    world = bench(Script(0), **settings)
    world.core.guard.set_mode("full")
    for _ in range(300):
        world.one()
    before = world.core.status().guard
    assert before.policy_blocks > 10 and before.fallback_blocks > 0 and before.clean_hours > 0
    world.core.swap_policy("round_robin")
    after = world.core.status().guard
    assert (after.mode, after.percentage) == ("full", 100.0)
    assert (after.policy_blocks, after.fallback_blocks, after.clean_hours) == (0, 0, 0.0)
    last = world.core.guard.transitions[-1]
    assert (last.from_mode, last.to_mode, last.by) == ("full", "full", "operator")
    assert last.reason == "the policy is round_robin now"
    # As after kill -9: what is on the disk is what there is.
    state = (tmp_path / "guard.json").read_bytes()
    world.core.close()
    (tmp_path / "guard.json").write_bytes(state)
    again = bench("round_robin", **settings)
    restored = again.core.status().guard
    assert (restored.mode, restored.policy_blocks, restored.clean_hours) == ("full", 0, 0.0)
    assert again.core.guard.transitions[-1] == last
    again.core.close()


def test_a_swap_that_fails_restarts_nothing() -> None:
    world = bench(Script(0), guard={"quick_alarm": ALARM})
    for _ in range(30):
        world.one()
    before = world.core.status().guard
    with pytest.raises(ConfigError):
        world.core.swap_policy("no such policy")
    assert world.core.status().guard == before


def test_the_mode_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    world = bench(Script(0), state_path=path, guard={"mode": "shadow"})
    world.core.guard.promote()
    with world.core:
        world.one()
    again = bench(Script(0), state_path=path, guard={"mode": "shadow"})
    assert again.core.status().mode == "gradual"
    again.core.save()
    again.core.close()


def test_probes_are_no_decisions_of_the_guard() -> None:
    world = bench(Script(0), consecutive_errors=1, ejection_s=1.0)
    world.one(ok=False)
    world.now_s += 1.0
    decisions = world.core.status().guard.decisions
    assert world.one() == "a"
    assert world.core.status().guard.decisions == decisions
