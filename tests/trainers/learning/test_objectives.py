import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_gym.trainers.learning.objectives import (
    estimate_kl,
    log_ratios,
    policy_objective,
    step_weights,
)

LOW, HIGH = 0.2, 0.3
OLD = -1.5


def surrogate(
    ratio: float, advantage: float, kind: Any = "clipped", dual_clip: float | None = None
) -> tuple[float, float, bool, bool]:
    """Objective, its gradient in the log-probability, and which bound cut it off."""
    new = torch.tensor([OLD + math.log(ratio)], requires_grad=True)
    log_ratio = log_ratios(new, torch.tensor([OLD]), torch.zeros(1, dtype=torch.int64), "step")
    result = policy_objective(kind, log_ratio, new, torch.tensor([advantage]), LOW, HIGH, dual_clip)
    (gradient,) = torch.autograd.grad(result.objective.sum(), new, materialize_grads=True)
    return (
        float(result.objective.detach()),
        float(gradient),
        bool(result.clipped_low),
        bool(result.clipped_high),
    )


def check(got: tuple[float, float, bool, bool], *wanted: Any) -> None:
    assert got[:2] == pytest.approx(wanted[:2], abs=1e-5)
    assert got[2:] == wanted[2:]


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
def test_clipped_by_hand(
    ratio: float, advantage: float, objective: float, gradient: float, low: bool, high: bool
) -> None:
    check(surrogate(ratio, advantage), objective, gradient, low, high)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "gradient", "low", "high"),
    [
        (4.0, -2.0, -6.0, 0.0, False, True),  # 3 A instead of 4 A
        (2.5, -2.0, -5.0, -5.0, False, False),  # not yet
        (0.5, -2.0, -1.6, 0.0, True, False),  # the lower bound is as before
        (4.0, 2.0, 2.6, 0.0, False, True),  # and positive advantages have no other end
        (1.0, 2.0, 2.0, 2.0, False, False),
    ],
)
def test_dual_clip_by_hand(
    ratio: float, advantage: float, objective: float, gradient: float, low: bool, high: bool
) -> None:
    check(surrogate(ratio, advantage, dual_clip=3.0), objective, gradient, low, high)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "gradient", "high"),
    [
        (1.5, 2.0, 2.6, 0.0, True),
        (1.5, -2.0, -2.6, 0.0, True),  # "clipped" goes on here: -3
        (0.1, 2.0, 0.2, 0.2, False),  # no lower bound for either sign
        (0.1, -2.0, -0.2, -0.2, False),
        (1.0, -2.0, -2.0, -2.0, False),
    ],
)
def test_upper_clipped_by_hand(
    ratio: float, advantage: float, objective: float, gradient: float, high: bool
) -> None:
    check(surrogate(ratio, advantage, "upper_clipped"), objective, gradient, False, high)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(
    ("ratio", "bounded", "low", "high"),
    [
        (1.0, 1.0, False, False),
        (1.2, 1.2, False, False),
        (1.5, 1.3, False, True),
        (0.5, 0.8, True, False),
    ],
)
def test_cispo_weighs_the_log_probability_with_the_bounded_ratio(
    ratio: float, bounded: float, low: bool, high: bool, advantage: float
) -> None:
    """Its gradient never vanishes: no step is left out."""
    objective = bounded * advantage * (OLD + math.log(ratio))
    check(surrogate(ratio, advantage, "cispo"), objective, bounded * advantage, low, high)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_unclipped_and_reinforce_by_hand(ratio: float, advantage: float) -> None:
    scaled = ratio * advantage
    check(surrogate(ratio, advantage, "unclipped"), scaled, scaled, False, False)
    objective = advantage * (OLD + math.log(ratio))
    check(surrogate(ratio, advantage, "reinforce"), objective, advantage, False, False)


@given(
    ratio=st.floats(0.1, 10.0),
    advantage=st.floats(-3.0, 3.0),
    factor=st.floats(0.1, 10.0),
)
def test_clipped_is_a_lower_bound_and_scales_with_the_advantage(
    ratio: float, advantage: float, factor: float
) -> None:
    objective = surrogate(ratio, advantage)[0]
    assert objective <= ratio * advantage + 1e-4
    assert surrogate(ratio, factor * advantage)[0] == pytest.approx(
        factor * objective, rel=1e-4, abs=1e-4
    )


# Ratios. Three trajectories, their steps in any order, numbered with gaps.

SEQUENCES = torch.tensor([7, 2, 7, 7, 2, 5])
NEW = torch.tensor([-1.0, -2.0, -0.5, -0.2, -1.0, -3.0])
BEFORE = torch.tensor([-1.1, -1.5, -0.9, -0.4, -1.2, -3.0])


