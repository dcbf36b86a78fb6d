"""What pictures of all native environments have in common."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from native_cases import CASES, DEFAULTS, NativeCase, pair, some_actions

PER_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
PER_ENV = pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)
PER_MODE = pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])


@PER_ENV
@PER_MODE
def test_check_env_with_a_render_mode(case: NativeCase, render_mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(case.single(render_mode=render_mode))


@PER_ENV
def test_frames_are_fresh_and_repeatable_and_change_nothing(case: NativeCase) -> None:
    env = case.single(render_mode="rgb_array")
    env.reset(seed=1)
    env.step(env.action_space.sample())
    state, first = env.get_state(), env.render()
    assert first.dtype == np.uint8
    assert first.shape[0] % 2 == first.shape[1] % 2 == 0, "video codecs want it so"
    second = env.render()
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)
    np.testing.assert_equal(env.get_state(), state)


@PER_ENV
@PER_MODE
def test_pictures_forget_the_steps_of_other_episodes(case: NativeCase, render_mode: str) -> None:
    env = case.single(render_mode=render_mode)
    env.reset(seed=1)
    start, fresh = env.get_state(), env.render()
    for forget in (lambda: env.set_state(start), lambda: env.reset(seed=1)):
        env.step(env.action_space.sample())
        assert not np.array_equal(env.render(), fresh)
        forget()
        np.testing.assert_array_equal(env.render(), fresh)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@PER_CASE
def test_vector_environments_render_as_single_ones(case: NativeCase, mode: AutoresetMode) -> None:
    rendering = replace(case, settings={**case.settings, "render_mode": "rgb_array"})
    vector, singles = pair(rendering, 2, mode)
    rng, ends = np.random.default_rng(0), 0
    vector.reset(seed=3)
    singles.reset(seed=3)
    for step in range(40):
        actions = some_actions(vector, rng)
        _, _, terminated, truncated, _ = vector.step(actions)
        singles.step(actions)
        over = (terminated | truncated).any()
        ends += over
        if over or step % 5 == 0:
            for found, expected in zip(vector.render(), singles.render(), strict=True):
                np.testing.assert_array_equal(found, expected)
    assert ends


@PER_ENV
def test_without_a_render_mode_nothing_is_drawn(case: NativeCase) -> None:
    env, vector = case.single(), case.vector(2)
    env.reset(seed=0)
    vector.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    assert vector.render() is None
