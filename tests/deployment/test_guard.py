"""The guard's modes: who acts in each, and every way from one to another, in simulated time."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment import Decision, Guard, GuardConfig, GuardError, Violation
from grpo_gym.settings import ConfigError
from guard_bench import FALLBACK, HOUR, POLICY, bench

SHADOW, FULL = ("shadow", 0.0), ("full", 100.0)
LADDER = [*(("gradual", float(percentage)) for percentage in range(10, 100, 10)), FULL]


# Who acts


def test_in_shadow_the_policy_is_recorded_and_the_fallback_acts() -> None:
    world = bench()
    for decision in world.steps(200):
        assert (decision.mode, decision.arm, decision.source) == ("shadow", "fallback", "fallback")
        assert (decision.action, decision.policy_action) == (FALLBACK, POLICY)
    assert world.guard.transitions == ()


@pytest.mark.parametrize("percentage", [10.0, 35.0, 80.0])
def test_in_gradual_the_policy_acts_in_its_share_of_the_blocks(percentage: float) -> None:
    world = bench(block_steps=1, warmup_steps=0, clean_hours=1e6)
    world.guard.set_mode("gradual")
    world.guard.set_percentage(percentage)
    acted = np.mean([decision.action == POLICY for decision in world.steps(4_000)])
    error = math.sqrt(percentage / 100 * (1 - percentage / 100) / 4_000)
    assert abs(acted - percentage / 100) < 4 * error


@pytest.mark.parametrize(("holdout", "share"), [(0.0, 1.0), (5.0, 0.95), (50.0, 0.5)])
def test_in_full_the_policy_acts_but_in_the_holdout(holdout: float, share: float) -> None:
    world = bench(mode="full", holdout_percentage=holdout, block_steps=1, warmup_steps=0)
    acted = np.mean([decision.arm == "policy" for decision in world.steps(2_000)])
    assert abs(acted - share) <= 4 * math.sqrt(share * (1 - share) / 2_000)


def test_one_arm_acts_for_a_whole_block() -> None:
    world = bench(block_steps=7, clean_hours=1e6)
    world.guard.set_mode("gradual")
    world.guard.set_percentage(50)
    decisions = world.steps(7 * 100)
    for number, decision in enumerate(decisions):
        assert divmod(number, 7) == (decision.block - decisions[0].block, decision.block_step)
        assert decision.arm == decisions[number - decision.block_step].arm
    arms = [decision.arm for decision in decisions[::7]]
    assert 30 < arms.count("policy") < 70


def test_the_blocks_of_the_policy_are_a_matter_of_the_seed() -> None:
    def arms(seed: int) -> list[str]:
        world = bench(mode="full", holdout_percentage=50, seed=seed, block_steps=1, warmup_steps=0)
        return [decision.arm for decision in world.steps(100)]

    assert arms(3) == arms(3) != arms(4)


# What is taken in place of a violating action


@pytest.mark.parametrize(
    ("alternatives", "source", "action"),
    [
        ((), "fallback", FALLBACK),
        ((7, 8), "alternative", 7),
        ((-1, 8, 7), "alternative", 8),
        ((math.nan, 8), "fallback", FALLBACK),
        ((-1,), "fallback", FALLBACK),
        (lambda observation, wanted: (wanted, 10 * wanted), "alternative", -10),
        (lambda observation, wanted: 1 / 0, "fallback", FALLBACK),
    ],
)
def test_alternatives_in_order_before_the_fallback(
    alternatives: Any, source: str, action: int
) -> None:
    world = bench(mode="full", holdout_percentage=0, alternatives=alternatives)
    decision = world.violate()[0]
    assert (decision.source, decision.action, decision.arm) == (source, action, "policy")
    assert decision.violations[0] == Violation("forbidden", "not allowed")
    assert (decision.policy_action, decision.fallback_action) == (-1, FALLBACK)


def test_alternatives_that_fail_are_named() -> None:
    def broken(observation: Any, wanted: Any) -> Any:
        raise KeyError("replicas")

    world = bench(mode="full", holdout_percentage=0, alternatives=broken)
    assert world.violate()[0].violations[1] == Violation("alternatives", "KeyError: 'replicas'")


def test_in_the_fallbacks_block_nothing_replaces_its_action() -> None:
    world = bench(alternatives=(7,))
    decision = world.violate()[0]
    assert (decision.source, decision.action, len(decision.violations)) == ("fallback", 0, 1)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (RuntimeError("no model"), "RuntimeError: no model"),
        (None, "ValueError: action must not be None"),
        (math.nan, "ValueError: action must be finite, got nan"),
        (-math.inf, "ValueError: action must be finite, got -inf"),
        ([1.0, {"x": (math.inf,)}], "ValueError: action must be finite, got inf"),
        (np.array([[1.0, np.nan]]), "ValueError: action must be finite"),
        (np.float32("nan"), "ValueError: action must be finite"),
    ],
)
def test_a_policy_without_a_finite_action_is_a_violation_and_the_fallback_acts(
    wanted: Any, reason: str
) -> None:
    world = bench(mode="full", holdout_percentage=0, alternatives=(7,), wanted=wanted)
    decision = world.step()
    assert (decision.source, decision.action) == ("fallback", FALLBACK)
    assert [each.constraint for each in decision.violations] == ["policy"]
    assert decision.violations[0].reason.startswith(reason)
    assert world.guard.status().violations_in_window == 1


def test_actions_can_be_anything_finite() -> None:
    for wanted in ("restart", 3, True, 2.5, {"replicas": [1, 2]}, np.ones((2, 2)), ("a", 1.0)):
        world = bench(mode="full", holdout_percentage=0, wanted=wanted, constraints=())
        assert world.step().action is wanted


def test_a_model_is_asked_by_predict_and_keeps_its_state() -> None:
    class Counter:
        def predict(
            self, observation: Any, state: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            assert deterministic
            state = (state or 0) + 1
            return state, state

    guard = Guard(Counter(), Counter(), GuardConfig(mode="full", holdout_percentage=0))
    decisions = [guard.act(None) for _ in range(3)]
    assert [each.policy_action for each in decisions] == [1, 2, 3]
    assert [each.fallback_action for each in decisions] == [1, 2, 3], "it must see everything"


def test_a_fallback_that_fails_matters_only_where_it_is_needed() -> None:
    def broken(observation: Any) -> Any:
        raise OSError("no route")

    guard = Guard(lambda o: o, broken, GuardConfig(mode="full", holdout_percentage=0))
    decision = guard.act(3)
    assert (decision.action, decision.fallback_error) == (3, "OSError: no route")
    guard.set_mode("shadow")
    with pytest.raises(GuardError, match="the fallback failed where it was needed: OSError: no"):
        guard.act(3)


# Up


def test_the_published_ladder_hour_by_hour() -> None:
    """10 % after each clean hour, then full."""
    world = bench()
    world.steps(HOUR)
    world.guard.promote("go")
    world.steps(9 * HOUR + 20)
    assert world.path == LADDER
    times = [each.time_s / 3600 for each in world.guard.transitions]
    assert np.diff(times) == pytest.approx(np.ones(9), abs=1 / 60)
    assert [each.by for each in world.guard.transitions] == ["operator", *["guard"] * 9]
    assert world.guard.transitions[0].reason == "go"
    assert world.guard.transitions[1].reason == "1.00 clean hours"
    assert world.guard.status().waiting_for == ""


def test_step_and_start_are_settings_and_full_is_never_overshot() -> None:
    world = bench(start_percentage=25, step_percentage=40, clean_hours=0.5)
    world.guard.promote()
    world.steps(2 * HOUR)
    assert world.path == [("gradual", 25.0), ("gradual", 65.0), FULL]


def test_a_violation_starts_the_hour_again() -> None:
    world = bench()
    world.guard.promote()
    world.steps(50)
    world.violate()
    world.steps(59)
    assert world.path == LADDER[:1]
    assert world.guard.status().waiting_for == "clean time"
    world.steps(1)
    assert world.path == LADDER[:2]


def test_unwatched_time_is_not_clean_time() -> None:
    """Two days' pause, or a jump of the clock, count as ten minutes; backwards as nothing."""
    world = bench()
    world.guard.promote()
    world.steps(31)
    world.step(seconds=2 * 86_400)
    assert world.guard.status().clean_hours == pytest.approx(41 / 60)
    world.step(seconds=-86_400)
    assert world.guard.status().clean_hours == pytest.approx(41 / 60)
    world.steps(18)
    assert world.path == LADDER[:1]
    world.steps(1)
    assert world.path == LADDER[:2]