@pytest.mark.parametrize("kind", ["step", "sequence", "sequence_mean"])
def test_ratios_agree_with_a_loop(kind: Any) -> None:
    wanted, slopes = [], []
    for i, label in enumerate(SEQUENCES.tolist()):
        same = [j for j, other in enumerate(SEQUENCES.tolist()) if other == label]
        product = math.prod(math.exp(NEW[j] - BEFORE[j]) for j in same)
        root = product ** (1 / len(same))
        own = math.exp(NEW[i] - BEFORE[i])
        wanted.append({"step": own, "sequence": product, "sequence_mean": root}[kind])
        share = {"step": 1.0, "sequence": 1.0, "sequence_mean": 1 / len(same)}[kind]
        slopes.append([share * (j == i if kind == "step" else j in same) for j in range(6)])
    new = NEW.clone().requires_grad_()
    found = log_ratios(new, BEFORE, SEQUENCES, kind)
    torch.testing.assert_close(found.exp(), torch.tensor(wanted))
    rows = [torch.autograd.grad(each, new, retain_graph=True)[0] for each in found]
    torch.testing.assert_close(torch.stack(rows), torch.tensor(slopes))
    # Probabilities matter through their quotient only, and no steps are no trouble.
    torch.testing.assert_close(log_ratios(NEW - 4.0, BEFORE - 4.0, SEQUENCES, kind), found)
    assert log_ratios(NEW[:0], BEFORE[:0], SEQUENCES[:0], kind).shape == (0,)


def test_absurd_ratios_stay_finite() -> None:
    far = torch.tensor([0.0, -200.0])
    numbers = torch.arange(2)
    assert log_ratios(far, far.flip(0), numbers, "step").tolist() == [20.0, -20.0]
    together = torch.zeros(300, dtype=torch.int64)
    many = log_ratios(torch.zeros(300), torch.full((300,), -1.0), together, "sequence")
    assert many.tolist() == [20.0] * 300
    mean = log_ratios(torch.zeros(300), torch.full((300,), -1.0), together, "sequence_mean")
    torch.testing.assert_close(mean, torch.ones(300))


# KL estimators, by enumerating the actions of a softmax policy


def log_policy(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=0)


REFERENCE = log_policy(torch.tensor([0.2, -1.0, 0.5, 1.0], dtype=torch.float64))
LOGITS = torch.tensor([1.0, 0.3, -0.7, 0.1], dtype=torch.float64)


def expected_gradient(kind: Any) -> Tensor:
    """Mean over actions of the estimator's gradient, the actions being constants."""
    logits = LOGITS.clone().requires_grad_()
    estimates = estimate_kl(log_policy(logits), REFERENCE, kind)
    mean = (log_policy(LOGITS).exp() * estimates).sum()
    return torch.autograd.grad(mean, logits)[0]


def gradient_of_kl(reverse: bool = False) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    left, right = log_policy(logits), REFERENCE
    if reverse:
        left, right = right, left
    return torch.autograd.grad((left.exp() * (left - right)).sum(), logits)[0]


def test_kl_estimates_by_hand() -> None:
    new, reference = torch.log(torch.tensor([0.5, 0.1])), torch.log(torch.tensor([0.25, 0.4]))
    d = [math.log(2.0), -math.log(4.0)]
    wanted = {
        "k1": d,
        "k2": [v * v / 2 for v in d],
        "k3": [0.5 - 1.0 + d[0], 4.0 - 1.0 + d[1]],
    }
    wanted["k3_plus"] = wanted["k3"]
    for kind, values in wanted.items():
        estimates = estimate_kl(new, reference, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(estimates, torch.tensor(values))
        assert not estimate_kl(new, new, kind).any()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'kind must be an estimator, got "exact"'):
        estimate_kl(new, reference, "exact")


def test_means_of_kl_estimates() -> None:
    """k1 and k3 have the mean of the exact KL, k2 has not."""
    p = log_policy(LOGITS)
    exact = float((p.exp() * (p - REFERENCE)).sum())
    means = {
        kind: float((p.exp() * estimate_kl(p, REFERENCE, kind)).sum())
        for kind in ("k1", "k2", "k3", "k3_plus")
    }
    for kind in ("k1", "k3", "k3_plus"):
        assert means[kind] == pytest.approx(exact)
    assert abs(means["k2"] - exact) > 0.01


def test_gradients_of_kl_estimates() -> None:
    """Of k2 and k3_plus that of KL(policy, reference), of k1 none, of k3 of the reverse KL."""
    forward, reverse = gradient_of_kl(), gradient_of_kl(reverse=True)
    torch.testing.assert_close(expected_gradient("k2"), forward)
    torch.testing.assert_close(expected_gradient("k3_plus"), forward)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros_like(forward))
    torch.testing.assert_close(expected_gradient("k3"), reverse)
    assert float((forward - reverse).abs().max()) > 0.05


def test_an_absurdly_unlikely_action_does_not_overflow() -> None:
    new = torch.tensor([-500.0], requires_grad=True)
    for kind in ("k3", "k3_plus"):
        estimate = estimate_kl(new, torch.tensor([-1.0]), kind)
        (gradient,) = torch.autograd.grad(estimate.sum(), new)
        assert bool(torch.isfinite(estimate).all() & torch.isfinite(gradient).all())


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
