"""get_state, set_state and copy_members: what is restored goes on exactly as the original."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

LENGTH = 19
VARIANTS: dict[str, dict[str, Any]] = {
    "flaky": {"mean_time_to_failure_ms": 150.0, "utilisation": 1.2},
    "down, stale": {
        "mean_time_to_failure_ms": 150.0,
        "mean_time_to_recovery_ms": 100.0,
        "fault_mix": {"down": 1.0},
        "recovery_ramp_ms": 60.0,
        "staleness_ms": 30.0,
    },
    "park": {"preset": "park", "num_servers": 4, "utilisation": 2.0},
    "tiny-grpo": {
        "preset": "tiny-grpo",
        "fault_schedule": ((0, "slow", 5, 12),),
        "load_decay": 0.99,
    },
}


def single(variant: str) -> LoadBalancerEnv:
    return LoadBalancerEnv(episode_length=LENGTH, **VARIANTS[variant])


def go_on(env: LoadBalancerEnv, steps: int, seed: int = 0) -> list[Any]:
    """A record of steps and of the resets at episode ends."""
    rng = np.random.default_rng(seed)
    record: list[Any] = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(rng.integers(4))
        record += [observation, reward, terminated, truncated, *info.values()]
        if terminated or truncated:
            observation, info = env.reset()
            record += [observation, *info.values()]
    return record


def assert_same(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_goes_on_exactly(variant: str) -> None:
    env = single(variant)
    env.reset(seed=4)
    go_on(env, 3 * LENGTH + 8)
    state = pickle.loads(pickle.dumps(env.get_state()))
    observation = env.simulator.observe()[0]
    expected = go_on(env, 4 * LENGTH, seed=1)
    # Back in the same object, in one that has seen other things, and in one never reset.
    used = single(variant)
    used.reset(seed=99)
    go_on(used, 5)
    for other in (env, used, single(variant)):
        np.testing.assert_array_equal(other.set_state(state), observation)
        assert_same(go_on(other, 4 * LENGTH, seed=1), expected)


def test_a_fresh_environment_keeps_the_restored_seed() -> None:
    env, fresh = single("flaky"), single("flaky")
    env.reset(seed=4)
    fresh.set_state(env.get_state())
    np.testing.assert_array_equal(fresh.reset()[0], env.reset()[0])
    assert_same(go_on(fresh, LENGTH), go_on(env, LENGTH))


def test_a_state_is_a_copy() -> None:
    env = single("flaky")
    env.reset(seed=4)
    state = env.get_state()
    before = pickle.dumps(state)
    go_on(env, 2 * LENGTH)
    env.set_state(state)
    go_on(env, 2 * LENGTH)
    assert pickle.dumps(state) == before


def step_all(env: LoadBalancerVectorEnv, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    record: list[Any] = []
    for _ in range(steps):
        observations, rewards, terminated, truncated, infos = env.step(
            rng.integers(0, 4, env.num_envs)
        )
        record += [observations, rewards, terminated, truncated, infos["response_time_ms"]]
    return record


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vector_goes_on_exactly(variant: str, mode: AutoresetMode) -> None:
    settings = {"episode_length": LENGTH, "autoreset_mode": mode, **VARIANTS[variant]}
    env = LoadBalancerVectorEnv(5, **settings)
    env.reset(seed=[3, 1, 3, 1, 2])
    used = LoadBalancerVectorEnv(5, **settings)
    used.reset(seed=50)
    step_all(used, 7)
    # At an episode's end (NEXT_STEP is about to reset) as well as in the middle of one.
    for steps in (LENGTH, 4, 2 * LENGTH):
        step_all(env, steps)
        state = env.get_state()
        expected = step_all(env, 3 * LENGTH, seed=1)
        for other in (env, used, LoadBalancerVectorEnv(5, **settings)):
            other.set_state(state)
            assert_same(step_all(other, 3 * LENGTH, seed=1), expected)


def test_states_move_between_single_and_vector() -> None:
    env = single("flaky")
    vector = LoadBalancerVectorEnv(3, episode_length=LENGTH, **VARIANTS["flaky"])
    vector.reset(seed=7)
    step_all(vector, 6)
    state = vector.get_state(np.array([2]))
    np.testing.assert_array_equal(env.set_state(state), vector.observe()[2])
    rewards = [env.step(np.int64(0))[1] for _ in range(10)]
    assert rewards == [vector.step(np.zeros(3, np.int64))[1][2] for _ in range(10)]


def test_copies_live_on_when_their_source_is_reset() -> None:
    env = LoadBalancerVectorEnv(
        4, episode_length=LENGTH, autoreset_mode=AutoresetMode.DISABLED, **VARIANTS["flaky"]
    )
    env.reset(seed=0)
    step_all(env, 5)
    env.copy_members(np.array([0, 0]), np.array([1, 3]))
    np.testing.assert_array_equal(env.observe()[[1, 3]], env.observe()[[0, 0]])
    twin = single("flaky")
    twin.set_state(env.get_state(np.array([0])))
    env.reset(seed=[8, None, 9, None], options={"reset_mask": np.array([True, False, True, False])})
    for step in range(10):
        observations, rewards, *_ = env.step(np.array([0, step % 4, 0, step % 4]))
        observation, reward, *_ = twin.step(np.int64(step % 4))
        np.testing.assert_array_equal(observations[[1, 3]], [observation] * 2)
        assert rewards[[1, 3]].tolist() == [reward] * 2
    # What they reset to is the next episode of the copied seed.
    env.reset(options={"reset_mask": np.array([False, True, False, True])})
    np.testing.assert_array_equal(env.observe()[[1, 3]], [twin.reset()[0]] * 2)


@pytest.mark.parametrize("seed", range(12))
def test_any_interleaving_equals_separate_environments(seed: int) -> None:
    """Shared trace rows: what one member does must never change another one's world."""
    rng = np.random.default_rng(seed)
    variant = list(VARIANTS)[seed % len(VARIANTS)]
    count = int(rng.integers(2, 7))
    env = LoadBalancerVectorEnv(
        count, episode_length=LENGTH, autoreset_mode=AutoresetMode.DISABLED, **VARIANTS[variant]
    )
    twins = [single(variant) for _ in range(count)]
    done = np.zeros(count, bool)
    saved: list[tuple[dict[str, np.ndarray], list[Any], np.ndarray]] = []

    def some() -> np.ndarray:
        return rng.permutation(count)[: rng.integers(1, count + 1)]

    def reset(members: np.ndarray, seeds: list[int | None] | None) -> None:
        mask = np.zeros(count, bool)
        mask[members] = True
        env.reset(seed=seeds, options={"reset_mask": mask})
        for b in members:
            twins[b].reset(seed=None if seeds is None else seeds[b])
        done[members] = False

    reset(np.arange(count), rng.integers(0, 3, count).tolist())
    for _ in range(400):
        choice = rng.integers(12)
        if choice == 0:
            reset(some(), None)
        elif choice == 1:  # few seeds, so that rows are shared
            reset(
                some(), [None if rng.random() < 0.2 else int(s) for s in rng.integers(0, 3, count)]
            )
        elif choice == 2:
            source, target = rng.integers(0, count, 2)
            targets = np.array([target]) if rng.random() < 0.5 else some()
            sources = np.full(len(targets), source)
            env.copy_members(sources, targets)
            state = twins[source].get_state()
            for b in targets:
                twins[b].set_state(state)
            done[targets] = done[source]
        elif choice == 3:
            members = some()
            states = [twins[b].get_state() for b in members]
            saved.append((env.get_state(members), states, done[members]))
        elif choice == 4 and saved:
            whole, states, ended = saved[rng.integers(len(saved))]
            members = rng.permutation(count)[: len(states)]
            env.set_state(whole, members)
            for b, state in zip(members, states, strict=True):
                twins[b].set_state(state)
            done[members] = ended
        else:
            if done.any():
                reset(np.flatnonzero(done), None)
            actions = rng.integers(0, 4, count)
            _, rewards, terminated, truncated, _ = env.step(actions)
            done = terminated | truncated
            results = [twin.step(action) for twin, action in zip(twins, actions, strict=True)]
            assert rewards.tolist() == [result[1] for result in results]
            assert done.tolist() == [result[2] or result[3] for result in results]
        expected = [twin.simulator.observe()[0] for twin in twins]
        np.testing.assert_array_equal(env.observe(), expected)
        rows = env.simulator.episodes["trace_row"]
        for b, twin in enumerate(twins):
            world = twin.simulator.arrivals[twin.simulator.episodes["trace_row"][0]]
            assert env.simulator.arrivals[rows[b]].tobytes() == world.tobytes()


