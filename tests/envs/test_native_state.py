"""get_state, set_state and copy_members: what is restored continues exactly as the original."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.snapshot_check import check_snapshots
from native_cases import CASES, NativeCase, assert_same, some_actions, trace_of

PER_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
AUTOMATIC = pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])


def play(env: Any, steps: int, seed: int = 0) -> list[Any]:
    """What a single environment returns under random actions, through the ends of episodes."""
    env.action_space.seed(seed)
    record: list[Any] = []
    for _ in range(steps):
        result = env.step(env.action_space.sample())
        record += [result, trace_of(env)]
        if result[2] or result[3]:
            record.append(env.reset())
    return record


def play_all(env: Any, steps: int, seed: int = 0) -> list[Any]:
    """What a vector environment returns under random actions."""
    rng = np.random.default_rng(seed)
    return [env.step(some_actions(env, rng)) for _ in range(steps)]


@PER_CASE
def test_single_continues_exactly(case: NativeCase) -> None:
    env = case.single()
    env.reset(seed=4)
    play(env, 65)
    state = pickle.loads(pickle.dumps(env.get_state()))
    observation = env.set_state(env.get_state())
    expected = play(env, 80, seed=1)
    # Back in the same object, in one that has seen other things, and in one never reset.
    used = case.single()
    used.reset(seed=99)
    play(used, 5)
    for other in (env, used, case.single()):
        assert_same(other.set_state(state), observation)
        assert_same(play(other, 80, seed=1), expected)


@PER_CASE
def test_a_fresh_environment_keeps_the_restored_seed(case: NativeCase) -> None:
    env, fresh = case.single(), case.single()
    env.reset(seed=4)
    fresh.set_state(env.get_state())
    assert_same(fresh.reset(), env.reset())
    assert_same(play(fresh, 20), play(env, 20))


@PER_CASE
def test_a_state_is_a_copy(case: NativeCase) -> None:
    env = case.single()
    env.reset(seed=4)
    state = env.get_state()
    before = pickle.dumps(state)
    play(env, 40)
    env.set_state(state)
    play(env, 40)
    assert pickle.dumps(state) == before


@AUTOMATIC
@PER_CASE
def test_vector_continues_exactly(case: NativeCase, mode: AutoresetMode) -> None:
    env, used = (case.vector(5, autoreset_mode=mode) for _ in range(2))
    env.reset(seed=[3, 1, 3, 1, 2])
    used.reset(seed=50)
    play_all(used, 7)
    rng = np.random.default_rng(2)
    ended = np.zeros(5, np.bool_)
    while not ended.any():  # with NEXT_STEP the next step resets
        _, _, terminated, truncated, _ = env.step(some_actions(env, rng))
        ended = terminated | truncated
    for steps in (0, 4, 40):
        play_all(env, steps)
        state = env.get_state()
        expected = play_all(env, 50, seed=1)
        for other in (env, used, case.vector(5, autoreset_mode=mode)):
            other.set_state(state)
            assert_same(play_all(other, 50, seed=1), expected)


@PER_CASE
def test_states_move_between_single_and_vector(case: NativeCase) -> None:
    env, vector = case.single(), case.vector(3, autoreset_mode="Disabled")
    vector.reset(seed=7)
    play_all(vector, 3)
    assert_same(env.set_state(vector.get_state(np.array([2]))), _rows(vector.observe(), 2))
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = some_actions(vector, rng)
        found, expected = env.step(actions[2]), vector.step(actions)
        assert_same(found[0], _rows(expected[0], 2))
        assert found[1:4] == tuple(values[2] for values in expected[1:4])


def _rows(observations: Any, b: Any) -> Any:
    if isinstance(observations, dict):
        return {name: _rows(values, b) for name, values in observations.items()}
    return observations[b]


@PER_CASE
def test_copies_live_on_when_their_source_is_reset(case: NativeCase) -> None:
    env = case.vector(4, autoreset_mode="Disabled")
    env.reset(seed=0)
    play_all(env, 3)
    env.copy_members(np.array([0, 0]), np.array([1, 3]))
    assert_same(_rows(env.observe(), np.array([1, 3])), _rows(env.observe(), np.array([0, 0])))
    twin = case.single()
    twin.set_state(env.get_state(np.array([0])))
    env.reset(seed=[8, None, 9, None], options={"reset_mask": np.array([True, False, True, False])})
    twin.action_space.seed(0)
    for _ in range(2):
        action = twin.action_space.sample()
        observations, rewards, *_ = env.step(np.stack([action] * 4))
        observation, reward, *_ = twin.step(action)
        for b in (1, 3):
            assert_same(_rows(observations, b), observation)
            assert rewards[b] == reward
    # What they reset to is the next episode of the copied seed.
    observations, _ = env.reset(options={"reset_mask": np.array([False, True, False, True])})
    observation, _ = twin.reset()
    for b in (1, 3):
        assert_same(_rows(observations, b), observation)
        assert trace_of(env, b) == trace_of(twin)


@PER_CASE
def test_copying_in_a_circle(case: NativeCase) -> None:
    env = case.vector(3)
    env.reset(seed=3)
    play_all(env, 5)
    before = env.get_state()
    env.copy_members(np.array([0, 1, 2]), np.array([1, 2, 0]))
    after = env.get_state()
    for name in before:
        np.testing.assert_array_equal(after[name][[1, 2, 0]], before[name])


class Twins:
    """A vector environment, and single ones to which everything happens as well."""

    def __init__(self, case: NativeCase, rng: np.random.Generator) -> None:
        self.rng = rng
        self.count = int(rng.integers(2, 7))
        self.env = case.vector(self.count, autoreset_mode="Disabled")
        self.twins = [case.single() for _ in range(self.count)]
        self.done = np.zeros(self.count, bool)
        self.saved: list[tuple[dict[str, np.ndarray], list[Any], np.ndarray]] = []
        self.reset(np.arange(self.count), self.seeds(0.0))

    def some(self) -> np.ndarray:
        return self.rng.permutation(self.count)[: self.rng.integers(1, self.count + 1)]

    def seeds(self, unknown: float) -> list[int | None]:
        """Few different ones, so that traces are shared."""
        drawn = self.rng.integers(0, 3, self.count)
        return [None if self.rng.random() < unknown else int(seed) for seed in drawn]

    def reset(self, members: np.ndarray, seeds: list[int | None] | None) -> None:
        mask = np.zeros(self.count, bool)
        mask[members] = True
        self.env.reset(seed=seeds, options={"reset_mask": mask})
        for b in members:
            self.twins[b].reset(seed=None if seeds is None else seeds[b])
        self.done[members] = False

    def copy(self) -> None:
        source = self.rng.integers(self.count)
        targets = self.some()
        self.env.copy_members(np.full(len(targets), source), targets)
        state = self.twins[source].get_state()
        for b in targets:
            self.twins[b].set_state(state)
        self.done[targets] = self.done[source]

    def save(self) -> None:
        members = self.some()
        states = [self.twins[b].get_state() for b in members]
        self.saved.append((self.env.get_state(members), states, self.done[members]))

    def restore(self) -> None:
        together, states, done = self.saved[self.rng.integers(len(self.saved))]
        members = self.rng.permutation(self.count)[: len(states)]
        self.env.set_state(together, members)
        for b, state in zip(members, states, strict=True):
            self.twins[b].set_state(state)
        self.done[members] = done

    def step(self) -> None:
        if self.done.any():
            self.reset(np.flatnonzero(self.done), None)
        actions = some_actions(self.env, self.rng)
        _, rewards, terminated, truncated, _ = self.env.step(actions)
        self.done = terminated | truncated
        results = [twin.step(action) for twin, action in zip(self.twins, actions, strict=True)]
        assert rewards.tolist() == [result[1] for result in results]
        assert terminated.tolist() == [result[2] for result in results]
        assert truncated.tolist() == [result[3] for result in results]

    def check(self) -> None:
        observations = self.env.observe()
        for b, twin in enumerate(self.twins):
            assert_same(_rows(observations, b), _rows(twin.simulator.observe(), 0))
            assert trace_of(self.env, b) == trace_of(twin)


@pytest.mark.parametrize("seed", range(3))
@PER_CASE
def test_any_interleaving_equals_separate_environments(case: NativeCase, seed: int) -> None:
    """Whatever one environment does must never change another one's trace."""
    both = Twins(case, np.random.default_rng(seed))
    for _ in range(120):
        match both.rng.integers(12):
            case 0:
                both.reset(both.some(), None)
            case 1:
                both.reset(both.some(), both.seeds(0.2))
            case 2:
                both.copy()
            case 3:
                both.save()
            case 4 if both.saved:
                both.restore()
            case _:
                both.step()
        both.check()