def test_without_outcomes_nothing_goes_up_unless_they_are_not_wanted() -> None:
    world = bench(outcome=lambda decision: None)
    world.guard.promote()
    world.steps(5 * HOUR)
    assert (world.path, world.guard.status().waiting_for) == (LADDER[:1], "outcomes")
    world.outcome = lambda decision: 0.5
    world.steps(16)
    assert world.path == LADDER[:2]
    world = bench(outcome=lambda decision: None, outcome_test=False)
    world.guard.promote()
    world.steps(2 * HOUR + 1)
    assert world.path == LADDER[:3]


def test_shadow_waits_for_an_operator() -> None:
    world = bench()
    world.steps(48 * HOUR)
    assert (world.path, world.guard.status().waiting_for) == ([], "")


# Down


@pytest.mark.parametrize("mode", ["gradual", "full"])
def test_more_than_ten_of_the_last_hundred_violate(mode: Any) -> None:
    world = bench(mode=mode, clean_hours=1e6)
    for _ in range(10):
        world.steps(9)
        world.violate()
    assert world.path == [], "ten of a hundred are allowed"
    world.steps(8)
    decision = world.violate()[0]
    assert world.path == [SHADOW]
    assert (decision.mode, decision.source) == ("shadow", "fallback"), "at once"
    (transition,) = world.guard.transitions
    assert transition.by == "guard"
    assert transition.reason == (
        "11 violations in the last 100 actions, at most 10 allowed: forbidden (11)"
    )
    assert transition.time_s == world.now_s


