"""Rules for actions: what they allow, by hand, and that one which fails is violated and named."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment import (
    SCALING_ALTERNATIVES,
    Context,
    Cooldown,
    Decision,
    Guard,
    GuardConfig,
    MaximumChange,
    MinimumReplicas,
    Violation,
)
from grpo_gym.settings import ConfigError
from guard_bench import bench

NOW = Context(now_s=1000.0, history=(), history_is_complete=True)
PAST = Decision(
    number=0, time_s=0.0, mode="full", percentage=100.0, arm="policy", source="policy", action=0,
    policy_action=0, fallback_action=0, fallback_error=None, violations=(), block=0, block_step=0,
)  # fmt: skip


def past(*changes: tuple[float, Any], complete: bool = True) -> Context:
    """What was executed so many seconds ago, oldest first."""
    history = tuple(replace(PAST, time_s=1000.0 - ago, action=change) for ago, change in changes)
    return Context(1000.0, history, complete)


@pytest.mark.parametrize(
    ("replicas", "largest"), [(1, 2), (2, 2), (4, 2), (5, 2), (6, 3), (7, 3), (100, 50)]
)
def test_the_largest_change_is_half_or_two(replicas: int, largest: int) -> None:
    rule, seen = MaximumChange(), {"replicas": replicas}
    allowed = [change for change in range(-60, 61) if rule(seen, change, NOW)]
    assert allowed == list(range(-largest, largest + 1))


@pytest.mark.parametrize(
    ("replicas", "smallest"), [(10, -8), (4, -2), (3, -1), (2, 0), (1, 1), (0, 1)]
)
def test_never_below_the_minimum(replicas: int, smallest: int) -> None:
    rule, seen = MinimumReplicas(minimum=2), {"replicas": replicas}
    assert next(change for change in range(-20, 20) if rule(seen, change, NOW)) == smallest
    assert all(rule(seen, change, NOW) for change in range(smallest, 20))


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        (past(), True),
        (past((10, 0), (5, 0)), True),
        (past((299.9, 1), (5, 0)), False),
        (past((300.0, 1), (5, 0)), True),
        (past((400, 1), (20, -2), (5, 0)), False),
        (past((-5, 1)), False),
    ],
)
def test_one_change_in_five_minutes(context: Context, allowed: bool) -> None:
    rule = Cooldown()
    assert rule({}, 1, context) is rule({}, -1, context) is allowed
    assert rule({}, 0, context)


def test_a_history_that_is_too_short_is_no_proof() -> None:
    with pytest.raises(ValueError, match="history is shorter than 300 s: raise history_size"):
        Cooldown()({}, 1, past((200, 0), (100, 0), complete=False))
    assert Cooldown()({}, 1, past((300, 0), (100, 0), complete=False))


@pytest.mark.parametrize("rule", [MaximumChange(), MinimumReplicas()])
@pytest.mark.parametrize("observation", [{"replicas": math.nan}, {"replicas": math.inf}, {}, None])
@pytest.mark.parametrize("change", [0, 1])
def test_a_broken_sensor_allows_nothing(rule: Any, observation: Any, change: int) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        rule(observation, change, NOW)


@pytest.mark.parametrize("rule", [MaximumChange(), MinimumReplicas(), Cooldown()])
@pytest.mark.parametrize("action", [math.nan, "more", None, [1, 2]])
def test_an_action_that_is_no_number_of_replicas_is_not_allowed(rule: Any, action: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        rule({"replicas": 5}, action, NOW)


def test_actions_and_observations_of_other_kinds() -> None:
    steps = (-4, -2, -1, 0, 1, 2, 4)
    seen = np.array([0.3, 6.0])
    rule = MaximumChange(change=lambda index: steps[index], replicas=lambda row: row[1])
    assert [rule(seen, index, NOW) for index in range(7)] == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "two", None, True])
def test_settings_of_rules_are_checked(value: Any) -> None:
    for rule, name in (
        (MaximumChange, "share"),
        (MaximumChange, "at_least"),
        (MinimumReplicas, "minimum"),
        (Cooldown, "seconds"),
    ):
        with pytest.raises(ConfigError, match=f"{name} must be .*(number|>= 0), got"):
            rule(**{name: value})


class Rule:
    def __init__(self, name: Any, answer: Any = True) -> None:
        self.name = name
        self.answer = answer

    def __call__(self, observation: Any, action: Any, context: Context) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "not allowed"),
        (np.bool_(False), "not allowed"),
        (KeyError("cpu"), "KeyError: 'cpu'"),
        (AssertionError(), "AssertionError: "),
        (None, "TypeError: it must return True or False, got None"),
        ("yes", "TypeError: it must return True or False, got 'yes'"),
        (np.ones(2, bool), "ValueError: The truth value"),
        (RuntimeError(10**4 * "x"), "RuntimeError: " + "x" * 286),
    ],
)
def test_whatever_is_not_a_yes_is_a_violation_and_is_named(answer: Any, reason: str) -> None:
    rules = (Rule("first"), Rule("broken", answer), Rule("last", np.bool_(True)))
    world = bench(mode="full", constraints=rules)
    decision = world.step()
    assert decision.source == "fallback"
    assert [each.constraint for each in decision.violations] == ["broken"]
    assert decision.violations[0].reason.startswith(reason)
    assert len(decision.violations[0].reason) <= 300
    assert [each.mode for each in world.steps(10)][-1] == "shadow", "it counts for the rate"


def test_all_violated_constraints_are_named() -> None:
    rules = (Rule("a", False), Rule("b"), Rule("c", ValueError("x")))
    assert bench(constraints=rules).step().violations == (
        Violation("a", "not allowed"),
        Violation("c", "ValueError: x"),
    )


@pytest.mark.parametrize("rule", [lambda *_: True, 3, Rule(""), Rule(None), Rule(3)])
def test_constraints_need_a_name(rule: Any) -> None:
    with pytest.raises(ConfigError, match="constraints must be callable and have a name, got"):
        bench(constraints=(rule,))


@pytest.mark.parametrize("name", ["same", "policy", "alternatives"])
def test_names_must_differ(name: str) -> None:
    with pytest.raises(ConfigError, match="is taken: give each constraint a name of its own"):
        bench(constraints=(Rule("same"), Rule(name)))


def test_autoscaling_rules_at_work() -> None:
    """A policy that always wants four more: the rules, in turn, and the cool-down of all arms."""
    replicas, now_s = 4.0, 0.0
    guard = Guard(
        lambda seen: 4,
        lambda seen: 0,
        GuardConfig(mode="full", holdout_percentage=0, violation_limit_percentage=99),
        constraints=(MaximumChange(), MinimumReplicas(), Cooldown()),
        alternatives=SCALING_ALTERNATIVES[::-1],
        clock=lambda: now_s,
    )
    sizes = []
    for _ in range(26):
        decision = guard.act({"replicas": replicas})
        replicas += decision.action
        sizes.append(int(replicas))
        now_s += 60.0
    # Four more are too many for 4 and 3 replicas, so that one less is tried first.
    assert sizes[0] == 3
    assert all(sizes[step] == sizes[step + 1] for step in range(25) if (step + 1) % 5)
    assert sizes[::5] == [3, 2, 3, 2, 3, 2]
    reasons = {each.constraint for past in guard.history for each in past.violations}
    assert reasons == {"maximum_change", "cooldown"}
