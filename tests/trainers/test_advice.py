"""What is said of trainings that end without an error and without having learned much."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings import from_mapping
from grpo_gym.trainers.advice import CONSTANT_FOR, WINDOW, Advice
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import FEWEST_ITERATIONS
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.schedule import Schedule
from grpo_gym.trainers.settings import TrainSettings
from grpo_gym.trainers.shipped import default_config
from probe_envs import BestAction, OneStep

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}
ITERATION = 8  # steps, of episodes of one step


@dataclass
class Training:
    """What advice reads of a model."""

    schedule: Schedule
    num_steps: int = 0
    env_source: EnvSource = "Unknown-v0"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    config: GRPOConfig = field(default_factory=GRPOConfig)


STATS = IterationStats(
    iteration=1,
    num_steps=100,
    rollout_steps=100,
    rollout={},
    update=None,
    uniform_groups=0.0,
    explained_variance=float("nan"),
    discount=1.0,
    collect_seconds=1.0,
    update_seconds=1.0,
)


class Paying(OneStep):
    """Pays the same for every action, or what chance wants."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)
    chance = 0.0

    def reward(self, action: Any) -> float:
        return 3.0 + float(self.np_random.random() < self.chance)


class Lucky(Paying):
    """All members of half of the groups earn more, whatever they do."""

    chance = 0.5


def few(model: GRPO, stats: IterationStats) -> bool:
    """Stop after a few iterations of each call."""
    return stats.iteration % (WINDOW + 1) != 0


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def listen(
    advice: Advice,
    uniform: Sequence[float],
    returns: Sequence[float],
    *,
    steps: int = 100 * FEWEST_ITERATIONS,
    start: int = 0,
    std: float = 1.0,
) -> None:
    """Tell of iterations of 100 steps in a call of `learn`."""
    training = Training(Schedule(start, start + steps))
    for share, mean in zip(uniform, returns, strict=True):
        rollout = {"return_mean": mean, "return_std": std}
        advice(training, replace(STATS, uniform_groups=share, rollout=rollout))


# Few iterations


@pytest.mark.parametrize(("iterations", "is_told"), [(1, True), (49, True), (50, False)])
def test_few_iterations_are_told_of_once(
    iterations: int, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with GRPO("linear", BestAction, num_groups=2, group_size=4) as model:
        model.learn(iterations * ITERATION, callback=few)
        model.learn(iterations * ITERATION, callback=few)
    plural = "iteration" if iterations == 1 else "iterations"
    steps = f"{iterations * ITERATION} steps are about {iterations} {plural} of 8, and "
    assert [message.startswith(steps) for message in said(caplog)] == [True] * is_told


def test_iterations_that_grow_later_are_no_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows beforehand how long episodes become, and longer ones are often better."""
    advice, training = Advice(), Training(Schedule(0, 100 * FEWEST_ITERATIONS))
    for steps in (100, 10_000):
        rollout = {"return_mean": float(steps), "return_std": 1.0}
        advice(training, replace(STATS, rollout_steps=steps, rollout=rollout))
    assert not said(caplog)


@pytest.mark.parametrize(
    ("env", "env_kwargs"),
    [
        ("MountainCarContinuous-v0", {}),
        ("Acrobot-v1", {}),
        ("Battleship-v0", {"preset": "russian-10x10"}),
    ],
)
@pytest.mark.parametrize(
    ("share", "group_size", "is_told"), [(1, 1, False), (0.9, 1, True), (1, 2, True)]
)
def test_shipped_settings_are_known_to_suffice(
    env: str,
    env_kwargs: dict[str, Any],
    share: float,
    group_size: int,
    is_told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With fewer steps, or larger groups, they are not."""
    values = {"env": env, **default_config(env, env_kwargs)}
    shipped = from_mapping(TrainSettings, values, "shipped settings")
    config = replace(shipped.grpo, group_size=group_size * shipped.grpo.group_size)
    steps = round(share * shipped.total_steps)
    training = Training(Schedule(0, steps), 0, env, env_kwargs, config)
    rollout = {"return_mean": 0.0, "return_std": 1.0}
    Advice()(training, replace(STATS, rollout_steps=steps // 10, rollout=rollout))
    assert len(said(caplog)) == is_told


# A constant reward


@pytest.mark.parametrize("preset", ["default", "dapo", "trust_region", "reinforce_pp"])
def test_a_constant_reward_is_told_of_once(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    with GRPO("mlp", Paying, preset=preset, **SMALL) as model:
        for _ in range(2):  # refills make iterations longer
            model.learn(ITERATION * FEWEST_ITERATIONS * 4, callback=few)
    (message,) = said(caplog)
    assert message.startswith("every episode of 3 iterations returned 3: the reward is constant")


def test_rounding_does_not_make_a_reward_vary(caplog: pytest.LogCaptureFixture) -> None:
    listen(Advice(), [1.0] * 3, [0.6, 0.6000000000000001, 0.6], std=1e-16)
    assert len(said(caplog)) == 1


def test_small_differences_of_large_returns_are_differences(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listen(Advice(), [0.0] * CONSTANT_FOR, [2e10 + 1.0] * CONSTANT_FOR, std=2.0)
    assert not said(caplog)


@pytest.mark.parametrize("returns", [[1.0, 1.0, 2.0], [1.0, 2.0, 1.0]])
def test_returns_that_change_between_iterations_are_not_constant(
    returns: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    listen(Advice(), [1.0] * CONSTANT_FOR, returns, std=0.0)
    assert not said(caplog)


# Groups that have nothing to compare


def test_groups_without_a_difference_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with GRPO("mlp", Lucky, **SMALL) as model:
        model.learn(ITERATION * FEWEST_ITERATIONS, callback=few)
    (message,) = said(caplog)
    assert "in 100% of the groups of 5 iterations all members did equally well" in message


CASES: dict[str, tuple[list[float], list[float], bool]] = {
    "a sparse reward": ([0.8] * WINDOW, [0.0, 0.1, 0.0, 0.0, 0.1], True),
    "some differences": ([0.7] * WINDOW, [0.0, 0.1, 0.0, 0.0, 0.1], False),
    "learned": ([0.0] * WINDOW + [1.0] * WINDOW, [20.0] * WINDOW + [500.0] * WINDOW, False),
    "lost": ([0.0] * WINDOW + [0.9] * WINDOW, [2.0] * WINDOW + [-9.0] * WINDOW, True),
    "too early": ([1.0] * (WINDOW - 1), [0.0, 0.1, 0.0, 0.1], False),
}


@pytest.mark.parametrize("case", CASES)
def test_uniform_groups_are_told_of_unless_the_task_is_learned(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    uniform, returns, is_told = CASES[case]
    advice = Advice()
    listen(advice, uniform, returns)
    listen(advice, uniform, returns, start=1)  # and not again
    assert len(said(caplog)) == is_told


def test_nothing_is_said_of_an_ordinary_training(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "grpo_gym.trainers.advice")
    with GRPO("linear", BestAction, num_groups=2, group_size=4, learning_rate=0.02) as model:
        model.learn(ITERATION * FEWEST_ITERATIONS)
    assert model.probabilities(np.zeros(1, np.float32))[1] > 0.5
    assert not [r for r in caplog.records if r.name == "grpo_gym.trainers.advice"]
