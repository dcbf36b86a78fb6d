"""The learned state value: what it predicts, and what subtracting it does."""

import copy
import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.rollouts.rollout import Episodes, GroupedRollout
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning.estimate import estimate_advantages
from grpo_gym.trainers.learning.value_baseline import ValueBaseline
from grpo_gym.trainers.presets import make_config
from probe_envs import BestAction, OneStep, Recall

SMALL: dict[str, Any] = {"num_groups": 4, "group_size": 4, "hidden_sizes": (8,)}


def make(features: int = 3, rate: float = 0.01) -> ValueBaseline:
    torch.manual_seed(0)
    return ValueBaseline(features, (32,), rate)


def linear(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and returns that are a linear function of them, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 3, generator=generator)
    slope = torch.tensor([30.0, -10.0, 20.0], dtype=torch.float64)
    return features, features.double() @ slope - 500.0


def test_it_learns_a_linear_function_and_says_how_much_it_explains() -> None:
    baseline = make()
    features, returns = linear(512)
    assert baseline.predict(features).tolist() == [0.0] * 512
    explained = [
        baseline.fit(features, returns, 5, torch.Generator().manual_seed(i)) for i in range(20)
    ]
    assert explained[0] == 0.0  # it predicted nothing before
    assert explained[-1] > 0.98
    unseen, wanted = linear(256, seed=1)
    predicted = baseline.predict(unseen)
    assert predicted.dtype == torch.float64
    assert float((predicted - wanted).square().mean() / wanted.var()) < 0.03
    assert not predicted.requires_grad
    assert baseline.predict(unseen.reshape(4, 8, 8, 3)).shape == (4, 8, 8)


def test_explained_variance_is_of_the_predictions_before_the_fit() -> None:
    baseline = make()
    features, returns = linear(64)
    baseline.fit(features, returns, 3, torch.Generator().manual_seed(0))
    residual = returns - baseline.predict(features)
    wanted = 1.0 - float(residual.var() / returns.var())
    got = baseline.fit(features, returns, 3, torch.Generator().manual_seed(1))
    assert got == pytest.approx(wanted)
    assert 0.0 < wanted < 1.0


def test_there_is_nothing_to_explain_where_all_returns_are_equal() -> None:
    baseline = make()
    features, returns = linear(64)
    baseline.fit(features, returns, 3, torch.Generator().manual_seed(0))
    equal = torch.full((64,), 7.0, dtype=torch.float64)
    assert math.isnan(baseline.fit(features, equal, 3, torch.Generator().manual_seed(1)))
    for i in range(30):  # and it recovers
        baseline.fit(features, returns, 5, torch.Generator().manual_seed(i))
    assert float((returns - baseline.predict(features)).var() / returns.var()) < 0.1


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 1000.0), (100.0, 0.0), (0.01, -3.0)])
def test_rescaling_keeps_predictions(factor: float, shift: float) -> None:
    baseline = make()
    features, returns = linear(256)
    baseline.fit(features, returns, 5, torch.Generator().manual_seed(0))
    before = baseline.predict(features)
    baseline._rescale(factor * returns + shift)
    assert float(baseline.mean) == pytest.approx(float((factor * returns + shift).mean()))
    assert float(baseline.deviation) == pytest.approx(float(returns.std()) * factor)
    torch.testing.assert_close(baseline.predict(features), before, atol=0.02, rtol=1e-4)


def test_a_restored_baseline_goes_on_as_the_original() -> None:
    features, returns = linear(128)
    one, other = make(), make(rate=0.01)
    one.fit(features, returns, 2, torch.Generator().manual_seed(0))
    other.restore(copy.deepcopy(one.state()))
    for baseline in (one, other):
        baseline.fit(features, 2.0 * returns, 2, torch.Generator().manual_seed(1))
    assert torch.equal(one.predict(features), other.predict(features))


# In training


def test_the_value_is_subtracted_from_each_return() -> None:
    options = {"baseline": "none", "scale": "none", "drop_uniform_groups": False, "discount": 1.0}
    model = GRPO("mlp", Recall, learned_baseline=True, **SMALL, **options).learn(400)
    rollout, estimate = model._collect()
    assert model.value_baseline is not None
    values = model.value_baseline.predict(model.policy.features(rollout.observations))
    assert float(values.abs().min()) > 0.1
    to_go = rollout.rewards.flip(0).cumsum(dim=0).flip(0)
    torch.testing.assert_close(estimate.advantages, (to_go - values).float())