def test_old_violations_leave_the_window() -> None:
    world = bench(mode="full", clean_hours=1e6)
    world.violate(10)
    world.steps(90)
    assert world.guard.status().violations_in_window == 10
    world.steps(1)
    assert world.guard.status().violations_in_window == 9
    world.violate(1)
    assert world.guard.mode == "full"


def test_a_policy_that_is_bad_from_the_first_action_does_not_fill_the_window() -> None:
    world = bench(mode="full", wanted=RuntimeError("no model"))
    assert [decision.mode for decision in world.steps(11)] == ["full"] * 10 + ["shadow"]


def test_violations_in_the_fallbacks_blocks_count_too() -> None:
    world = bench(mode="gradual", start_percentage=0.001, clean_hours=1e6)
    decisions = world.violate(11)
    assert {decision.arm for decision in decisions} == {"fallback"}
    assert world.path == [SHADOW]


def varying(effect: float) -> Callable[[Decision], float]:
    """Outcomes about 0.5, and an effect of the policy's actions."""
    return lambda decision: 0.5 + 0.1 * math.sin(decision.number) + effect * decision.action


def test_outcomes_pull_a_policy_back() -> None:
    world = bench(mode="gradual", start_percentage=50, clean_hours=1e6)
    world.outcome = varying(-0.3)
    world.steps(100 * 15)
    assert world.path == [SHADOW]
    reason = world.guard.transitions[0].reason
    assert reason.startswith("outcomes worse than the fallback's: evidence ")
    status = world.guard.status()
    assert status.evidence >= 100
    assert status.policy_outcome == pytest.approx(0.2, abs=0.03)
    assert status.fallback_outcome == pytest.approx(0.5, abs=0.03)


def test_outcomes_do_nothing_when_the_test_is_off_or_the_policy_better() -> None:
    cases: list[tuple[dict[str, Any], float]] = [({"outcome_test": False}, -0.3), ({}, 0.3)]
    for settings, effect in cases:
        world = bench(mode="gradual", start_percentage=50, clean_hours=1e6, **settings)
        world.outcome = varying(effect)
        world.steps(100 * 15)
        assert world.path == []


def test_after_a_rollback_only_an_operator_promotes() -> None:
    world = bench(mode="full")
    world.violate(11)
    world.steps(48 * HOUR)
    assert (world.path, world.guard.status().waiting_for) == ([SHADOW], "")
    world.guard.promote()
    assert world.path[1:] == LADDER[:1]


