from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym.policies.distributions import Categorical, Gaussian
from grpo_gym.policies.heads import CategoricalHead, GaussianHead, make_head
from grpo_gym.settings import ConfigError

BOUNDS = (-3.0, 0.5)


def categorical(space: gym.Space[Any]) -> CategoricalHead:
    head = make_head(space, -0.5, BOUNDS)
    assert isinstance(head, CategoricalHead)
    return head


def gaussian(space: gym.Space[Any], initial: float = -0.5) -> GaussianHead:
    head = make_head(space, initial, BOUNDS)
    assert isinstance(head, GaussianHead)
    return head


# Discrete


def test_discrete_starts_where_its_space_starts() -> None:
    space = spaces.Discrete(3, start=-4)
    head = categorical(space)
    assert (head.num_outputs, head.num_components) == (3, 1)
    actions = head.to_environment(torch.tensor([[0], [2]]))
    assert actions.tolist() == [-4, -2]
    assert all(space.contains(action) for action in actions)


def test_discrete_mask() -> None:
    head = categorical(spaces.Discrete(3))
    masks = torch.tensor([[True, False, True], [False, True, False]])
    distribution = head.distribution(torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 9.0]]), masks)
    probabilities = distribution.log_probs.exp()[:, 0].tolist()
    assert probabilities == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_multidiscrete_factors_of_unequal_sizes() -> None:
    space = spaces.MultiDiscrete([2, 4, 3], start=[0, 10, -1])
    head = categorical(space)
    assert (head.num_outputs, head.num_components) == (9, 3)
    outputs = torch.arange(9.0)[None] / 4.0
    distribution = head.distribution(outputs)
    parts = [torch.log_softmax(part, -1)[0] for part in outputs.split([2, 4, 3], dim=1)]
    for choice in np.ndindex(2, 4, 3):
        wanted = sum(float(part[i]) for part, i in zip(parts, choice, strict=True))
        got = float(distribution.log_prob(torch.tensor([choice])))
        assert got == pytest.approx(wanted, abs=1e-5)
    entropy = -sum(float((part.exp() * part).sum()) for part in parts)
    assert float(distribution.entropy()) == pytest.approx(entropy, abs=1e-5)
    noise = torch.from_numpy(np.random.default_rng(0).random((5_000, 3), np.float32))
    actions = head.to_environment(distribution.sample(noise))
    assert all(space.contains(action) for action in actions)
    assert [len(set(column)) for column in actions.T.tolist()] == [2, 4, 3]


def test_multidiscrete_mask_is_joined_component_by_component() -> None:
    head = categorical(spaces.MultiDiscrete([2, 3]))
    mask = torch.tensor([[False, True, True, False, True]])
    distribution = head.distribution(torch.zeros(1, 5), mask)
    assert distribution.log_probs.exp()[0].tolist() == [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    with pytest.raises(ValueError, match="at least one"):
        head.distribution(torch.zeros(1, 5), torch.tensor([[False, False, True, True, True]]))


def test_equal_sizes_need_no_padding() -> None:
    head = categorical(spaces.MultiDiscrete([3, 3]))
    distribution = head.distribution(torch.zeros(1, 6))
    assert distribution.allowed is None
    assert float(distribution.log_prob(torch.tensor([[2, 2]]))) == pytest.approx(-2 * np.log(3))


# Box


def sent(head: GaussianHead, *actions: list[float]) -> np.ndarray:
    return head.to_environment(torch.tensor(actions))


def test_bounded_box_is_scaled_and_clipped() -> None:
    low, high = np.array([-2.0, 0.0], np.float32), np.array([6.0, 1.0], np.float32)
    space = spaces.Box(low, high)
    actions = sent(gaussian(space), [0.0, 0.0], [-1.0, 1.0], [0.5, -0.5], [3.0, -3.0])
    assert actions.dtype == space.dtype
    assert actions.tolist() == [[2.0, 0.5], [-2.0, 1.0], [4.0, 0.25], [6.0, 0.0]]
    assert all(space.contains(action) for action in actions)


def test_unbounded_and_half_bounded_boxes_keep_their_unit() -> None:
    low = np.array([-np.inf, 1.0, -np.inf], np.float32)
    high = np.array([np.inf, np.inf, -1.0], np.float32)
    actions = sent(gaussian(spaces.Box(low, high)), [7.0, 7.0, -7.0], [-7.0, -7.0, 7.0])
    # One bound is one unit from the middle: untrained policies act inside, not at the bound.
    assert actions.tolist() == [[7.0, 9.0, -9.0], [-7.0, 1.0, -1.0]]


def test_box_of_any_shape_and_dtype() -> None:
    space = spaces.Box(-1.0, 3.0, (2, 3), np.float64)
    head = gaussian(space)
    assert (head.num_components, head.num_network_outputs, head.num_outputs) == (6, 6, 12)
    action = sent(head, [0.0, 0.5, 1.0, -1.0, 5.0, -5.0])[0]
    assert action.tolist() == [[1.0, 2.0, 3.0], [-1.0, 3.0, -1.0]]
    assert space.contains(action)
    scalar = spaces.Box(-1.0, 1.0, (), np.float32)
    assert sent(gaussian(scalar), [0.5], [2.0]).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("initial", [-2.9, -0.5, 0.0, 0.45])
def test_log_std_starts_where_it_should(initial: float) -> None:
    head = gaussian(spaces.Box(-1.0, 1.0, (2,)), initial)
    mean, log_std = head.complete(torch.tensor([[3.0, 4.0]])).chunk(2, dim=-1)
    assert mean.tolist() == [[3.0, 4.0]]
    assert log_std[0].tolist() == pytest.approx([initial] * 2, abs=0.02)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_log_std_stays_within_bounds_after_extreme_gradients(direction: float) -> None:
    head = gaussian(spaces.Box(-1.0, 1.0, (2,)))
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        (direction * 1e8 * head.complete(torch.zeros(1, 2))).sum().backward()
        optimizer.step()
    log_std = head.complete(torch.zeros(1, 2))[0, 2:]
    assert bool(((log_std >= BOUNDS[0]) & (log_std <= BOUNDS[1])).all())
    assert log_std.tolist() == pytest.approx([BOUNDS[0] if direction > 0.0 else BOUNDS[1]] * 2)


def test_box_takes_no_mask() -> None:
    head = gaussian(spaces.Box(-1.0, 1.0, (2,)))
    assert isinstance(head.distribution(torch.zeros(1, 4)), Gaussian)
    with pytest.raises(ValueError, match="discrete actions"):
        head.distribution(torch.zeros(1, 4), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
        spaces.Text(3),
    ],
)
def test_other_action_spaces_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="action space must be Discrete, MultiDiscrete"):
        make_head(space, -0.5, BOUNDS)


def test_head_kinds() -> None:
    assert isinstance(categorical(spaces.Discrete(2)).distribution(torch.zeros(1, 2)), Categorical)
