"""Which states share a bin, and what comparing within bins and at anchors gives."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym.trainers.learning.state_bins import anchor_advantages, center_on_bins, state_bins

SHAPE = (3, 2, 3)


def bins_of(rows: list[list[float]], width: float) -> list[int]:
    """The bin of each state, given as rows of features."""
    return state_bins(torch.tensor(rows)[:, None, None], width)[:, 0, 0].tolist()


# Bins


def test_bins_are_cells_of_the_given_width() -> None:
    near = bins_of([[0.1, 0.9], [-0.2, 1.2], [0.3, 0.9], [0.1, 1.3]], 0.5)
    assert near[0] == near[1]  # both round to (0, 2) halves
    assert len(set(near)) == 3
    # The same numbers in other features are another state.
    assert len(set(bins_of([[1.0, 2.0], [2.0, 1.0], [3.0, 0.0], [0.0, 3.0]], 1.0))) == 4


@given(
    left=st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    right=st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    width=st.sampled_from([0.25, 0.5, 2.0]),
)
def test_bins_are_equal_exactly_when_cells_are(
    left: list[int], right: list[int], width: float
) -> None:
    inside = [[width * n + 0.3 * width for n in left], [width * n - 0.3 * width for n in right]]
    first, second = bins_of(inside, width)
    assert (first == second) == (left == right)


def test_width_zero_tells_apart_whatever_differs() -> None:
    one = torch.tensor(1.0)
    above = float(torch.nextafter(one, torch.tensor(2.0)))
    assert len(set(bins_of([[1.0], [above], [-1.0], [1e-45], [0.0]], 0.0))) == 5
    assert len(set(bins_of([[0.0], [-0.0]], 0.0))) == 1
    assert len(set(bins_of([[0.0, 1.0], [-0.0, 1.0]], 0.5))) == 1


@pytest.mark.parametrize("width", [0.0, 0.5])
def test_many_states_do_not_collide(width: float) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-50, 50, (300_000, 6), generator=generator)
    bins = state_bins((cells * 0.5).to(torch.float32)[:, None, None], width)
    assert len(torch.unique(bins)) == len(torch.unique(cells, dim=0))
    # Nor do all corners and edges of a small cube, whose differences are alike.
    corners = [list(map(float, c)) for c in itertools.product((-1, 0, 1), repeat=8)]
    assert len(set(bins_of(corners, width and 1.0))) == 3**8


def test_bins_do_not_depend_on_anybodys_random_numbers() -> None:
    torch.manual_seed(0)
    first = bins_of([[0.3, 4.0]], 0.5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert bins_of([[0.3, 4.0], [9.0, 9.0]], 0.5)[0] == first[0]
    assert torch.equal(torch.get_rng_state(), before)


# Baselines by bins. One group; rows are members, columns steps.


def in_time(rows: list[list[Any]]) -> torch.Tensor:
    return torch.tensor(rows).T[:, None]


BINS = in_time([[7, 8, 7], [8, 7, 9], [9, 7, 0]])
ALIVE = in_time([[True, True, True], [True, True, True], [True, True, False]])
RETURNS = in_time([[6.0, 5.0, 3.0], [2.0, 1.0, 4.0], [9.0, 2.0, 0.0]])


def test_members_are_compared_at_their_first_visit_of_a_bin() -> None:
    """Bin 7: 6, 1, 2 (mean 3, the later 3 is left out); 8: 5, 2; 9: 4, 9 at unlike times."""
    got = center_on_bins(RETURNS, ALIVE, BINS)[:, 0].T.tolist()
    wanted = [[3.0, 1.5, 0.0], [-1.5, -2.0, -2.5], [2.5, -1.0, 0.0]]
    assert got == wanted


def test_groups_are_not_compared_with_each_other() -> None:
    twice = center_on_bins(
        torch.cat([RETURNS, RETURNS + 100.0], dim=1), ALIVE.repeat(1, 2, 1), BINS.repeat(1, 2, 1)
    )
    torch.testing.assert_close(twice[:, 0], center_on_bins(RETURNS, ALIVE, BINS)[:, 0])
    torch.testing.assert_close(twice[:, 1], twice[:, 0])


def test_a_bin_of_equal_returns_is_exactly_zero() -> None:
    returns = torch.full_like(RETURNS, 0.1, dtype=torch.float64)
    assert not center_on_bins(returns, ALIVE, torch.zeros_like(BINS)).any()
    assert not center_on_bins(RETURNS, torch.zeros_like(ALIVE), BINS).any()  # and none at all


# Anchors (GiGPO)


def test_anchors_compare_every_visit() -> None:
    """Bin 7: 6, 3, 1, 2 (mean 3); 8: 5, 2 (3.5); 9: 4, 9 (6.5)."""
    got = anchor_advantages(RETURNS, ALIVE, BINS, "none")[:, 0].T.tolist()
    assert got == [[3.0, 1.5, 0.0], [-1.5, -2.0, -2.5], [2.5, -1.0, 0.0]]
    scaled = anchor_advantages(RETURNS, ALIVE, BINS, "group")[:, 0].T
    seven = ((9.0 + 0.0 + 4.0 + 1.0) / 4) ** 0.5
    wanted = [[3.0 / seven, 1.0, 0.0], [-1.0, -2.0 / seven, -1.0], [1.0, -1.0 / seven, 0.0]]
    torch.testing.assert_close(scaled, torch.tensor(wanted), atol=1e-6, rtol=0)


def test_one_deviation_scales_all_anchors_of_a_batch() -> None:
    """A tenth state is visited once: it is compared with nothing, and counts in no deviation."""
    bins = BINS.clone()
    bins[2, 0, 1] = 10  # bin 9 keeps one visit as well
    got = anchor_advantages(RETURNS, ALIVE, bins, "batch")[:, 0].T
    deviation = ((9.0 + 0.0 + 4.0 + 1.0 + 2 * 1.5**2) / 6) ** 0.5
    wanted = torch.tensor([[3.0, 1.5, 0.0], [-1.5, -2.0, 0.0], [0.0, -1.0, 0.0]]) / deviation
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_later_visits_count_at_anchors_only() -> None:
    returns = RETURNS.clone()
    returns[2, 0, 0] = 7.0  # the second visit of bin 7; its four are 6, 7, 1, 2: mean 4
    anchored = anchor_advantages(returns, ALIVE, BINS, "none")[:, 0].T
    assert anchored[0].tolist() == [2.0, 1.5, 3.0]
    binned = center_on_bins(returns, ALIVE, BINS)[:, 0].T
    assert binned[0].tolist() == [3.0, 1.5, 0.0]


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_anchors_with_one_visit_or_equal_returns_are_exactly_zero(scale: str) -> None:
    alone = torch.arange(9).reshape(3, 1, 3)
    assert not anchor_advantages(RETURNS, ALIVE, alone, scale).any()
    returns = torch.full_like(RETURNS, 0.1, dtype=torch.float64)
    assert not anchor_advantages(returns, ALIVE, torch.zeros_like(BINS), scale).any()


@given(
    data=st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(-4, 4)), min_size=18, max_size=18
    )
)
def test_bins_and_anchors_agree_with_loops(data: list[tuple[int, bool, int]]) -> None:
    bins = torch.tensor([b for b, _, _ in data]).reshape(SHAPE)
    alive = torch.tensor([a for _, a, _ in data]).reshape(SHAPE)
    returns = torch.tensor([float(r) for _, _, r in data], dtype=torch.float64).reshape(SHAPE)
    steps = [i for i in itertools.product(*map(range, SHAPE)) if alive[i]]
    first = [
        (t, g, k)
        for t, g, k in steps
        if not any(bins[s, g, k] == bins[t, g, k] for s in range(t) if alive[s, g, k])
    ]
    binned, anchored = torch.zeros_like(returns), torch.zeros_like(returns)
    for result, chosen in ((binned, first), (anchored, steps)):
        for i in chosen:
            same = [float(returns[j]) for j in chosen if j[1] == i[1] and bins[j] == bins[i]]
            result[i] = returns[i] - sum(same) / len(same)
    torch.testing.assert_close(center_on_bins(returns, alive, bins), binned)
    torch.testing.assert_close(anchor_advantages(returns, alive, bins, "none"), anchored)
