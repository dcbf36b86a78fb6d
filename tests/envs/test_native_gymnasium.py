"""Native environments as Gymnasium wants them, and what they refuse."""

import copy
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from grpo_gym.registration import DESCRIPTORS, descriptor_of
from grpo_gym.settings import ConfigError
from native_cases import CASES, DEFAULTS, NativeCase, assert_same, some_actions, trace_of

PRESETS = {
    f"{each.env_id} {preset}": NativeCase(each.env_id, {"preset": preset})
    for each in DESCRIPTORS
    for preset in each.preset_names
}
PER_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
PER_ENV = pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)


@pytest.mark.parametrize("case", (CASES | PRESETS).values(), ids=CASES | PRESETS)
def test_check_env(case: NativeCase) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(case.env_id, **case.settings)
        check_env(env.unwrapped)
        env.close()


@PER_ENV
@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
@pytest.mark.parametrize("name", ["frameskip", "frame_skip", "continuous", "modus"])
def test_an_unknown_argument_is_a_type_error_too(case: NativeCase, make: Any, name: str) -> None:
    # TorchRL's GymEnv passes frameskip, and leaves it out where it reads these words.
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'") as caught:
        make(case.env_id, **{**case.settings, name: 1})
    assert isinstance(caught.value, ConfigError)
    assert f"'{name}' is not a setting of" in str(caught.value)


@PER_CASE
def test_other_ways_to_make_it(case: NativeCase) -> None:
    env: Any = gym.make(f"grpo_gym:{case.env_id}", **case.settings)
    again: Any = gym.make(env.spec)
    assert type(again.unwrapped) is type(env.unwrapped)
    assert again.unwrapped.config == env.unwrapped.config
    vector = gym.make_vec(f"grpo_gym:{case.env_id}", num_envs=3, **case.settings)
    assert vector.single_action_space == env.action_space
    assert vector.single_observation_space == env.observation_space
    assert vector.action_space.shape == (3, *env.action_space.shape)


def test_descriptors() -> None:
    for each in DESCRIPTORS:
        assert gym.spec(each.env_id).entry_point == each.entry_point
        assert descriptor_of(f"grpo_gym:{each.env_id}") is descriptor_of(each.env_id) is each
        assert each.baselines.BASELINES
        assert each.figures is None or each.figures.draw
        assert set(each.demonstrations) <= set(each.preset_names)
        env: Any = gym.make_vec(each.env_id, num_envs=1)
        env.reset(seed=0)
        _, _, _, _, infos = env.step(some_actions(env.unwrapped, np.random.default_rng(0)))
        assert set(each.table_columns) <= set(infos)
        assert each.episode_length(env.unwrapped.config) > 0
    assert descriptor_of("CartPole-v1") is None


def play(env: Any, seed: int | None, steps: int = 60) -> list[Any]:
    env.action_space.seed(0)
    record: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        record.append(env.step(env.action_space.sample()))
    return [record, trace_of(env)]


@PER_ENV
def test_reset_is_reproducible(case: NativeCase) -> None:
    env, other = case.single(), case.single()
    first = play(env, 5)
    following = play(env, None)
    assert first[1] != following[1]
    assert_same(play(env, 5), first)
    assert_same(play(env, None), following)
    assert_same(play(other, 5), first)
    assert_same(play(other, None), following)
    assert play(other, 6)[1] != first[1]
    for seed in (0, 2**63, 2**64 + 5, 2**130 + 1):
        assert_same(play(env, seed), play(other, seed))


@PER_ENV
def test_unseeded_environments_differ(case: NativeCase) -> None:
    def trace(env: Any) -> bytes:
        env.reset()
        return trace_of(env)

    assert trace(case.single()) != trace(case.single())
    # Looking at the generator before the first reset is no seed.
    env, other = case.single(), case.single()
    assert env.np_random is not other.np_random
    assert trace(env) != trace(other)
    # A generator that is set before the first reset decides; later it comes too late.
    early, another = case.single(), case.single()
    early.np_random = np.random.default_rng(3)
    another.np_random = np.random.default_rng(3)
    assert trace(early) == trace(another)
    env.np_random = np.random.default_rng(3)
    assert trace(env) != trace(case.single())


@PER_CASE
def test_nothing_returned_is_used_again(case: NativeCase) -> None:
    env = case.single()
    env.action_space.seed(0)
    kept: list[Any] = [env.reset(seed=3)]
    copies = [copy.deepcopy(kept[0])]
    for _ in range(50):
        kept.append(env.step(env.action_space.sample()))
        copies.append(copy.deepcopy(kept[-1]))
    np.testing.assert_equal(kept, copies)


@PER_CASE
def test_pickling_in_mid_episode(case: NativeCase) -> None:
    env = case.single()
    env.action_space.seed(0)
    env.reset(seed=1)
    for _ in range(4):
        env.step(env.action_space.sample())
    clones = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    actions = [env.action_space.sample() for _ in range(20)]
    expected = [env.step(action) for action in actions]
    expected_reset = env.reset()
    for clone in clones:
        assert_same([clone.step(action) for action in actions], expected)
        assert_same(clone.reset(), expected_reset)
        assert trace_of(clone) == trace_of(env)


