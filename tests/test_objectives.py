import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym.objectives import clipped_surrogate, step_weights

LOW, HIGH = 0.2, 0.3


def surrogate(ratio: float, advantage: float) -> tuple[float, float, bool, bool]:
    """Objective, its gradient in the log-probability, and which bound cut it off."""
    old = torch.tensor([-1.5])
    new = (old + math.log(ratio)).requires_grad_()
    result = clipped_surrogate(new, old, torch.tensor([advantage]), LOW, HIGH)
    (gradient,) = torch.autograd.grad(result.objective.sum(), new)
    assert float(result.ratio) == pytest.approx(ratio)
    assert not result.ratio.requires_grad
    return (
        float(result.objective.detach()),
        float(gradient),
        bool(result.clipped_low),
        bool(result.clipped_high),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "gradient", "low", "high"),
    [
        (1.0, 2.0, 2.0, 2.0, False, False),
        (1.0, -2.0, -2.0, -2.0, False, False),
        (1.25, 2.0, 2.5, 2.5, False, False),  # inside the higher upper bound
        (1.5, 2.0, 2.6, 0.0, False, True),  # has risen enough
        (1.5, -2.0, -3.0, -3.0, False, False),  # rose where it should fall: full gradient
        (0.5, -2.0, -1.6, 0.0, True, False),  # has fallen enough
        (0.5, 2.0, 1.0, 1.0, False, False),  # fell where it should rise: full gradient
        (0.75, -2.0, -1.6, 0.0, True, False),
        (0.85, -2.0, -1.7, -1.7, False, False),
        (1.5, 0.0, 0.0, 0.0, False, False),
    ],
)
def test_clipped_surrogate_by_hand(
    ratio: float, advantage: float, objective: float, gradient: float, low: bool, high: bool
) -> None:
    got = surrogate(ratio, advantage)
    assert got[:2] == pytest.approx((objective, gradient), abs=1e-5)
    assert got[2:] == (low, high)


@given(
    ratio=st.floats(0.1, 10.0),
    advantage=st.floats(-3.0, 3.0),
    factor=st.floats(0.1, 10.0),
)
def test_surrogate_is_a_lower_bound_and_scales_with_the_advantage(
    ratio: float, advantage: float, factor: float
) -> None:
    objective = surrogate(ratio, advantage)[0]
    assert objective <= ratio * advantage + 1e-4
    assert surrogate(ratio, factor * advantage)[0] == pytest.approx(
        factor * objective, rel=1e-4, abs=1e-4
    )


def test_surrogate_depends_on_the_difference_of_log_probabilities_only() -> None:
    advantages = torch.tensor([1.0, -1.0, 0.5])
    new, old = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.1, -1.5, -3.0])
    first = clipped_surrogate(new, old, advantages, LOW, HIGH).objective
    second = clipped_surrogate(new - 4.0, old - 4.0, advantages, LOW, HIGH).objective
    torch.testing.assert_close(first, second)


# Weights. One group of lengths 1 and 3, one of 2 and none used.

LENGTHS = [[1, 3], [2, 0]]
USED = torch.tensor([[[t < n for n in group] for group in LENGTHS] for t in range(3)])


def weight_of(kind: Any, constant: float = 4.0) -> list[list[float]]:
    """The weight of each member's first step, 0 if it has none; its steps are all alike."""
    weights = step_weights(USED, kind, constant)
    assert weights.dtype == torch.float32
    assert weights.shape == USED.shape
    assert not weights[~USED].any()
    first = weights[0]
    torch.testing.assert_close(weights, first.expand_as(weights) * USED)
    return first.tolist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("per_step", [[1 / 6, 1 / 6], [1 / 6, 0.0]]),
        ("per_sequence", [[1 / 3, 1 / 9], [1 / 6, 0.0]]),
        ("per_group", [[1 / 8, 1 / 8], [1 / 4, 0.0]]),
        ("constant", [[1 / 12, 1 / 12], [1 / 12, 0.0]]),
    ],
)
def test_step_weights_by_hand(kind: str, expected: list[list[float]]) -> None:
    got = weight_of(kind)
    assert np.array(got) == pytest.approx(np.array(expected))


used_steps = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4)).flatmap(
    lambda shape: st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda flags: torch.tensor(flags).reshape(shape)
    )
)


@given(used=used_steps, kind=st.sampled_from(["per_step", "per_sequence", "per_group"]))
def test_weights_sum_to_one_whatever_is_left_out(used: torch.Tensor, kind: Any) -> None:
    weights = step_weights(used, kind, 1.0)
    assert float(weights.sum()) == pytest.approx(float(used.any()), abs=1e-5)
    shares = {
        "per_step": weights,
        "per_sequence": weights.sum(dim=0),
        "per_group": weights.sum(dim=(0, 2)),
    }[kind]
    positive = shares[shares > 0.0]
    torch.testing.assert_close(positive, positive[:1].expand_as(positive))


@given(used=used_steps, kind=st.sampled_from(["per_step", "per_sequence", "per_group"]))
def test_weights_do_not_depend_on_the_order_of_members(used: torch.Tensor, kind: Any) -> None:
    swapped = step_weights(used.flip(2), kind, 1.0).flip(2)
    torch.testing.assert_close(swapped, step_weights(used, kind, 1.0))


def test_all_kinds_agree_on_equal_lengths() -> None:
    used = torch.ones(5, 2, 3, dtype=torch.bool)
    reference = step_weights(used, "per_step", 1.0)
    kinds: tuple[Any, ...] = ("per_sequence", "per_group", "constant")
    for kind in kinds:
        torch.testing.assert_close(step_weights(used, kind, 5.0), reference)
