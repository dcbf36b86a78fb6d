import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.trainers import grpo
from grpo_gym.trainers.comparison.training import GRPOTraining
from grpo_gym.trainers.settings import TrainSettings
from grpo_gym.trainers.standstill import STOP_AFTER, WARN_AFTER, Standstill
from probe_envs import BestAction, Context, OneStep, Search, Target

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}
BUDGET = 400  # 50 iterations of 8 episodes of one step


def make(env: Any, **config: Any) -> GRPO:
    return GRPO("mlp", env, **{**SMALL, **config})


class Constant(OneStep):
    """Pays the same for everything, or from episode `from_episode` on more for action 1."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)
    episodes = 0

    def __init__(self, from_episode: float = np.inf) -> None:
        self.from_episode = from_episode

    def reward(self, action: Any) -> float:
        Constant.episodes += 1
        return 3.0 + float(action == 1 and Constant.episodes > self.from_episode)


# Policies that will never change


COLLAPSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Discrete": (lambda: Context("hidden"), {"learning_rate": 1e6}),
    "masks": (Search, {"learning_rate": 1e6}),
    "Box, far outside": (Target, {"learning_rate": 1e6}),
    "refills": (Context, {"learning_rate": 1e6, "preset": "dapo"}),
    "steps too small to count": (BestAction, {"learning_rate": 1e-30}),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_a_collapsed_training_is_warned_of_and_ends(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    env, config = COLLAPSED[case]
    model = make(env, **config).learn(BUDGET * 3)
    assert model.num_steps < BUDGET * 3
    assert model.standstill.hopeless == STOP_AFTER
    warnings = [r.getMessage() for r in caplog.records if "changed no weight" in r.message]
    assert len(warnings) == 1
    assert f": {WARN_AFTER} iterations in a row changed no weight" in warnings[0]
    assert f"Training ends after {STOP_AFTER} such" in warnings[0]
    assert "training ended at step" in caplog.records[-1].getMessage()


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = make(BestAction, learning_rate=1e6).learn(BUDGET)
    part = make(BestAction, learning_rate=1e6).learn(
        BUDGET, callback=lambda model, _: model.standstill.hopeless < 6
    )
    assert part.iteration == whole.iteration - STOP_AFTER + 6
    part.save(tmp_path / "part.ckpt")
    resumed = GRPO.load(tmp_path / "part.ckpt", BestAction).resume()
    assert resumed.iteration == whole.iteration < BUDGET // 8
    resumed.save(tmp_path / "end.ckpt")
    again = GRPO.load(tmp_path / "end.ckpt", BestAction)
    assert again.standstill == whole.standstill
    assert again.resume().iteration == whole.iteration  # nothing more
    assert again.learn(80).iteration == whole.iteration + STOP_AFTER  # asked for anew


# Policies that may change yet


@pytest.mark.parametrize("preset", ["default", "loop", "trust_region"])
def test_exploring_goes_on_while_the_reward_is_constant(preset: str) -> None:
    model = make(Constant, preset=preset).learn(BUDGET)
    assert model.num_steps == BUDGET
    assert model.standstill == Standstill(unchanged=BUDGET // 8, hopeless=0)


def test_a_sparse_reward_that_is_found_late_is_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Constant, "episodes", 0)
    model = make(lambda: Constant(from_episode=8 * 30), learning_rate=0.02).learn(8 * 100)
    assert model.num_steps == 8 * 100
    assert model.probabilities(np.zeros(1, np.float32))[1] > 0.9


def test_a_solved_task_is_trained_on_while_the_policy_still_tries_other_actions() -> None:
    model = make(BestAction, learning_rate=0.02).learn(BUDGET * 3)
    assert model.num_steps == BUDGET * 3
    assert model.standstill.hopeless < WARN_AFTER


@pytest.mark.parametrize(
    ("config", "learning_rate", "ends"),
    [
        ({}, 3e-3, True),
        ({}, 1e-6, False),  # late in a schedule
        ({"update": "trust_region"}, 1.0, False),  # another rollout may lead to a step
    ],
)
def test_updates_that_change_nothing(
    config: dict[str, Any], learning_rate: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = make(BestAction).train_iteration().update
    assert stats is not None
    still = replace(stats, learning_rate=learning_rate)
    monkeypatch.setattr(grpo, "update_policy", lambda *arguments: still)
    model = make(BestAction, learning_rate=3e-3, **config).learn(BUDGET)
    assert (model.num_steps < BUDGET) == ends


def test_a_comparison_takes_all_its_steps() -> None:
    settings = TrainSettings(
        env="CartPole-v1", grpo=GRPO("linear", "CartPole-v1", learning_rate=1e6, **SMALL).config
    )
    seen: list[int] = []
    assert GRPOTraining(settings, 0).learn(3_000, seen.append) >= 3_000
    assert len(seen) > 2 * STOP_AFTER


def test_the_count_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    counts: list[int] = []
    make(Constant).learn(40, callback=lambda _, stats: counts.append(stats.unchanged_iterations))
    assert counts == [1, 2, 3, 4, 5]
