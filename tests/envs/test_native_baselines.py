"""What baselines of all native environments have in common."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym import evaluate_baseline
from grpo_gym.registration import descriptor_of
from grpo_gym.settings import ConfigError
from native_cases import CASES, DEFAULTS, NativeCase

PER_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
PER_ENV = pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)


def baselines_of(case: NativeCase) -> Any:
    descriptor = descriptor_of(case.env_id)
    assert descriptor is not None
    return descriptor.baselines


@PER_CASE
def test_same_choices_on_single_and_vector(case: NativeCase) -> None:
    baselines = baselines_of(case)
    vector = case.vector(3, autoreset_mode="Disabled")
    singles = [case.single() for _ in range(3)]
    playable = {
        name: baseline
        for name, baseline in baselines.BASELINES.items()
        if baseline.is_for_tables(vector.simulator)
    }
    assert len(playable) > 5
    for name in playable:
        whole = baselines.make_baseline(name, vector, seed=5)
        parts = [baselines.make_baseline(name, env, seed=5) for env in singles]
        assert whole.name == name
        state: Any = None
        states: list[Any] = [None] * 3
        for seed in (20, None):
            observations, _ = vector.reset(seed=seed)
            alone = [env.reset(seed=seed and seed + b)[0] for b, env in enumerate(singles)]
            alive, start = np.ones(3, np.bool_), np.ones(3, np.bool_)
            while alive.any():
                actions, state = whole.predict(observations, state, start, deterministic=True)
                assert (actions.shape, actions.dtype) == (vector.action_space.shape, np.int64)
                for b in np.flatnonzero(alive):
                    action, states[b] = parts[b].predict(alone[b], states[b], start[:1])
                    assert singles[b].action_space.contains(action)
                    np.testing.assert_array_equal(action, actions[b], err_msg=name)
                    alone[b] = singles[b].step(action)[0]
                observations, _, terminated, truncated, _ = vector.step_alive(actions, alive)
                alive &= ~(terminated | truncated)
                start = np.zeros(3, np.bool_)


@PER_CASE
@pytest.mark.parametrize("vector", [False, True])
def test_it_plays_the_episodes_that_evaluate_baseline_plays(case: NativeCase, vector: bool) -> None:
    env: Any = case.vector(3) if vector else case.single()
    names = [*list(baselines_of(case).BASELINES)[:2], "random"]
    for name in names:
        baseline = baselines_of(case).make_baseline(name, env)
        played = baseline.evaluate(4, seed=7)
        expected = evaluate_baseline(name, case.env_id, case.settings, 4, seed=7)
        np.testing.assert_array_equal(played.returns, expected.returns)
        np.testing.assert_array_equal(played.lengths, expected.lengths)
    other = baselines_of(case).make_baseline("random", env, seed=1)
    assert other.evaluate(4, seed=7).returns.tolist() != expected.returns.tolist()
    assert "seed=1" in repr(other)


@PER_ENV
def test_the_seed_decides_and_looking_again_changes_nothing(case: NativeCase) -> None:
    make_baseline, env = baselines_of(case).make_baseline, case.vector(30)
    observations, _ = env.reset(seed=20)
    first, again, other = (
        make_baseline("random", env, seed=seed).predict(observations)[0] for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    make_baseline("random", env, seed=2**70)


@PER_ENV
def test_works_through_wrappers(case: NativeCase) -> None:
    make_baseline, env = baselines_of(case).make_baseline, gym.make(case.env_id)
    observation, _ = env.reset(seed=0)
    env.step(make_baseline("random", env).predict(observation)[0])
    vector = gym.make_vec(case.env_id, num_envs=2)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(vector)
    observations, _ = wrapped.reset(seed=0)
    wrapped.step(make_baseline("random", wrapped).predict(observations)[0])


@PER_ENV
def test_bad_names_seeds_and_environments(case: NativeCase) -> None:
    make_baseline, env = baselines_of(case).make_baseline, case.single()
    with pytest.raises(ConfigError, match=r"no baseline 'rndom'.*Did you mean 'random'"):
        make_baseline("rndom", env)
    for seed in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="seed must be an integer >= 0"):
            make_baseline("random", env, seed=seed)
    for name in baselines_of(case).BASELINES:
        with pytest.raises(ConfigError, match=f"{name} has no setting 'no_such'"):
            make_baseline(name, env, no_such=1)
    others = [other.single() for other in DEFAULTS.values() if other is not case]
    kind = case.env_id.removesuffix("-v0")
    for stranger in (*others, gym.make("CartPole-v1")):
        with pytest.raises(ConfigError, match=f"must be a {kind} environment"):
            make_baseline("random", stranger)
