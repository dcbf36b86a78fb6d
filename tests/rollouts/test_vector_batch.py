"""Vector environments of others: Gymnasium's, users' own, and envpool's."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.rollouts.groups import EnvGroups, GroupError
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.snapshot_check import SnapshotError
from grpo_gym.rollouts.vector_batch import VectorBatch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.grpo import GRPO
from probe_envs import Context


class Masked(gym.Env[Any, Any]):
    """Two to five steps by the seed; of three actions one is illegal, another at each step."""

    observation_space = spaces.Dict(
        {"left": spaces.Discrete(6), "camera": spaces.Box(0, 255, (2, 2, 1), np.uint8)}
    )
    action_space = spaces.Discrete(3, start=4, dtype=np.int32)  # type: ignore[call-arg,unused-ignore]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 6))
        return self.observe(), {"action_mask": self.mask()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.left > 0, "the episode has ended"
        assert self.mask()[int(action) - 4], "illegal"
        self.left -= 1
        info = {"action_mask": self.mask(), "left": self.left, "text": "none"}
        return self.observe(), float(action), self.left == 0, False, info

    def observe(self) -> Any:
        return {"left": self.left, "camera": np.full((2, 2, 1), 50 * self.left, np.uint8)}

    def mask(self) -> np.ndarray:
        return (np.arange(3) != self.left % 3).astype(np.int8)


class Own(VectorEnv[Any, Any, Any]):
    """Act on the sign of a number, eight times: a vector environment as users write them."""

    single_observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.elapsed = 0
        drawn = [np.random.default_rng(each).uniform(-1.0, 1.0, 2) for each in seed]
        self.state = np.array(drawn, np.float32)
        return self.state, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.elapsed += 1
        rewards = (actions == (self.state[:, 0] > 0.0)).astype(float)
        self.state *= -1.0  # in place: the batch must have copied what it was given
        ended = np.full(self.num_envs, self.elapsed == 8)
        return self.state, rewards, ended, np.zeros_like(ended), {}


def play(batch: Any, seeds: Sequence[int]) -> list[Any]:
    """Every step, until all have ended, of the first legal action."""
    observations, masks = batch.reset(seeds)
    record = [observations.copy(), masks.copy()]
    alive = np.ones(batch.num_envs, np.bool_)
    while alive.any():
        actions = (masks.argmax(axis=1) + 4).astype(np.int32)
        step = batch.step(actions, alive)
        playing = alive & ~(step.terminated | step.truncated)
        record += [
            *(step.observations[playing], step.rewards, step.terminated, step.truncated),
            *(step.infos["left"], step.action_masks[playing]),
        ]
        alive, masks = playing, step.action_masks
    return record


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_vector_environments_play_as_single_ones(
    kind: Callable[..., VectorEnv[Any, Any, Any]], mode: AutoresetMode
) -> None:
    seeds = [3, 3, 11, 5]
    loop = LoopBatch([Masked() for _ in seeds])
    env = kind([Masked] * 4, autoreset_mode=mode)
    batch = make_batch(env, None, 4)
    assert isinstance(batch, VectorBatch)
    for first in (0, 1):  # a second reset starts afresh
        wanted = play(loop, [seed + first for seed in seeds])
        for found, expected in zip(
            play(batch, [seed + first for seed in seeds]), wanted, strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    batch.close()
    env.reset(seed=0)  # it is its owner's to close
    env.close()


@pytest.mark.parametrize(
    "make",
    [
        SyncVectorEnv([Masked] * 8),
        lambda: SyncVectorEnv([Masked] * 8),
        lambda num_envs: SyncVectorEnv([Masked] * num_envs),
    ],
    ids=["made", "function", "function of num_envs"],
)
def test_they_train(make: Any) -> None:
    model = GRPO("mlp", make, num_groups=2, group_size=4).learn(100)
    assert 8.0 < model.evaluate(20).mean_return < 30.0


def test_an_own_one_learns() -> None:
    model = GRPO("mlp", Own, num_groups=8, group_size=8).learn(8_000)
    assert model.evaluate(30).mean_return > 7.0


def test_a_registered_one_is_made_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    gym.register("OwnVector-v0", vector_entry_point=cast(Any, Own))
    batch = make_batch("OwnVector-v0", None, 6)
    assert isinstance(batch, VectorBatch) and batch.num_envs == 6


def test_one_with_fixed_seeds_is_made_at_each_reset() -> None:
    made: list[list[int]] = []

    class Fixed(Own):
        def __init__(self, num_envs: int, seed: list[int]) -> None:
            super().__init__(num_envs)
            self.seeds = seed
            made.append(seed)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            assert seed is None
            return super().reset(seed=self.seeds)

    groups = EnvGroups(make_batch(Fixed, None, 4), 2)
    observations, _ = groups.reset(np.array([5, 9]))
    assert made[1:] == [[5, 5, 9, 9]]
    np.testing.assert_array_equal(observations[0], observations[1])
    assert (observations[0] != observations[2]).any()


def test_envpool_is_made_at_each_reset() -> None:
    envpool = pytest.importorskip("envpool")

    def make(num_envs: int, seed: list[int]) -> Any:
        return envpool.make_gymnasium("CartPole-v1", num_envs=num_envs, seed=seed)

    model = GRPO("mlp", make, num_groups=4, group_size=8).learn(6_000)
    assert model.evaluate(20).mean_return > 100.0
    for fixed in (make(4, [0, 0, 1, 1]), lambda: make(4, [0, 0, 1, 1])):
        with pytest.raises(ConfigError, match="pass a function of num_envs and seed"):
            GRPO("mlp", fixed, num_groups=2, group_size=2)


def test_other_numbers_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="must be the 3 environments of SyncVectorEnv, got 8"):
        GRPO("mlp", lambda: SyncVectorEnv([Masked] * 3), num_groups=2, group_size=4)
    with pytest.raises(ConfigError, match="must make num_envs=1 environments, got 3"):
        GRPO("mlp", lambda num_envs: SyncVectorEnv([Masked] * 3), num_groups=2, group_size=4)
    with pytest.raises(ConfigError, match=r"must make a gymnasium.vector.VectorEnv"):
        GRPO("mlp", lambda num_envs: Masked())
    with pytest.raises(SnapshotError, match="grouping must be 'shared' with Own"):
        GRPO("mlp", Own, grouping="branch").learn(1)


def test_vector_environments_of_other_libraries_are_refused_at_once() -> None:
    class DummyVecEnv:
        num_envs = 2

    with pytest.raises(ConfigError, match=r"gymnasium.vector.VectorEnv, got a DummyVecEnv"):
        GRPO("mlp", DummyVecEnv)


def test_versions_of_envpool_without_vector_environments_are_named() -> None:
    class Pool(gym.Env[Any, Any]):
        __module__ = "envpool.python.gymnasium_envpool"

    with pytest.raises(ConfigError, match=r"VectorEnv .*: install envpool 1.2 or later$"):
        GRPO("mlp", lambda num_envs, seed: Pool())


def test_seeds_must_count() -> None:
    class Unseeded(Own):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset(seed=[None] * self.num_envs)

    class OneSeed(Own):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            gym.vector.VectorEnv.reset(self, seed=seed)
            return super().reset(seed=[0] * self.num_envs)

    with pytest.raises(GroupError, match=r"reset\(seed=\[...\]\) must start each environment"):
        GRPO("mlp", Unseeded).learn(1)
    with pytest.raises(EnvError, match=r"OneSeed.reset\(\) raised .*reset\(seed=\[...\]\) must"):
        GRPO("mlp", OneSeed).learn(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda o, r, d: (o, r, d, d), r"step\(\) must return a tuple of 5, got 4 values"),
        (lambda o, r, d: (o, r, d, d, []), "infos must be a dictionary"),
        (lambda o, r, d: (o, r[:1], d, d, {}), r"rewards must have shape \(4,\), got \(1,\)"),
        (
            lambda o, r, d: (o, np.full(4, np.nan), d, d, {}),
            "seed 7, step 1: rewards must be",
        ),
        (lambda o, r, d: (o, r, d + 7, d, {}), "terminated must be True or False"),
        (lambda o, r, d: (o[:2], r, d, d, {}), "observations must be 4, got 2"),
        (lambda o, r, d: (o[:, :1], r, d, d, {}), r"observations must have shape \(2,\)"),
        (lambda o, r, d: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_wrong_results_are_named(wrong: Any, message: str) -> None:
    class Wrong(Own):
        def step(self, actions: Any) -> Any:
            observations, rewards, ended, _, _ = super().step(actions)
            return wrong(observations, rewards, ended)

    batch = make_batch(Wrong, None, 4)
    batch.reset([7, 7, 8, 8])
    with pytest.raises(EnvError, match=message):
        batch.step(np.zeros(4, np.int64), np.ones(4, np.bool_))


def test_functions_of_single_environments_are_as_before() -> None:
    assert isinstance(make_batch(Context, None, 3), LoopBatch)
    assert isinstance(make_batch("CartPole-v1", None, 3), LoopBatch)