def test_wrong_states_are_refused() -> None:
    env = single("flaky")
    env.reset(seed=0)
    state = env.get_state()
    before = env.simulator.observe()
    longer = LoadBalancerEnv(episode_length=LENGTH + 1, **VARIANTS["flaky"])
    wider = LoadBalancerEnv(episode_length=LENGTH, num_servers=5, **VARIANTS["flaky"])
    vector = LoadBalancerVectorEnv(2, episode_length=LENGTH, **VARIANTS["flaky"])
    vector.reset(seed=0)
    bad: list[Any] = [
        {},
        None,
        [1, 2],
        {**state, "servers": None},
        {**state, "servers": state["servers"].tolist()},
        {**state, "arrivals": np.zeros(state["arrivals"].shape)},
        {name: value for name, value in state.items() if name != "faults"},
        longer.get_state(),
        wider.get_state(),
        vector.get_state(),
    ]
    for one in bad:
        with pytest.raises(ValueError, match=r"state\['\w+'\] must be an array of shape"):
            env.set_state(one)
    np.testing.assert_array_equal(env.simulator.observe(), before)
    with pytest.raises(ValueError, match="shape"):
        vector.set_state(vector.get_state(np.array([0])))


def test_the_vector_environment_knows_who_is_finished() -> None:
    env = LoadBalancerVectorEnv(3, episode_length=4, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    start = env.get_state(np.array([0]))
    for _ in range(4):
        env.step(np.zeros(3, np.int64))
    env.set_state(start, np.array([0]))
    env.copy_members(np.array([0]), np.array([1]))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int64))
    env.copy_members(np.array([1]), np.array([2]))
    env.step(np.zeros(3, np.int64))