@PER_CASE
def test_observations_lie_in_their_space_until_the_episode_ends(case: NativeCase) -> None:
    env = case.single()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    over, steps = False, 0
    while not over:
        assert observation in env.observation_space
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert type(reward) is float
        assert np.isfinite(reward)
        assert type(terminated) is type(truncated) is bool
        over, steps = terminated or truncated, steps + 1
    assert observation in env.observation_space
    descriptor = descriptor_of(case.env_id)
    assert descriptor is not None
    assert steps <= descriptor.episode_length(env.config)
    # Beyond the end nothing happens.
    before = env.get_state()
    again, reward, *ends, _ = env.step(env.action_space.sample())
    assert (reward, tuple(ends)) == (0.0, (terminated, truncated))
    assert_same(again, observation)
    after = env.get_state()
    for name in set(before) - {"episodes", "outcomes"}:  # these hold the reward
        np.testing.assert_array_equal(after[name], before[name])
    assert env.simulator.elapsed().tolist() == [steps]


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer >= 1, got 0"),
        ({"num_envs": float("nan")}, "num_envs must be an integer >= 1, got nan"),
        ({"num_envs": 2.5}, "num_envs must be an integer >= 1, got 2.5"),
        ({"num_envs": "2"}, "num_envs must be an integer >= 1, got '2'"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer >= 1, got 0"),
        ({"autoreset_mode": "NextStp"}, "autoreset_mode .*'NextStp'.*Did you mean 'NextStep'"),
        ({"autoreset_mode": 3}, "autoreset_mode must be a known one, got 3"),
    ],
)
@PER_ENV
def test_nonsense_for_many(case: NativeCase, settings: dict[str, Any], message: str) -> None:
    vector_class = type(case.vector(1))
    with pytest.raises(ConfigError, match=message):
        vector_class(**settings)


@PER_ENV
def test_render_modes(case: NativeCase) -> None:
    single_class, vector_class = type(case.single()), type(case.vector(1))
    with pytest.raises(gym.error.UnsupportedMode, match=r"render_mode must be one of .*'human'"):
        single_class(render_mode="human")
    with pytest.raises(gym.error.UnsupportedMode, match=r"render_mode must be .*'ansi'"):
        vector_class(2, render_mode="ansi")


@PER_ENV
def test_reset_options(case: NativeCase) -> None:
    env, vector = case.single(), case.vector(2)
    with pytest.raises(ConfigError, match="reset has no option 'reset_mask'"):
        env.reset(options={"reset_mask": np.ones(1, bool)})
    with pytest.raises(ConfigError, match=r"no option 'rset_mask'\. Did you mean 'reset_mask'\?"):
        vector.reset(options={"rset_mask": np.ones(2, bool)})
    for mask in (np.ones(3, bool), np.ones(2), np.zeros(2, bool), [1, 0], True):
        with pytest.raises(ConfigError, match=r"reset_mask must be bool of shape \(2,\)"):
            vector.reset(options={"reset_mask": mask})
    env.reset(options={})
    vector.reset(options={})


@pytest.mark.parametrize("seed", [-1, [1, -1], [1, 1.5], [1], "ab", [1, 2, 3], 1.5])
@PER_ENV
def test_seeds_of_many(case: NativeCase, seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be"):
        case.vector(2).reset(seed=seed)


@PER_ENV
def test_a_negative_seed_of_one(case: NativeCase) -> None:
    with pytest.raises(gym.error.Error, match="-1"):
        case.single().reset(seed=-1)


def wrong_choices(space: gym.Space[Any]) -> list[Any]:
    """Things that are no action of one environment."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        counts = space.nvec.tolist()
        return [3, counts[1:], [counts[0], *[0] * (len(counts) - 1)], [-1] * len(counts),
                [0.0] * len(counts), None]  # fmt: skip
    count = int(space.n)  # type: ignore[attr-defined]
    return [-1, count, 1.0, 0.5, "0", None, np.array([1]), float("nan")]


@PER_CASE
def test_wrong_actions_of_one(case: NativeCase) -> None:
    env = case.single()
    env.reset(seed=0)
    name, space = env.task.action_name, env.action_space
    multiple = isinstance(space, gym.spaces.MultiDiscrete)
    rule = f"one {name} below each of" if multiple else f"a {name} from 0 to {space.n - 1}, got"
    for action in wrong_choices(space):
        with pytest.raises(gym.error.InvalidAction, match=f"action must be {rule}"):
            env.step(action)
    assert env.simulator.elapsed().tolist() == [0]


@PER_CASE
def test_wrong_actions_of_many(case: NativeCase) -> None:
    env = case.vector(2)
    env.reset(seed=0)
    space: Any = env.single_action_space
    if isinstance(space, gym.spaces.MultiDiscrete):
        wrong: list[Any] = [[choice, choice] for choice in wrong_choices(space)]
    else:
        count = int(space.n)
        wrong = [[0, count], [-1, 0], [0], [0, 1, 2], 0, [[0, 1]], [0.0, 1.0], [0.5, 1],
                 ["0", "1"], [None, 0]]  # fmt: skip
    for actions in wrong:
        with pytest.raises(gym.error.InvalidAction, match="actions must be"):
            env.step(np.array(actions))
    assert env.simulator.elapsed().tolist() == [0, 0]


@PER_ENV
def test_integers_of_every_kind_are_actions(case: NativeCase) -> None:
    env, vector = case.single(), case.vector(2)
    env.reset(seed=0)
    vector.reset(seed=0)
    kinds: list[Any] = [1, np.int32(1), np.uint8(1), np.array(1)]
    for action in kinds:
        env.step(action)
    for kind in (np.int64, np.int32, np.uint8):
        vector.step(np.array([0, 3], kind))
    vector.step([0, 3])
    vector.step(np.arange(4, dtype=np.int64)[::2])


@PER_ENV
def test_nothing_happens_before_a_reset(case: NativeCase) -> None:
    env = case.single(render_mode="ansi")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(gym.error.ResetNeeded):
            call()
