"""Returns that are equal but for rounding are no signal: the same rewards in another order."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym import GRPO
from grpo_gym.rollouts.rollout import Episodes, GroupedRollout
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.advantages import (
    compute_returns,
    group_advantages,
    rounding_errors,
)
from grpo_gym.trainers.learning.estimate import AdvantageEstimate, estimate_advantages
from grpo_gym.trainers.presets import PRESETS, make_config
from probe_envs import Reordered

TENTHS = (0.1, 0.2, 0.3, 0.7)
WITH_A_LARGE_ONE = (1e9, 0.1, -1e9, 0.2)  # partial sums lose the small ones' digits
OUTCOME = [name for name, values in PRESETS.items() if values.get("returns") == "outcome"]
TO_GO = [name for name in PRESETS if name not in OUTCOME]


def powers(discount: float, steps: int) -> torch.Tensor:
    """What a reward is worth at the beginning, shape (T, 1, 1), float64."""
    return torch.full((steps, 1, 1), discount, dtype=torch.float64).cumprod(dim=0) / discount


def estimate(
    config: GRPOConfig, rewards: tuple[float, ...], discount: float = 1.0
) -> AdvantageEstimate:
    """Of two groups whose members earn the same rewards, each in another order."""
    orders = list(itertools.permutations(rewards))
    rows = torch.tensor([orders[:12], orders[12:]], dtype=torch.float64).permute(2, 0, 1)
    rows = rows / powers(discount, len(rows))
    alive = torch.ones_like(rows, dtype=torch.bool)
    zeros = torch.zeros(rows.shape)
    # All members begin in one state, and each step after it is in a state of its own.
    states = torch.arange(rows.numel(), dtype=torch.float32).reshape(*rows.shape, 1)
    states[0] = -1.0
    rollout = GroupedRollout(
        observations=states,
        actions=zeros[..., None].long(),
        log_probs=zeros,
        outputs=torch.zeros(*rows.shape, 2),
        rewards=rows,
        alive=alive,
        credited=alive,
        action_masks=None,
        episodes=Episodes(rows[0].flatten(), rows[0].flatten(), alive[0].flatten()),
        infos={},
        info_counts={},
        branchings=torch.zeros(0),
    )
    return estimate_advantages(rollout, config, discount, states, states)


def test_the_orders_would_differ_without_a_tolerance() -> None:
    for rewards in (TENTHS, WITH_A_LARGE_ONE):
        returns = estimate(make_config("grpo"), rewards).returns
        assert len(set(returns[0].flatten().tolist())) > 1


@pytest.mark.parametrize("rewards", [TENTHS, WITH_A_LARGE_ONE])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("preset", OUTCOME)
def test_nothing_is_learned_from_the_order_of_a_total(
    preset: str, discount: float, rewards: tuple[float, ...]
) -> None:
    found = estimate(make_config(preset, anchor_discount=discount), rewards, discount)
    assert not found.advantages.any()
    assert found.uniform_groups == 1.0


@pytest.mark.parametrize("rewards", [TENTHS, WITH_A_LARGE_ONE])
@pytest.mark.parametrize("preset", [name for name in TO_GO if name != "reinforce_pp"])
def test_nor_at_the_first_step_from_the_order_of_what_is_to_go(
    preset: str, rewards: tuple[float, ...]
) -> None:
    assert not estimate(make_config(preset), rewards).advantages[0].any()


@pytest.mark.parametrize("scale", ["none", "group", "batch", "time_step"])
@pytest.mark.parametrize("baseline", ["batch", "trajectory", "time_step", "time_bin", "state_bin"])
def test_no_baseline_and_no_scale_makes_a_signal_of_rounding(baseline: Any, scale: Any) -> None:
    config = make_config(returns="outcome", baseline=baseline, scale=scale, state_bin_width=0.0)
    assert not estimate(config, TENTHS).advantages.any()


@pytest.mark.parametrize("rewards", [(0.1, 0.2, 0.3, -0.6), (*WITH_A_LARGE_ONE[:3], -0.1)])
def test_without_a_baseline_a_total_of_nothing_is_nothing(rewards: tuple[float, ...]) -> None:
    config = make_config(returns="outcome", baseline="none")
    returns = estimate(config, rewards).returns
    assert returns.any()
    assert not estimate(config, rewards).advantages.any()


@pytest.mark.parametrize("baseline", ["batch", "trajectory", "time_step", "time_bin", "state_bin"])
def test_a_small_difference_beside_large_rewards_is_a_signal(baseline: Any) -> None:
    """A millionth of a reward after a thousand steps."""
    rewards = torch.ones(1000, 1, 2, dtype=torch.float64)
    rewards[-1, 0, 1] += 1e-6
    alive = torch.ones_like(rewards, dtype=torch.bool)
    returns = compute_returns(rewards, alive, "outcome", 1.0)
    advantages = group_advantages(
        returns,
        alive,
        baseline=baseline,
        center="mean",
        scale="none",
        bins=torch.arange(1000)[:, None, None].expand_as(alive),
        tolerance=rounding_errors(rewards, alive, "outcome"),
    )
    assert advantages[0, 0].tolist() == pytest.approx([-5e-7, 5e-7], rel=1e-3)


@given(
    rewards=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    order=st.randoms(use_true_random=False),
    discount=st.sampled_from([1.0, 0.99, 0.5]),
)
def test_rounding_stays_below_its_bound(rewards: list[float], order: Any, discount: float) -> None:
    shuffled = list(rewards)
    order.shuffle(shuffled)
    columns = torch.tensor([rewards, shuffled], dtype=torch.float64).T[:, None]
    alive = torch.ones_like(columns, dtype=torch.bool)
    discounted = columns / powers(discount, len(rewards))
    first, second = compute_returns(discounted, alive, "outcome", discount)[0, 0].tolist()
    bound = float(rounding_errors(discounted, alive, "outcome").max())
    assert abs(first - second) <= bound


def test_what_comes_after_a_members_end_does_not_widen_the_bound() -> None:
    rewards = torch.tensor([[1.0, 1.0], [2.0, torch.nan]], dtype=torch.float64)[:, None]
    alive = torch.tensor([[True, True], [True, False]])[:, None]
    unit = 2 * torch.finfo(torch.float64).eps
    to_go = rounding_errors(rewards, alive, "reward_to_go")[:, 0] / unit
    assert to_go.tolist() == [[3.0, 1.0], [2.0, 0.0]]
    assert (rounding_errors(rewards, alive, "outcome")[:, 0] / unit).tolist() == [[3.0, 1.0]] * 2


@pytest.mark.parametrize("preset", [name for name in OUTCOME if name != "gigpo"])
def test_a_fixed_total_trains_nothing_and_refills_find_nothing(preset: str) -> None:
    model = GRPO("linear", Reordered, preset=preset, num_groups=2, group_size=6)
    with model:
        stats = model.train_iteration()
    assert stats.uniform_groups == 1.0
    assert stats.update is None
