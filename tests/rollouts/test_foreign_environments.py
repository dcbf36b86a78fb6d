"""Environments of others as they come: their seeds, dtypes, masks and bounds, in every way to play.

Each environment asserts what it is given; it is trained, evaluated and asked for actions.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.rollouts.randomness import Stream, derive_seed

LENGTH = 4


class Foreign(gym.Env[Any, Any]):
    """Episodes of four steps; actions must be in the space, as `contains` has it."""

    def __init__(
        self,
        action_space: gym.Space[Any] | None = None,
        observation_space: gym.Space[Any] | None = None,
    ) -> None:
        self.action_space = action_space or spaces.Discrete(2)
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), self.info()

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.time += 1
        reward = float(np.sum(np.asarray(action) == 1)) + float(np.mean(action) > 0)
        over = self.time == LENGTH
        return self.observation_space.sample(), reward, over, False, self.info()

    def info(self) -> dict[str, Any]:
        return {}


def learn(env: Any, iterations: int = 2, policy: str = "linear", **settings: Any) -> GRPO:
    """A model that was trained, evaluated, and asked for one action and for several."""
    model = GRPO(policy, env, num_groups=2, group_size=3, **settings)
    for _ in range(iterations):
        model.train_iteration()
    assert np.isfinite(model.evaluate(3, deterministic=False).returns).all()
    assert np.isfinite(model.evaluate(3).returns).all()
    return model


# Seeds


def legacy_seed(seed: int) -> None:
    np.random.RandomState(seed)
    state = np.random.get_state()
    np.random.seed(seed)
    np.random.set_state(state)


def c_int(seed: int) -> None:
    assert ctypes.c_int(seed).value == seed


@pytest.mark.parametrize("take", [legacy_seed, c_int])
@pytest.mark.parametrize("grouping", ["shared", "unrelated", "branch"])
def test_seeds_fit_into_those_of_older_generators(
    take: Callable[[int], None], grouping: str
) -> None:
    class Seeded(Foreign):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            assert seed is not None
            take(seed)
            seen.append(seed)
            return super().reset(seed=seed)

    seen: list[int] = []
    config = {"branch_every": 2} if grouping == "branch" else {}
    model = GRPO("linear", Seeded, num_groups=4, group_size=2, grouping=grouping, **config)
    model.prepare()
    seen.clear()
    for _ in range(2):
        model.train_iteration()
    assert len(set(seen)) == (16 if grouping == "unrelated" else 8)
    assert max(seen) > 2**24
    if grouping != "unrelated":
        assert seen[0] == derive_seed(0, Stream.EPISODES, 0, 0) % 2**31
    seen.clear()
    model.evaluate(3, seed=2**31 - 3)
    assert seen == [2**31 - 3, 2**31 - 2, 2**31 - 1]


@pytest.mark.parametrize("env", ["LoadBalancer-v0", "CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_environments_known_to_take_any_seed_keep_all_bits(env: str) -> None:
    model = GRPO("linear", env, num_groups=2, group_size=2, max_episode_steps=3)
    batch = model.prepare()._env.batch
    model.train_iteration()
    assert batch._seeds[0] == derive_seed(0, Stream.EPISODES, 0, 0) > 2**31


def test_a_wrapper_of_others_around_them_may_not_take_any_seed() -> None:
    class Wrapper(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            assert seed is not None
            legacy_seed(seed)
            return super().reset(seed=seed, options=options)

    learn(lambda: Wrapper(gym.make("CartPole-v1")), max_episode_steps=3)