class Fortune(OneStep):
    """Most of the return is seen before the action."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, **arguments: Any) -> Any:
        gym.Env.reset(self, seed=arguments.get("seed"))
        self.fortune = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.fortune, {}

    def observe(self) -> Any:
        return self.fortune

    def reward(self, action: Any) -> float:
        return 50.0 + 10.0 * float(self.fortune[0]) + float(action)


def test_explained_variance_rises_and_the_advantages_shrink() -> None:
    """Unrelated episodes that are compared with nothing else: only the prediction helps."""
    seen: list[IterationStats] = []
    model = GRPO(
        "mlp", Fortune, learned_baseline=True, value_learning_rate=0.02, baseline="none",
        scale="none", num_groups=16, group_size=4, hidden_sizes=(16,),
    )  # fmt: skip
    model.learn(3_000, callback=lambda _, stats: seen.append(stats))
    assert seen[0].explained_variance == pytest.approx(0.0, abs=1e-9)
    assert all(stats.explained_variance <= 1.0 for stats in seen)
    assert seen[-1].explained_variance > 0.9
    first, last = seen[0].update, seen[-1].update
    assert first is not None
    assert last is not None
    assert first.advantage_mean > 40.0
    assert abs(last.advantage_mean) < 5.0
    without = GRPO("mlp", BestAction, **SMALL).train_iteration()
    assert math.isnan(without.explained_variance)


class Nothing(OneStep):
    """Whatever one does, nothing comes of it; but the states differ."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, **arguments: Any) -> Any:
        gym.Env.reset(self, seed=arguments.get("seed"))
        self.state = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.state, {}

    def observe(self) -> Any:
        return self.state

    def reward(self, action: Any) -> float:
        return 0.1


@pytest.mark.parametrize("baseline", ["time_step", "trajectory", "batch", "none"])
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_equal_returns_teach_nothing_whatever_is_subtracted(baseline: Any, scale: Any) -> None:
    model = GRPO("mlp", Nothing, learned_baseline=True, baseline=baseline, scale=scale, **SMALL)
    model.train_iteration()
    for _ in range(3):
        _, estimate = model._collect()
        advantages = estimate.advantages
        if baseline == "none":  # what is left is rounding, and no deviation makes it large
            assert float(advantages.abs().max()) < 1e-6
        else:
            assert not advantages.any()
        model.train_iteration()


def test_an_outcome_is_kept_after_a_members_end() -> None:
    """Two equal outcomes, one of them early; values of 0 change nothing."""
    config = make_config(returns="outcome", scale="none", discount=1.0)
    alive = torch.tensor([[[True, True]], [[False, True]]])
    rollout = rollout_of(rewards=torch.tensor([[[10.0, 0.0]], [[0.0, 10.0]]]).double(), alive=alive)
    zeros = torch.zeros(2, 1, 2, dtype=torch.float64)
    assert not estimate_advantages(rollout, config, 1.0, values=zeros).advantages.any()
    unlike = replace(rollout, rewards=rollout.rewards * torch.tensor([1.0, 2.0]).double())
    without = estimate_advantages(unlike, config, 1.0).advantages
    assert without.any()
    assert torch.equal(estimate_advantages(unlike, config, 1.0, values=zeros).advantages, without)


def rollout_of(rewards: torch.Tensor, alive: torch.Tensor) -> GroupedRollout:
    steps = {name: torch.zeros(*alive.shape, 1) for name in ("observations", "actions", "outputs")}
    empty = torch.empty(0)
    return GroupedRollout(
        **steps, log_probs=torch.zeros(alive.shape), rewards=rewards, alive=alive, credited=alive,
        action_masks=None, episodes=Episodes(empty, empty, empty), infos={}, info_counts={},
        branchings=empty,
    )  # fmt: skip


def test_it_draws_nothing_that_others_draw() -> None:
    """The policy's first weights and its first rollout are those of a run without it."""
    plain, learned = (
        GRPO("mlp", Recall, learned_baseline=on, baseline="none", **SMALL) for on in (False, True)
    )
    assert plain.weights_sha256() == learned.weights_sha256()
    plain.train_iteration()
    learned.train_iteration()
    # It predicts 0 before its first fit, so that the first update is the same as well.
    assert plain.weights_sha256() == learned.weights_sha256()
    plain.train_iteration()
    learned.train_iteration()
    assert plain.weights_sha256() != learned.weights_sha256()
