"""The closed-form state baseline: what it may depend on, how well it predicts, what it is used for.

Shapes: T steps, G groups, K members.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_gym.rollouts.rollout import Episodes, GroupedRollout
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import AdvantageConfig, GRPOConfig
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.learning.advantages import compute_returns
from grpo_gym.trainers.learning.estimate import estimate_advantages
from grpo_gym.trainers.learning.state_baseline import (
    explained_variance,
    exponential_advantages,
    state_values,
)

T, G, K = 40, 3, 8
KINDS: tuple[Any, ...] = ("auto", "state", "time_step")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in training: several threads wait for each other where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def alive(generator: torch.Generator) -> Tensor:
    ends = torch.randint(T // 2, T + 1, (G, K), generator=generator)
    return torch.arange(T)[:, None, None] < ends


@pytest.fixture
def observations(generator: torch.Generator) -> Tensor:
    return torch.randn(T, G, K, 3, generator=generator)


def test_a_value_does_not_depend_on_the_members_own_returns(
    observations: Tensor, alive: Tensor, generator: torch.Generator
) -> None:
    returns = torch.randn(T, G, K, generator=generator, dtype=torch.float64)
    before = state_values(observations, alive, alive, returns, 0.99)
    for member in range(K):
        changed = returns.clone()
        changed[:, 1, member] += 1000.0
        after = state_values(observations, alive, alive, changed, 0.99)
        assert torch.equal(before[:, :, member], after[:, :, member])
        others = [k for k in range(K) if k // 2 != member // 2]
        assert not torch.allclose(before[:, :, others], after[:, :, others], atol=0.1)


def test_a_gradient_with_the_baseline_has_the_mean_of_one_without() -> None:
    """One step, one state of two actions, reward = action: the gradient of the mean is p (1 - p).

    Summed over all 2^4 outcomes of four members, with their probabilities.
    """
    chance = 0.3
    expected = {"baseline": 0.0, "none": 0.0}
    for outcome in range(2**4):
        actions = torch.tensor([outcome >> k & 1 for k in range(4)], dtype=torch.float64)
        probability = float(torch.where(actions == 1, chance, 1.0 - chance).prod())
        rewards = actions.reshape(1, 1, 4)
        alive = torch.ones(1, 1, 4, dtype=torch.bool)
        observations = torch.zeros(1, 1, 4, 1)
        values = state_values(observations, alive, alive, rewards, 1.0)
        score = (actions - chance).reshape(1, 1, 4)
        expected["baseline"] += probability * float((score * (rewards - values)).mean())
        expected["none"] += probability * float((score * rewards).mean())
    assert expected["none"] == pytest.approx(chance * (1.0 - chance))
    assert expected["baseline"] == pytest.approx(expected["none"], abs=1e-7)


def test_values_that_are_a_polynomial_of_state_and_time_left_are_found(
    observations: Tensor, alive: Tensor, generator: torch.Generator
) -> None:
    discount = 0.95
    left = 1.0 - discount ** (T - torch.arange(T, dtype=torch.float64))[:, None, None]
    x = observations.double().clamp(-3.0, 3.0)
    expected = 5.0 + 3.0 * x[..., 0] - x[..., 1].square() + 10.0 * left
    noise = torch.randn(T, G, K, generator=generator, dtype=torch.float64)
    returns = torch.where(alive, expected + 0.3 * noise, 0.0)
    values = state_values(observations, alive, alive, returns, discount)
    assert explained_variance(returns - values, returns, alive) > 0.9
    assert float((values - expected)[alive].abs().mean()) < 0.5


def test_a_constant_return_is_predicted_without_error(observations: Tensor, alive: Tensor) -> None:
    returns = torch.where(alive, 1e6, 0.0).double()
    values = state_values(observations, alive, alive, returns, 0.99)
    torch.testing.assert_close(values[alive], returns[alive], rtol=1e-6, atol=0.0)
    assert bool((values[~alive] == 0.0).all())


def test_steps_that_are_not_credited_are_predicted_but_not_fitted(
    observations: Tensor, alive: Tensor, generator: torch.Generator
) -> None:
    returns = torch.randn(T, G, K, generator=generator, dtype=torch.float64)
    credited = alive.clone()
    credited[T // 4 :] = False
    values = state_values(observations, alive, credited, returns, 0.99)
    changed = torch.where(credited, returns, 1000.0)
    assert torch.equal(values, state_values(observations, alive, credited, changed, 0.99))
    assert bool((values[alive] != 0.0).all())


@pytest.mark.parametrize("width", [1, 65, 600])
def test_any_width_of_observations_is_read(width: int, generator: torch.Generator) -> None:
    alive = torch.ones(6, 1, 2, dtype=torch.bool)
    observations = torch.randn(6, 1, 2, width, generator=generator)
    returns = torch.randn(6, 1, 2, generator=generator, dtype=torch.float64)
    assert bool(torch.isfinite(state_values(observations, alive, alive, returns, 1.0)).all())


def test_constant_observations_leave_the_mean_of_the_others() -> None:
    alive = torch.ones(1, 1, 4, dtype=torch.bool)
    returns = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]], dtype=torch.float64)
    values = state_values(torch.full((1, 1, 4, 2), 7.0), alive, alive, returns, 1.0)
    expected = (returns.sum() - returns) / 3.0
    torch.testing.assert_close(values, expected, rtol=0.0, atol=1e-6)


def test_exponential_advantages_are_those_of_the_paper(
    alive: Tensor, generator: torch.Generator
) -> None:
    rewards, values = torch.randn(2, T, G, K, generator=generator, dtype=torch.float64)
    rewards, values = rewards * alive, values * alive
    discount, weight = 0.9, 0.7
    advantages = exponential_advantages(rewards, values, alive, discount, weight)
    group, member = 1, 2
    length = int(alive[:, group, member].sum())
    reward, value = rewards[:length, group, member], values[:length, group, member]
    following = torch.cat([value[1:], torch.zeros(1, dtype=torch.float64)])
    differences = reward + discount * following - value
    for t in range(length):
        weights = (discount * weight) ** torch.arange(length - t, dtype=torch.float64)
        expected = float((weights * differences[t:]).sum())
        assert float(advantages[t, group, member]) == pytest.approx(expected)
    assert bool((advantages[~alive] == 0.0).all())


def test_whole_returns_minus_values_are_the_limit_of_weight_1(
    alive: Tensor, generator: torch.Generator
) -> None:
    rewards, values = torch.randn(2, T, G, K, generator=generator, dtype=torch.float64)
    rewards, values = rewards * alive, values * alive
    returns = compute_returns(rewards, alive, "reward_to_go", 0.9)
    advantages = exponential_advantages(rewards, values, alive, 0.9, 1.0)
    torch.testing.assert_close(advantages, torch.where(alive, returns - values, 0.0))


def test_explained_variance_of_equal_returns_is_undefined() -> None:
    returns, counted = torch.ones(2, 1, 2).double(), torch.ones(2, 1, 2, dtype=torch.bool)
    assert math.isnan(explained_variance(returns, returns, counted))


def rollout_of(rewards: Tensor, observations: Tensor, alive: Tensor) -> GroupedRollout:
    """A rollout of rewards (T, G, K) in states (T, G, K, D)."""
    zeros = torch.zeros(alive.shape)
    nothing = torch.zeros(0)
    return GroupedRollout(
        observations=observations,
        actions=zeros[..., None].long(),
        log_probs=zeros,
        outputs=torch.zeros(*alive.shape, 2),
        rewards=rewards,
        alive=alive,
        credited=alive,
        action_masks=None,
        episodes=Episodes(nothing, nothing, nothing),
        infos={},
        info_counts={},
        branchings=nothing,
    )


def test_auto_compares_what_explains_more(generator: torch.Generator) -> None:
    alive = torch.ones(T, G, K, dtype=torch.bool)
    states = torch.randn(T, G, K, 3, generator=generator)
    noise = 0.1 * torch.randn(T, G, K, generator=generator, dtype=torch.float64)
    of_the_world = torch.randn(T, G, 1, generator=generator, dtype=torch.float64)
    config = AdvantageConfig(gae_lambda=0.9)
    cases = {"state": states[..., 0].double() + noise, "time_step": of_the_world + noise}
    for better, rewards in cases.items():
        rollout = rollout_of(rewards, states, alive)
        estimates = {
            name: estimate_advantages(rollout, replace(config, baseline=name), 0.5, states=states)
            for name in KINDS
        }
        assert torch.equal(estimates["auto"].advantages, estimates[better].advantages)
        assert not torch.equal(estimates["state"].advantages, estimates["time_step"].advantages)
        explained = estimates["auto"].explained_variance
        assert max(explained, key=explained.__getitem__) == better
        assert explained[better] > 0.6
        assert estimates["state"].explained_variance == {"state": explained["state"]}
        assert estimates["time_step"].explained_variance == {}


@pytest.mark.parametrize("baseline", ["state", "auto"])
def test_equal_returns_say_nothing(baseline: Any, generator: torch.Generator) -> None:
    alive = torch.ones(T, G, K, dtype=torch.bool)
    states = torch.randn(T, G, K, 3, generator=generator)
    rollout = rollout_of(torch.ones(T, G, K, dtype=torch.float64), states, alive)
    config = replace(AdvantageConfig(gae_lambda=0.9), baseline=baseline)
    estimate = estimate_advantages(rollout, config, 0.99, states=states)
    assert bool((estimate.advantages == 0.0).all())
    assert estimate.uniform_groups == 1.0


@pytest.mark.parametrize("scale", ["none", "batch", "group", "time_step"])
def test_advantages_are_divided_by_the_deviation_asked_for(
    scale: Any, alive: Tensor, generator: torch.Generator
) -> None:
    states = torch.randn(T, G, K, 3, generator=generator)
    rewards = torch.randn(T, G, K, generator=generator, dtype=torch.float64) * alive
    config = replace(AdvantageConfig(baseline="state"), scale=scale)
    advantages = estimate_advantages(
        rollout_of(rewards, states, alive), config, 0.9, states=states
    ).advantages
    axes = {"none": None, "batch": (0, 1, 2), "group": (0, 2), "time_step": (2,)}[scale]
    if axes is None:
        returns = compute_returns(rewards, alive, "reward_to_go", 0.9)
        values = state_values(states, alive, alive, returns, 0.9)
        torch.testing.assert_close(advantages, (returns - values).float() * alive)
    else:
        squares = advantages.square().sum(dim=axes) / alive.sum(dim=axes).clamp_min(1)
        some = alive.sum(dim=axes) > 0
        torch.testing.assert_close(squares[some], torch.ones_like(squares[some]))


def test_a_model_learns_with_it_and_reports_what_it_explains() -> None:
    seen = []
    model = GRPO("linear", "CartPole-v1", baseline="auto", num_groups=2, group_size=4)
    model.learn(600, callback=lambda _, stats: seen.append(stats))
    assert all(stats.update is not None for stats in seen)
    assert all(math.isfinite(stats.explained_variance) for stats in seen)
    assert all(math.isfinite(stats.explained_variance_time_step) for stats in seen)


@pytest.mark.parametrize(
    "others", [{"learned_baseline": True}, {"returns": "outcome"}, {"refill_rounds": 1}]
)
def test_what_does_not_go_with_it_is_refused(others: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(others))):
        GRPOConfig(baseline="state", **others)
