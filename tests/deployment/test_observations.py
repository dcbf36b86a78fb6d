"""A policy is not asked about observations that are not finite; the fallback is."""

import math
from typing import Any

import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.deployment import Guard, GuardConfig
from probe_envs import Context

FULL = GuardConfig(mode="full", violation_limit_percentage=90, outcome_test=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", ["array", "scalar", "nested"])
def test_only_the_fallback_sees_what_is_not_finite(form: str, bad: float) -> None:
    def wrapped(number: float) -> Any:
        return {
            "array": np.array([0.0, number], np.float32),
            "scalar": np.float32(number),
            "nested": {"name": "web", "load": [1, (2.0, number)], "tags": None},
        }[form]

    asked: list[str] = []

    def controller(name: str, action: int) -> Any:
        def choose(observation: Any) -> int:
            asked.append(name)
            return action

        return choose

    guard = Guard(controller("policy", 1), controller("fallback", 0), FULL)
    decision = guard.act(wrapped(bad))
    assert (decision.source, decision.action) == ("fallback", 0)
    (violation,) = decision.violations
    assert violation.constraint == "policy"
    assert "the observation must be finite, got" in violation.reason
    assert guard.act(wrapped(1.0)).source == "policy"
    assert asked == ["fallback", "policy", "fallback"]


def test_a_model_with_damaged_weights_is_not_followed() -> None:
    model = GRPO("linear", Context)
    next(model.policy.parameters()).data.fill_(math.nan)
    decision = Guard(model, lambda observation: 2, FULL).act(np.eye(3, dtype=np.float32)[0])
    assert (decision.source, decision.action) == ("fallback", 2)
    assert "outputs must be finite" in decision.violations[0].reason