@PER_CASE
def test_wrong_states_are_refused(case: NativeCase) -> None:
    env, vector = case.single(), case.vector(2)
    env.reset(seed=0)
    vector.reset(seed=0)
    state, before = env.get_state(), env.simulator.observe()
    first, second, *_, last = state
    bad: list[Any] = [
        {},
        None,
        [1, 2],
        {**state, second: None},
        {**state, second: state[second].tolist()},
        {**state, second: np.zeros(state[second].shape, np.float16)},
        {name: values for name, values in state.items() if name != first},
        {name: values for name, values in state.items() if name != last},
        *(other.get_state() for other in case.foreign()),
        vector.get_state(),
    ]
    for one in bad:
        with pytest.raises(ValueError, match=r"state\['\w+'\] must be an array of shape"):
            env.set_state(one)
    assert_same(env.simulator.observe(), before)
    with pytest.raises(ValueError, match="must be an array of shape"):
        vector.set_state(vector.get_state(np.array([0])))


@PER_CASE
def test_the_vector_environment_knows_which_have_finished(case: NativeCase) -> None:
    env = case.vector(3, autoreset_mode="Disabled")
    env.reset(seed=0)
    start = env.get_state(np.array([0]))
    rng = np.random.default_rng(0)
    finished = np.zeros(3, np.bool_)
    while not finished.all():
        _, _, terminated, truncated, _ = env.step_alive(some_actions(env, rng), ~finished)
        finished |= terminated | truncated
    env.set_state(start, np.array([0]))
    env.copy_members(np.array([0]), np.array([1]))
    with pytest.raises(gym.error.ResetNeeded):
        play_all(env, 1)
    env.copy_members(np.array([1]), np.array([2]))
    play_all(env, 1)


@PER_CASE
def test_groups_can_branch(case: NativeCase) -> None:
    check_snapshots(make_batch(case.env_id, case.settings, 2))