def test_or_a_cool_off_without_violations_if_so_set() -> None:
    world = bench(mode="full", resume_after_hours=2)
    world.violate(11)
    world.steps(HOUR)
    world.violate(1)
    world.steps(119)
    assert world.path == [SHADOW]
    world.steps(1)
    assert world.path == [SHADOW, LADDER[0]]


def test_the_cool_off_is_not_for_what_an_operator_took_down() -> None:
    world = bench(mode="full", resume_after_hours=2)
    world.guard.set_mode("shadow", "maintenance")
    world.steps(48 * HOUR)
    assert world.path == [SHADOW]
    assert world.guard.transitions[0].reason == "maintenance"


def test_every_rollout_has_its_own_test() -> None:
    world = bench(mode="gradual", start_percentage=50, clean_hours=1e6)
    world.outcome = varying(-0.3)
    world.steps(100 * 15)
    world.guard.promote()
    assert world.guard.status().evidence == 0.0
    assert world.guard.status().policy_blocks == 0
    world.steps(100 * 15)
    assert world.path == [SHADOW, ("gradual", 50.0), SHADOW]


# By hand


def test_set_mode_and_set_percentage_act_at_once() -> None:
    world = bench(holdout_percentage=0, clean_hours=1e6)
    world.steps(5)
    world.guard.set_mode("full")
    assert world.step().source == "policy"
    world.guard.set_mode("gradual")
    world.guard.set_percentage(0.001)
    assert world.step().source == "fallback"
    world.guard.set_percentage(100, "all in")
    assert world.step().source == "policy"
    world.guard.set_mode("shadow")
    assert world.step().source == "fallback"
    assert world.path == [FULL, LADDER[0], ("gradual", 0.001), ("gradual", 100.0), SHADOW]
    assert {each.by for each in world.guard.transitions} == {"operator"}
    assert world.guard.transitions[3].reason == "all in"


def test_set_mode_to_the_present_mode_changes_nothing() -> None:
    world = bench(mode="gradual", start_percentage=10)
    world.guard.set_percentage(40)
    world.guard.set_mode("gradual")
    assert (world.guard.percentage, len(world.guard.transitions)) == (40, 1)


def test_a_violating_policy_is_not_promoted_but_can_be_forced() -> None:
    world = bench(clean_hours=1e6)
    world.violate(11)
    with pytest.raises(
        GuardError, match=r"promote needs at most 10 .* got 11 \(forbidden \(11\)\)"
    ):
        world.guard.promote()
    assert world.guard.mode == "shadow"
    world.guard.set_mode("gradual")
    world.step()
    assert (world.guard.mode, world.guard.status().violations_in_window) == ("gradual", 0)


def test_full_is_the_top() -> None:
    with pytest.raises(GuardError, match="it is 'full' already"):
        bench(mode="full").guard.promote()


@pytest.mark.parametrize("mode", ["Full", "off", "", None, 1, True, ["full"]])
def test_invalid_modes_are_refused(mode: Any) -> None:
    world = bench()
    with pytest.raises(ConfigError, match="mode must be one of 'shadow', 'gradual', 'full'"):
        world.guard.set_mode(mode)
    with pytest.raises(ConfigError, match="mode must be one of"):
        GuardConfig(mode=mode)
    assert (world.guard.mode, world.guard.transitions) == ("shadow", ())


@pytest.mark.parametrize("percentage", [0, -1, 100.1, math.nan, math.inf, None, True, [50]])
def test_invalid_percentages_are_refused(percentage: Any) -> None:
    world = bench(mode="gradual")
    with pytest.raises(ConfigError, match="percentage must be "):
        world.guard.set_percentage(percentage)
    with pytest.raises(ConfigError, match="start_percentage must be "):
        GuardConfig(start_percentage=percentage)
    with pytest.raises(ConfigError, match="percentage must be a number, got '50'"):
        world.guard.set_percentage("50")  # type: ignore[arg-type]
    assert (world.guard.percentage, world.guard.transitions) == (10.0, ())


