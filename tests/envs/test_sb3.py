"""Stable-Baselines3 on our vector environments: its interface, its checks, its learners."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym.settings import ConfigError

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from grpo_gym.envs.sb3 import to_sb3


def native(env: str, num_envs: int, **kwargs: Any) -> Any:
    return gym.make_vec(env, num_envs=num_envs, autoreset_mode="SameStep", **kwargs)


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("LoadBalancer-v0", {"episode_length": 20}),
        ("Battleship-v0", {"preset": "uniform-5x5"}),
    ],
)
def test_the_same_as_single_environments_side_by_side(env: str, kwargs: dict[str, Any]) -> None:
    ours = to_sb3(native(env, 3, **kwargs), infos="all")
    theirs = DummyVecEnv([lambda: gym.make(env, **kwargs)] * 3)
    for venv in (ours, theirs):
        venv.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ended = 0
    generator = np.random.default_rng(0)
    for _ in range(60):
        if "Battleship" in env:
            masks = np.stack(theirs.env_method("action_masks"))
            np.testing.assert_array_equal(np.stack(ours.env_method("action_masks")), masks)
            actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in masks])
        else:
            actions = generator.integers(0, 4, 3)
        mine, other = ours.step(actions), theirs.step(actions)
        for got, wanted in zip(mine[:3], other[:3], strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype
        for got, wanted, done in zip(mine[3], other[3], other[2], strict=True):
            if done:
                ended += 1
                np.testing.assert_array_equal(
                    got["terminal_observation"], wanted["terminal_observation"]
                )
                assert got["TimeLimit.truncated"] == wanted["TimeLimit.truncated"]
    assert ended >= 3


def test_infos_are_those_of_the_single_environment() -> None:
    kwargs: dict[str, Any] = {"preset": "uniform-5x5"}
    ours = to_sb3(native("Battleship-v0", 2, **kwargs), infos="all")
    theirs = DummyVecEnv([lambda: gym.make("Battleship-v0", **kwargs)] * 2)
    for venv in (ours, theirs):
        venv.seed(1)
        venv.reset()
    for got, wanted in zip(ours.reset_infos, theirs.reset_infos, strict=True):
        assert got.keys() == wanted.keys()
    for cell in range(25):
        mine, other = ours.step(np.array([cell] * 2))[3], theirs.step(np.array([cell] * 2))[3]
        for got, wanted in zip(mine, other, strict=True):
            assert got["hit"] == wanted["hit"]
            assert got["sunk_length"] == wanted["sunk_length"]
            np.testing.assert_array_equal(got["action_mask"], wanted["action_mask"])


def test_infos_of_ends_only() -> None:
    venv = to_sb3(native("LoadBalancer-v0", 2, episode_length=3))
    venv.reset()
    for step in range(6):
        infos = venv.step(np.zeros(2, np.int64))[3]
        for info in infos:
            assert (
                ("response_time_ms" in info) == ("terminal_observation" in info) == (step % 3 == 2)
            )


def test_observations_stay_as_they_were() -> None:
    venv = to_sb3(native("LoadBalancer-v0", 2))
    first = venv.reset()
    kept = first.copy()
    venv.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(first, kept)


def test_seeds_and_options_count_once() -> None:
    venv = to_sb3(native("Battleship-v0", 2, preset="uniform-5x5"))

    def layouts() -> list[Any]:
        return list(venv.vec_env.simulator.layouts.copy())

    venv.seed(3)
    venv.reset()
    first = layouts()
    venv.reset()
    assert not np.array_equal(first, layouts())
    venv.seed(3)
    venv.reset()
    np.testing.assert_array_equal(first, layouts())
    venv.set_options({"layout": 7})
    venv.reset()
    chosen = layouts()
    np.testing.assert_array_equal(chosen[0], chosen[1])
    venv.reset()
    assert not np.array_equal(chosen, layouts())
    venv.set_options([{"layout": 7}, {"layout": 8}])
    with pytest.raises(ConfigError, match="options must be the same"):
        venv.reset()
    venv.set_options([{"layout": np.arange(2)}, {"layout": np.arange(2)}])
    venv.reset()
    assert not np.array_equal(*layouts())


def test_infos_of_wrappers_are_handed_on() -> None:
    env = native("LoadBalancer-v0", 2, episode_length=3)
    venv = to_sb3(gym.wrappers.vector.RecordEpisodeStatistics(env))
    venv.reset()
    for _ in range(3):
        infos = venv.step(np.zeros(2, np.int64))[3]
    assert [info["episode"]["l"] for info in infos] == [3, 3]


def test_attributes_and_pictures() -> None:
    venv = to_sb3(native("Battleship-v0", 2, preset="uniform-5x5", render_mode="rgb_array"))
    venv.reset()
    assert venv.has_attr("action_masks") and not venv.has_attr("nothing")
    assert len(venv.get_attr("config", [0])) == 1
    frames = venv.get_images()
    assert len(frames) == 2 and frames[0].dtype == np.uint8
    assert venv.env_is_wrapped(gym.Wrapper) == [False, False]
    venv.set_attr("remark", 3)
    assert venv.get_attr("remark") == [3, 3]
    with pytest.raises(ConfigError, match="all environments"):
        venv.set_attr("remark", 3, indices=[0])
    venv.close()


def test_other_resets_are_refused() -> None:
    with pytest.raises(ConfigError, match="SameStep"):
        to_sb3(gym.make_vec("LoadBalancer-v0", num_envs=2))
    with pytest.raises(ConfigError, match="VectorEnv"):
        to_sb3(gym.make("LoadBalancer-v0"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="infos"):
        to_sb3(native("LoadBalancer-v0", 2), infos="none")  # type: ignore[arg-type]


def test_ppo_runs_and_is_evaluated() -> None:
    venv = VecMonitor(to_sb3(native("LoadBalancer-v0", 4, episode_length=16)))
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=32, n_epochs=1, seed=0)
    model.learn(128)
    mean, _ = evaluate_policy(model, venv, n_eval_episodes=4)
    assert len(model.ep_info_buffer) >= 4
    assert np.isfinite(mean)


def test_maskable_ppo_never_repeats_a_shot() -> None:
    maskable = pytest.importorskip("sb3_contrib").MaskablePPO
    venv = to_sb3(native("Battleship-v0", 8, preset="microgrpo-5x5"), infos="all")
    model = maskable("MlpPolicy", venv, n_steps=64, batch_size=128, n_epochs=1, seed=0)
    shots: list[bool] = []

    def count(given: dict[str, Any], _: dict[str, Any]) -> bool:
        shots.extend(info["repeated"] for info in given["infos"])
        return True

    model.learn(1024, callback=count)
    assert len(shots) == 1024 and not any(shots)
