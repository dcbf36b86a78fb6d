from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym.trainers.learning.advantages import (
    compute_returns,
    group_advantages,
    informative_groups,
)


def rollout(*members: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and alive of one group, (T, 1, K), from each member's rewards."""
    longest = max(map(len, members))
    rewards = torch.tensor([m + [0.0] * (longest - len(m)) for m in members], dtype=torch.float64)
    alive = torch.tensor([[t < len(m) for t in range(longest)] for m in members])
    return rewards.T[:, None], alive.T[:, None]


def advantages(
    *members: list[float], returns: str = "outcome", discount: float = 1.0, **options: Any
) -> list[list[float]]:
    """Advantages of one group, one list a member, cut to its own steps."""
    rewards, alive = rollout(*members)
    values = compute_returns(rewards, alive, returns, discount)  # type: ignore[arg-type]
    chosen = {"baseline": "trajectory", "center": "mean", "scale": "none", **options}
    result = group_advantages(values, alive, **chosen)[:, 0].T.tolist()
    assert all(not any(row[len(m) :]) for row, m in zip(result, members, strict=True))
    return [row[: len(m)] for row, m in zip(result, members, strict=True)]


def close(actual: list[list[float]], *expected: list[float]) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)


# Returns


def test_returns_by_hand() -> None:
    rewards, alive = rollout([1.0, 2.0, 4.0], [3.0])
    to_go = compute_returns(rewards, alive, "reward_to_go", 0.5)[:, 0].T.tolist()
    assert to_go == [[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]
    outcome = compute_returns(rewards, alive, "outcome", 0.5)[:, 0].T.tolist()
    assert outcome == [[3.0] * 3, [3.0] * 3]
    undiscounted = compute_returns(rewards, alive, "outcome", 1.0)[0, 0].tolist()
    assert undiscounted == [7.0, 3.0]


def test_rewards_after_the_end_count_nothing() -> None:
    rewards, alive = rollout([1.0, 1.0], [1.0])
    rewards[1, 0, 1] = torch.nan
    assert compute_returns(rewards, alive, "reward_to_go", 1.0)[:, 0, 1].tolist() == [1.0, 0.0]
    assert compute_returns(rewards, alive, "outcome", 1.0)[0, 0].tolist() == [2.0, 1.0]


# Advantages by hand. Members A = [1, 2, 3] and B = [2]: outcomes 6 and 2; to go 6, 5, 3 and 2.

A, B, C = [1.0, 2.0, 3.0], [2.0], [4.0, 0.0]


def test_outcome_each_member_counts_once_however_long() -> None:
    close(advantages(A, B), [2.0] * 3, [-2.0])  # weighing by steps would give a mean of 5
    close(advantages(A, B, scale="group"), [1.0] * 3, [-1.0])  # deviation of (6, 2): 2
    close(advantages(A, B, center="leave_one_out"), [4.0] * 3, [-4.0])
    close(advantages(A, B, baseline="time_step"), [2.0, 0.0, 0.0], [-2.0])
    close(advantages(A, B, discount=0.5), [0.375] * 3, [-0.375])  # 2.75 and 2


def test_reward_to_go_at_each_time_step_is_compared_among_the_living() -> None:
    options: dict[str, Any] = {"returns": "reward_to_go", "baseline": "time_step"}
    close(advantages(A, B, **options), [2.0, 0.0, 0.0], [-2.0])
    # To go 6, 5, 3; 2; 4, 0: means 4 and, with 2.5 in place of B, 2.5.
    close(advantages(A, B, C, **options), [2.0, 2.5, 0.0], [-2.0], [0.0, -2.5])
    left_out = advantages(A, B, C, center="leave_one_out", **options)
    close(left_out, [3.0, 3.75, 0.0], [-3.0], [0.0, -3.75])
    mean_square = (4.0 + 6.25 + 0.0 + 4.0 + 0.0 + 6.25) / 6  # of the six steps taken
    expected = [[v / mean_square**0.5 for v in row] for row in ([2.0, 2.5, 0.0], [-2.0], [0, -2.5])]
    close(advantages(A, B, C, scale="group", **options), *expected)
    close(advantages(A, B, discount=0.5, **options), [0.375, 0.0, 0.0], [-0.375])


def test_the_last_survivors_of_groups_are_compared_with_each_other() -> None:
    """To go 8 and 2 at the second step, when the other members of both groups have ended."""
    returns = torch.tensor([[[9.0, 1.0], [3.0, 1.0]], [[8.0, 0.0], [2.0, 0.0]]])
    alive = returns > 0.0
    result = group_advantages(returns, alive, baseline="time_step", center="mean", scale="none")
    assert result.tolist() == [[[4.0, -4.0], [1.0, -1.0]], [[1.5, 0.0], [-1.5, 0.0]]]


def test_where_nothing_is_to_come_nothing_is_learned() -> None:
    """A group without a reward, whose members end one by one, beside one that has some."""
    returns = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    alive = torch.tensor([[[True, True], [True, True]], [[True, False], [True, True]]])
    result = group_advantages(returns, alive, baseline="time_step", center="mean", scale="none")
    assert informative_groups(result).tolist() == [False, True]


def test_reward_to_go_with_one_baseline_for_all_steps() -> None:
    # Means of the members' own steps: 14/3 and 2; their mean 10/3.
    options: dict[str, Any] = {"returns": "reward_to_go", "baseline": "trajectory"}
    close(advantages(A, B, **options), [8 / 3, 5 / 3, -1 / 3], [-4 / 3])
    left_out = advantages(A, B, center="leave_one_out", **options)
    close(left_out, [4.0, 3.0, 1.0], [2.0 - 14 / 3])
    squares = (64 / 9 + 25 / 9 + 1 / 9) / 3 / 2 + (16 / 9) / 2  # each member counts once
    scaled = [[v / squares**0.5 for v in row] for row in ([8 / 3, 5 / 3, -1 / 3], [-4 / 3])]
    close(advantages(A, B, scale="group", **options), *scaled)


def test_batch_scale_is_one_number_for_all_groups() -> None:
    returns = torch.tensor([[[0.0, 4.0], [10.0, 12.0]]], dtype=torch.float64)
    alive = torch.ones_like(returns, dtype=torch.bool)
    result = group_advantages(returns, alive, baseline="trajectory", center="mean", scale="batch")
    deviation = ((4.0 + 4.0 + 1.0 + 1.0) / 4) ** 0.5
    wanted = torch.tensor([[[-2.0, 2.0], [-1.0, 1.0]]], dtype=torch.float64) / deviation
    torch.testing.assert_close(result, wanted, atol=1e-7, rtol=0)


# Every baseline and scale on two ragged groups of three, to go (G, K, T):

TO_GO = [[[6.0, 5.0, 3.0], [2.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [1.0]]]


def ragged(groups: list[list[list[float]]]) -> torch.Tensor:
    """Numbers of each member's own steps, padded with 0: shape (T, G, K)."""
    padded = [[m + [0.0] * (3 - len(m)) for m in group] for group in groups]
    return torch.tensor(padded, dtype=torch.float64).permute(2, 0, 1)


LIVING = ragged([[[1.0] * len(m) for m in group] for group in TO_GO]) > 0.0


def compared(**options: Any) -> torch.Tensor:
    return group_advantages(ragged(TO_GO), LIVING, **{"center": "mean", "scale": "none", **options})


def same(got: torch.Tensor, wanted: list[list[list[float]]]) -> None:
    torch.testing.assert_close(got, ragged(wanted), atol=1e-6, rtol=0)


MEAN = 25 / 11  # of all eleven steps
# At the second step 7/4 is in place of the ended, the mean of 5, 0, 1 and 1.
STEPS = [[[2.0, 2.75, 0.0], [-2.0], [0.0, -2.25]], [[0.0, -0.25], [0.0, -0.25], [0.0]]]
OF_THE_LIVING = [[[2.0, 2.5, 0.0], [-2.0], [0.0, -2.5]], [[0.0] * 2, [0.0] * 2, [0.0]]]


def test_no_baseline_and_that_of_the_batch() -> None:
    same(compared(baseline="none"), TO_GO)
    whole = [[[v - MEAN for v in m] for m in group] for group in TO_GO]
    same(compared(baseline="batch"), whole)
    for baseline, values in (("none", TO_GO), ("batch", whole)):
        flat = [v for group in values for m in group for v in m]
        deviation = (sum(v * v for v in flat) / len(flat)) ** 0.5
        scaled = [[[v / deviation for v in m] for m in group] for group in values]
        same(compared(baseline=baseline, scale="batch"), scaled)


def test_time_bins_are_of_the_living_and_time_steps_are_not() -> None:
    same(compared(baseline="time_step"), STEPS)
    same(compared(baseline="time_bin"), OF_THE_LIVING)


def test_one_baseline_a_trajectory() -> None:
    """Means 14/3, 2, 2 of the first group's members: 26/9; the second's are all equal."""
    rows = [[[6 - 26 / 9, 5 - 26 / 9, 3 - 26 / 9], [2 - 26 / 9], [4 - 26 / 9, -26 / 9]]]
    same(compared(baseline="trajectory"), [*rows, [[0.0] * 2, [0.0] * 2, [0.0]]])


def test_state_bins_are_of_a_group_and_of_first_visits() -> None:
    bins = ragged([[[1, 2, 1], [1], [2, 1]], [[1, 1], [2, 2], [1]]]).long()
    wanted = [[[6 - 8 / 3, 0.5, 0.0], [2 - 8 / 3], [-0.5, -8 / 3]], [[0.0] * 2, [0.0] * 2, [0.0]]]
    same(compared(baseline="state_bin", bins=bins), wanted)
    with pytest.raises(ValueError, match='baseline "state_bin" needs bins'):
        compared(baseline="state_bin")


def test_scale_by_time_step_counts_the_living() -> None:
    """To go 6, 2, 4; 5, 0; 3."""
    first = (8 / 3) ** 0.5
    second = ((2.75**2 + 2.25**2) / 2) ** 0.5
    wanted = [
        [[2 / first, 2.75 / second, 0.0], [-2 / first], [0.0, -2.25 / second]],
        [[0.0, -1.0], [0.0, -1.0], [0.0]],
    ]
    same(compared(baseline="time_step", scale="time_step"), wanted)
    living = [
        [[2 / first, 1.0, 0.0], [-2 / first], [0.0, -1.0]],
        [[0.0] * 2, [0.0] * 2, [0.0]],
    ]
    same(compared(baseline="time_bin", scale="time_step"), living)


@pytest.mark.parametrize("baseline", ["none", "batch", "trajectory", "time_step", "time_bin"])
@pytest.mark.parametrize("scale", ["none", "group", "batch", "time_step"])
def test_ended_members_have_no_advantage(baseline: Any, scale: Any) -> None:
    """And nothing is out of proportion where returns are equal."""
    result = compared(baseline=baseline, scale=scale)
    assert not result[~LIVING].any()
    assert float(result.abs().max()) < 10.0


# Limits and errors


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize("baseline", ["trajectory", "time_step"])
@pytest.mark.parametrize("center", ["mean", "leave_one_out"])
def test_uniform_groups_are_exactly_zero(scale: Any, baseline: Any, center: Any) -> None:
    # A third of 0.1 + 0.1 + 0.1 is not 0.1 in binary.
    returns = torch.tensor([[[0.1] * 3, [1.0, 2.0, 3.0]]], dtype=torch.float64)
    alive = torch.ones_like(returns, dtype=torch.bool)
    result = group_advantages(returns, alive, baseline=baseline, center=center, scale=scale)
    assert result[0, 0].tolist() == [0.0, 0.0, 0.0]
    assert informative_groups(result).tolist() == [False, True]


def test_a_member_alone_is_refused() -> None:
    options: Any = {"baseline": "trajectory", "center": "mean", "scale": "none"}
    returns = torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match="group_size must be >= 2, got 1"):
        group_advantages(returns, returns == 0, **options)


# An independent recurrence in plain Python


def slow_advantages(
    rewards: list[list[list[float]]], kind: str, discount: float, options: dict[str, str]
) -> list[list[list[float]]]:
    """Of groups of members' reward lists."""
    longest = max(len(m) for group in rewards for m in group)
    centred, all_returns = [], []
    for group in rewards:
        to_go = [
            [
                sum(discount ** (s - t) * m[s] for s in range(t, len(m))) if t < len(m) else 0.0
                for t in range(longest)
            ]
            for m in group
        ]
        returns = to_go if kind == "reward_to_go" else [[row[0]] * longest for row in to_go]
        all_returns.append(returns)
    for group, returns in zip(rewards, all_returns, strict=True):
        rows = []
        for k, member in enumerate(group):
            row = []
            for t in range(len(member)):
                lengths = [len(m) for m in group]
                if options["baseline"] == "time_step":
                    living = [
                        other[t]
                        for members, others in zip(rewards, all_returns, strict=True)
                        for m, other in zip(members, others, strict=True)
                        if t < len(m)
                    ]
                    typical = sum(living) / len(living)
                    compared = [
                        r[t] if t < n else typical for r, n in zip(returns, lengths, strict=True)
                    ]
                    if len({r[t] for r in returns}) == 1:  # nothing is at stake
                        compared = [returns[k][t]] * len(returns)
                else:
                    compared = [sum(r[:n]) / n for r, n in zip(returns, lengths, strict=True)]
                if options["center"] == "leave_one_out":
                    del compared[k]
                row.append(returns[k][t] - sum(compared) / len(compared))
            rows.append(row)
        centred.append(rows)
    if options["scale"] == "none":
        return centred

    def deviation(groups: list[list[list[float]]]) -> float:
        once = options["baseline"] == "trajectory"
        weighted = [
            (v * v, 1 / len(row) if once else 1.0) for rows in groups for row in rows for v in row
        ]
        return float((sum(v * w for v, w in weighted) / sum(w for _, w in weighted)) ** 0.5)

    parts = [centred] if options["scale"] == "batch" else [[rows] for rows in centred]
    return [
        [[v / (deviation(part) + 1e-8) for v in row] for row in rows]
        for part in parts
        for rows in part
    ]


members = st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=5)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 4)),
    data=st.data(),
    kind=st.sampled_from(["outcome", "reward_to_go"]),
    discount=st.sampled_from([1.0, 0.9, 0.25]),
    baseline=st.sampled_from(["trajectory", "time_step"]),
    center=st.sampled_from(["mean", "leave_one_out"]),
    scale=st.sampled_from(["none", "group", "batch"]),
)
def test_agrees_with_a_slow_recurrence(
    shape: tuple[int, int], data: st.DataObject, kind: Any, discount: float, **options: Any
) -> None:
    groups, size = shape
    rewards = [[data.draw(members) for _ in range(size)] for _ in range(groups)]
    longest = max(len(m) for group in rewards for m in group)
    padded = torch.zeros(longest, groups, size, dtype=torch.float64)
    alive = torch.zeros(longest, groups, size, dtype=torch.bool)
    for g, group in enumerate(rewards):
        for k, member in enumerate(group):
            padded[: len(member), g, k] = torch.tensor(member, dtype=torch.float64)
            alive[: len(member), g, k] = True
    returns = compute_returns(padded, alive, kind, discount)
    got = group_advantages(returns, alive, **options)
    slow = slow_advantages(rewards, kind, discount, options)
    for g, group in enumerate(rewards):
        for k, member in enumerate(group):
            wanted = torch.tensor(slow[g][k], dtype=torch.float64)
            torch.testing.assert_close(got[: len(member), g, k], wanted, atol=1e-6, rtol=1e-6)