@pytest.mark.parametrize("mode", ["shadow", "full"])
def test_a_percentage_is_only_for_gradual(mode: Any) -> None:
    with pytest.raises(GuardError, match=f"needs mode 'gradual', it is '{mode}'"):
        bench(mode=mode).guard.set_percentage(50)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_steps": 3, "warmup_steps": 3}, "warmup_steps must be < block_steps, got 3 of 3"),
        ({"history_size": 50}, "history_size must be >= window, got 50 and 100"),
        ({"clip_deviations": None}, "outcome_minimum and outcome_maximum must be numbers"),
        ({"outcome_minimum": 1, "outcome_maximum": 1}, "must be > tolerance = 0.0, got 1.0 - 1.0"),
        (
            {"outcome_minimum": 0, "outcome_maximum": 1, "tolerance": 1},
            "outcome_maximum - outcome_minimum must be > tolerance = 1.0, got 1.0 - 0.0",
        ),
        ({"false_alarm_rate": 0}, "false_alarm_rate must be > 0"),
        ({"false_alarm_rate": 1}, "false_alarm_rate must be < 1"),
        ({"holdout_percentage": 51}, "holdout_percentage must be <= 50"),
        ({"violation_limit_percentage": 100}, "violation_limit_percentage must be < 100"),
        ({"clean_hours": 0}, "clean_hours must be > 0"),
        ({"resume_after_hours": 0}, "resume_after_hours must be > 0"),
        ({"step_percentage": 0}, "step_percentage must be > 0"),
        ({"window": 0}, "window must be >= 1"),
        ({"block_steps": 0}, "block_steps must be >= 1"),
        ({"tolerance": -1}, "tolerance must be >= 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        GuardConfig(**settings)
    assert message in str(raised.value)


def test_what_cannot_act_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy must be a callable observation -> action or"):
        Guard(3, lambda o: o)
    with pytest.raises(ConfigError, match="fallback must be a callable"):
        Guard(lambda o: o, None)


@pytest.mark.parametrize("outcome", ["1", None, True, [1, 2], 1j, 10**400])
def test_outcomes_must_be_numbers(outcome: Any) -> None:
    world = bench()
    world.step()
    with pytest.raises(ConfigError, match="outcome must be a number, got "):
        world.guard.report(outcome)


def test_there_is_no_outcome_before_a_decision() -> None:
    with pytest.raises(GuardError, match="report needs a decision: call act first"):
        bench().guard.report(1.0)


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_a_broken_clock_is_an_error(now: float) -> None:
    world = bench(now_s=now)
    with pytest.raises(GuardError, match="clock must return finite seconds"):
        world.step()


# Records


def test_the_history_is_bounded_and_as_json_has_it() -> None:
    world = bench(window=10, history_size=20, wanted=np.array([1.0, np.inf]), constraints=())
    decisions = world.steps(50)
    history = world.guard.history
    assert [each.number for each in history] == list(range(30, 50))
    world.wanted = np.array([[1, 2]])
    decisions = world.steps(1)
    assert world.guard.history[-1] == replace(decisions[0], policy_action=[[1, 2]])


def test_transitions_are_bounded_too() -> None:
    world = bench(window=10, history_size=20)
    for mode in ("full", "shadow") * 30:
        world.guard.set_mode(mode)
    assert len(world.guard.transitions) == 20


def test_outcomes_belong_to_blocks_and_not_to_their_warm_up() -> None:
    world = bench(mode="full", block_steps=4, warmup_steps=2, holdout_percentage=0)
    world.outcome = lambda decision: -100.0 if decision.block_step < 2 else decision.block
    world.steps(4 * 5 + 1)
    status = world.guard.status()
    assert (status.policy_blocks, status.policy_outcome) == (5, 2.0)
    assert (status.fallback_blocks, status.fallback_outcome) == (0, None)


def test_late_outcomes_are_counted_and_ignored() -> None:
    world = bench(block_steps=4, warmup_steps=0, outcome=lambda decision: None)
    decisions = world.steps(5)
    world.guard.report(1.0, decisions[3])
    world.guard.report(1.0, decisions[4])
    assert world.guard.status().late_outcomes == 1


def test_a_decision_says_what_happened() -> None:
    world = bench(mode="gradual", start_percentage=40)
    world.steps(3)
    decision = world.step()
    assert decision == Decision(
        number=3, time_s=240.0, mode="gradual", percentage=40.0, arm=decision.arm,
        source=decision.arm, action=POLICY if decision.arm == "policy" else FALLBACK,
        policy_action=POLICY, fallback_action=FALLBACK, fallback_error=None, violations=(),
        block=0, block_step=3,
    )  # fmt: skip
