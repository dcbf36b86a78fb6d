"""Environments that return what they must not: what is said, and that nothing worse happens.

An environment breaks at a call of one episode; the message names it, the call, the seed and the
step, in words of ours.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_gym import GRPO
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvError, EnvNumberError
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.spaces import sample_batch

LENGTH = 4
PLACES = {"observation": 0, "reward": 1, "terminated": 2, "truncated": 3, "info": -1}
SPACES: dict[str, gym.Space[Any]] = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(3, start=5),
    "many": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(3),
    "dict": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0.0, 1.0, (2,), np.float32)}),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2))),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "many": spaces.MultiDiscrete([2, 3]),
    "box": spaces.Box(-1.0, 1.0, (1,), np.float32),
}
Break = Callable[[tuple[Any, ...]], Any]


class Fragile(gym.Env[Any, Any]):
    """Whole, but for one result: that of step `at` (0: of reset) of the episode of seed `seed`."""

    def __init__(
        self, broken: Break, at: int, seed: int, observed: str = "box", actions: str = "discrete"
    ) -> None:
        self.broken, self.at, self.seed = broken, at, seed
        self.observation_space = SPACES[observed]
        self.action_space = ACTIONS[actions]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.own, self.time = seed, 0
        return self._result((self.observation_space.sample(), {"time": 0}))

    def step(self, action: Any) -> Any:
        self.time += 1
        over = self.time == LENGTH
        info = {"time": self.time}
        return self._result((self.observation_space.sample(), 1.0, over, False, info))

    def _result(self, whole: tuple[Any, ...]) -> Any:
        return self.broken(whole) if (self.own, self.time) == (self.seed, self.at) else whole


def play(env: Fragile, seeds: tuple[int, ...] = (11, 12, 13)) -> None:
    """Play an episode of each seed with random legal actions."""
    batch = LoopBatch([env, *(_copy(env) for _ in seeds[1:])])
    batch.single_action_space.seed(0)
    _, masks = batch.reset(seeds)
    alive = np.ones(len(seeds), np.bool_)
    while alive.any():
        step = batch.step(sample_batch(batch.single_action_space, len(seeds), masks), alive)
        alive = alive & ~(step.terminated | step.truncated)
        masks = step.action_masks
        assert step.observations.dtype == np.float32
        assert np.isfinite(step.observations).all()
        assert step.rewards.dtype == np.float64
        assert np.isfinite(step.rewards).all()


def _copy(env: Fragile) -> Fragile:
    other = Fragile(env.broken, env.at, env.seed)
    other.observation_space, other.action_space = env.observation_space, env.action_space
    return other


def value(place: int, new: Any) -> Break:
    """Another value at a place of the result; -1 is the infos."""

    def broken(whole: tuple[Any, ...]) -> Any:
        parts = list(whole)
        parts[place] = new
        return tuple(parts)

    return broken


def observed(new: Any) -> Break:
    return value(0, new)


def mask(new: Any) -> Break:
    return value(-1, {"action_mask": new})


def raises(error: Exception) -> Break:
    def broken(whole: Any) -> Any:
        raise error

    return broken


OBSERVATIONS: dict[str, tuple[str, Any, str]] = {
    "nan": ("box", np.array([0.0, np.nan]), "observations must be finite, got nan"),
    "infinite": ("box", [-np.inf, 0.0], "observations must be finite, got -inf"),
    "too large for float32": (
        "box",
        np.array([1e300, 0.0]),
        "observations must be finite, got inf",
    ),
    "too long": ("box", np.zeros(3), r"observation must have shape \(2,\), got \(3,\)"),
    "a column": ("box", np.zeros((2, 1)), r"must have shape \(2,\), got \(2, 1\)"),
    "a number": ("box", 0.5, r"must have shape \(2,\), got \(\)"),
    "nothing": ("box", None, r"must have shape \(2,\), got \(\)"),
    "text": ("box", ["a", "b"], "observation must be numbers, got <U1"),
    "ragged": ("box", [[1.0], [1.0, 2.0]], "observation must be an array, got"),
    "complex": ("box", np.zeros(2, complex), "observation must be numbers, got complex128"),
    "below the first": (
        "discrete",
        4,
        r"observation must be in Discrete\(3, start=5\), from 5 to 7, got 4",
    ),
    "minus one": ("discrete", -1, "from 5 to 7, got -1"),
    "above the last": ("discrete", np.int64(8), "from 5 to 7, got 8"),
    "huge": ("discrete", 10**30, "observation must be integers, got object"),
    "half": ("discrete", 5.5, "observation must be integers, got float64"),
    "one above": (
        "many",
        np.array([1, 3]),
        r"in MultiDiscrete\(\[2 3\]\), from 0 to 1, 0 to 2, got \[1, 3\]",
    ),
    "a bit of two": ("bits", np.array([0, 2, 0]), "observation must be 0 or 1 everywhere"),
    "no dictionary": ("dict", np.zeros(2), "observation must be a dictionary, got array"),
    "a part less": ("dict", {"a": 1}, r"must have the keys \['a', 'b'\], got \['a'\]"),
    "another part": ("dict", {"a": 1, "c": 2}, "observation must have a part 'b', got"),
    "a wrong part": (
        "dict",
        {"a": 2, "b": np.zeros(2)},
        r"observation\['a'\] must be in .* from 0 to 1",
    ),
    "no tuple": ("tuple", 5, "observation must be a tuple, got 5"),
    "a shorter tuple": ("tuple", (1,), "observation must have 2 parts, got 1"),
}
RESULTS: dict[str, tuple[Break, str]] = {
    "four values": (lambda whole: whole[:4], "must return .*terminated, truncated, info.*got 4 v"),
    "one value": (lambda whole: whole[0], "must return .observation, reward.*got array"),
    "none": (lambda whole: None, "must return .observation, reward.*got None"),
    "it raises": (raises(ZeroDivisionError("by nothing")), "raised ZeroDivisionError.'by nothing'"),
    "it asserts": (raises(AssertionError()), "raised AssertionError"),
    "reward nan": (value(1, np.nan), "rewards must be finite, .*got nan"),
    "reward infinite": (value(1, np.float32(np.inf)), "rewards must be finite, .*got inf"),
    "reward overflows": (value(1, -1.7e308), r"at most 1e\+100 in size, got -1.7e\+308"),
    "reward a huge integer": (value(1, 10**400), "rewards must be finite, .*got inf"),
    "reward text": (value(1, "1.0"), "rewards must be numbers, got '1.0'"),
    "reward none": (value(1, None), "rewards must be numbers, got None"),
    "reward two": (value(1, np.ones(2)), r"one number for each step, got array.*LinearReward"),
    "reward of two objectives": (
        value(1, [1.0, 2.0]),
        r"one number for each step, got \[1.0, 2.0\]",
    ),
    "reward of none": (value(1, np.ones(0)), "rewards must be one number for each step"),
    "reward complex": (value(1, 1j), "rewards must be numbers, got 1j"),
    "terminated none": (value(2, None), "terminated must be True or False, got None"),
    "terminated text": (value(2, "no"), "terminated must be True or False, got 'no'"),
    "terminated 2": (value(2, 2), "terminated must be True or False, got 2"),
    "terminated many": (value(2, np.array([True, False])), "terminated must be True or False"),
    "truncated a number": (value(3, 0.5), "truncated must be True or False, got 0.5"),
    "info none": (value(-1, None), "info must be a dictionary, got None"),
    "info a list": (value(-1, [1]), r"info must be a dictionary, got \[1\]"),
}
MASKS: dict[str, tuple[str, Any, str]] = {
    "short": ("discrete", np.ones(2, np.bool_), r"action_mask must have shape \(3,\), got \(2,\)"),
    "two axes": ("discrete", np.ones((1, 3), np.bool_), r"must have shape \(3,\), got \(1, 3\)"),
    "all false": ("discrete", np.zeros(3, np.int8), "action_mask must allow an action, got none"),
    "floats": ("discrete", np.ones(3), "action_mask must be bool, or 0 and 1, got float64"),
    "a two": ("discrete", np.array([0, 2, 1]), "action_mask must be bool, or 0 and 1, got int64"),
    "text": ("discrete", "101", r"action_mask must have shape \(3,\)"),
    "a part all false": ("many", np.array([0, 0, 1, 1, 1], np.int8), "must allow an action"),
    "parts exchanged": ("many", (np.ones(3), np.ones(2)), r"must have parts of \[2, 3\] choices"),
    "of a box": ("box", np.ones(1, np.bool_), "action_mask must come with discrete actions"),
}


def place(call: str, seed: int, step: int) -> str:
    return rf"^Fragile\.{call}\(\), seed {seed}, step {step}: "


@pytest.mark.parametrize("case", OBSERVATIONS)
def test_observations_outside_the_space_or_not_finite(case: str) -> None:
    observed_as, wrong, message = OBSERVATIONS[case]
    for call, step in (("reset", 0), ("step", 3)):
        with pytest.raises(EnvError, match=place(call, 12, step) + f".*{message}"):
            play(Fragile(observed(wrong), step, 12, observed_as))


@pytest.mark.parametrize("case", RESULTS)
def test_results_of_a_step(case: str) -> None:
    broken, message = RESULTS[case]
    with pytest.raises(EnvError, match=place("step", 13, 2) + f".*{message}"):
        play(Fragile(broken, 2, 13))


@pytest.mark.parametrize("case", MASKS)
def test_masks(case: str) -> None:
    actions, wrong, message = MASKS[case]
    for call, step in (("reset", 0), ("step", 1)):
        with pytest.raises(EnvError, match=place(call, 11, step) + f".*{message}"):
            play(Fragile(mask(wrong), step, 11, actions=actions))


def test_a_reset_with_the_signature_of_old_gym() -> None:
    class Old(Fragile):
        def reset(self) -> Any:  # type: ignore[override]
            return super().reset()

    class Other(Fragile):
        def reset(self, **options: Any) -> Any:
            return value(seed=1)  # type: ignore[call-arg]

    remedy = r"'seed'\"\): define reset\(self, \*, seed=None, options=None\)$"
    with pytest.raises(EnvError, match=r"^Old\.reset\(\), seed 11, step 0: raised .*" + remedy):
        play(Old(observed(np.zeros(2)), 0, 11))
    with pytest.raises(EnvError, match="raised TypeError") as caught:
        play(Other(observed(np.zeros(2)), 0, 11))
    assert "define reset" not in str(caught.value)


def test_a_reset_without_infos() -> None:
    for broken in (lambda whole: whole[0], lambda whole: {"a": 0, "b": np.zeros(2)}):
        with pytest.raises(
            EnvError, match=place("reset", 11, 0) + r"must return .observation, info"
        ):
            play(Fragile(broken, 0, 11, "dict"))


ACCEPTED: dict[str, Break] = {
    **{
        f"a reward of type {type(number).__name__}": value(1, number)
        for number in (np.ones(1), np.float32(1.0), True, 1, Fraction(1), Decimal(1))
    },
    "a reward in an array of arrays": value(1, np.ones((1, 1))),
    "a reward of torch": value(1, torch.ones(1)),
    "an end of numpy": value(2, np.bool_(False)),
    "an end in an array": value(2, np.array([False])),
    "an end of 0": value(3, 0),
    "integers for numbers": observed([0, 1]),
    "double precision": observed(np.zeros(2)),
    "beyond the box": observed(np.array([7.0, 0.0])),
    "a mask of bytes": mask(np.array([0, 1, 1], np.uint8)),
    "a mask in a list": mask([True, False, True]),
    "no mask": mask(None),
    "infos of all kinds": value(-1, {"a": 1, 2: 3, "b": [1], "c": None, "d": 10**400, "e": "f"}),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_unusual_and_clear_is_accepted(case: str) -> None:
    play(Fragile(ACCEPTED[case], 2, 12))


def test_one_reward_in_an_array_counts_as_the_number() -> None:
    batch = LoopBatch([Fragile(value(1, np.full((1, 1), 4.5)), 1, seed) for seed in (1, 2)])
    batch.reset([1, 9])
    step = batch.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    assert step.rewards.tolist() == [4.5, 1.0]


def test_at_the_end_no_mask_has_to_allow_anything() -> None:
    play(Fragile(mask(np.zeros(3, np.int8)), LENGTH, 12))


# Every way to play says the same


def fragile_class(broken: Break, at: int, observed_as: str = "box") -> Callable[[], Fragile]:
    """Environments that break in any episode."""

    class Always(Fragile):
        def __init__(self) -> None:
            super().__init__(broken, at, -1, observed_as)

        def _result(self, whole: tuple[Any, ...]) -> Any:
            return broken(whole) if self.time == at else whole

    Always.__name__ = "Fragile"
    return Always


@pytest.mark.parametrize("preset", ["default", "vine"])
def test_training_says_the_same(preset: str) -> None:
    config: dict[str, Any] = {"branch_every": 2} if preset == "vine" else {}
    env = fragile_class(value(1, np.nan), 3)
    model = GRPO("linear", env, preset=preset, num_groups=2, group_size=2, **config)
    weights = model.weights_sha256()
    wanted = r"Fragile\.step\(\), seed (\d+), step (\d): rewards must be finite"
    with pytest.raises(EnvNumberError, match=wanted) as caught:
        model.learn(100)
    assert model.weights_sha256() == weights
    found = re.match(wanted, str(caught.value))
    assert found is not None
    assert (int(found[2]), model.iteration) == (3, 0)
    # The seed and the step are those at which it happens again, to this environment alone.
    again = env()
    again.reset(seed=int(found[1]))
    rewards = [again.step(0)[1] for _ in range(3)]
    assert np.isnan(rewards).tolist() == [False, False, True]


def zeros(observations: np.ndarray, masks: Any, state: Any, start: np.ndarray) -> Any:
    return np.zeros(len(observations), np.int64), state


@pytest.mark.parametrize(
    "broken",
    [value(1, np.nan), value(1, np.inf), value(1, 1.7e308), observed(np.full(2, np.nan))],
)
def test_evaluation_is_as_strict(broken: Break) -> None:
    env = fragile_class(broken, 2)
    for episodes in (1, 5):
        with pytest.raises(EnvNumberError, match=place("step", 40, 2)):
            evaluate(zeros, make_batch(env, None, 3), episodes, seed=40)
        with pytest.raises(EnvNumberError, match=place("step", 40, 2)):
            GRPO("linear", env).evaluate(episodes, seed=40)


def test_one_episode_of_many_is_enough() -> None:
    batch = LoopBatch([Fragile(value(1, np.nan), 4, 157) for _ in range(4)])
    with pytest.raises(EnvNumberError, match=place("step", 157, 4)):
        evaluate(zeros, batch, 100, seed=100)
    assert len(evaluate(zeros, batch, 57, seed=100).returns) == 57


# Vector environments


class Spoilt:
    """A native vector environment, one result of which is replaced."""

    def __init__(self, env: Any, call: str, broken: Break) -> None:
        self._env, self._call, self._broken = env, call, broken

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._env, name)
        if name != self._call:
            return whole
        return lambda *args, **kwargs: self._broken(whole(*args, **kwargs))


def row(place: int, b: int, new: Any) -> Break:
    def broken(whole: tuple[Any, ...]) -> Any:
        spoilt = np.array(whole[place])
        spoilt[b] = new
        return value(place, spoilt)(whole)

    return broken


@pytest.mark.parametrize(
    ("call", "broken", "message"),
    [
        ("step_alive", row(0, 2, np.nan), "observations must be finite, got nan"),
        ("step_alive", row(1, 2, np.inf), "rewards must be finite, .*got inf"),
        ("step_alive", row(1, 2, 1.7e308), "rewards must be finite, .*got 1.7e"),
        ("reset", row(0, 2, np.inf), "observations must be finite, got inf"),
    ],
)
def test_vector_environments(call: str, broken: Break, message: str) -> None:
    batch = cast(NativeBatch, make_batch("Battleship-v0", {"preset": "uniform-5x5"}, 3))
    batch.env = Spoilt(batch.env, call, broken)
    step = int(call == "step_alive")
    shown = rf"^Battleship-v0\.{'step' if step else 'reset'}\(\), seed 6, step {step}: {message}"
    with pytest.raises(EnvNumberError, match=shown):
        batch.reset([4, 5, 6])
        batch.step(np.arange(3), np.ones(3, np.bool_))


def test_members_that_are_not_stepped_are_not_judged() -> None:
    batch = cast(NativeBatch, make_batch("Battleship-v0", {"preset": "uniform-5x5"}, 3))
    batch.env = Spoilt(batch.env, "step_alive", row(1, 2, np.nan))
    batch.reset([4, 5, 6])
    batch.step(np.arange(3), np.array([True, True, False]))
    with pytest.raises(EnvNumberError, match=r"seed 6, step 1: rewards"):
        batch.step(np.arange(3), np.array([False, False, True]))


def test_actions_that_are_not_finite_are_the_policys_fault() -> None:
    batch = make_batch("Pendulum-v1", None, 2)
    batch.reset([1, 2])
    actions = np.array([[0.0], [np.nan]], np.float32)
    with pytest.raises(
        FloatingPointError, match="actions for Pendulum-v1 must be finite"
    ) as caught:
        batch.step(actions, np.ones(2, np.bool_))
    assert not isinstance(caught.value, EnvError)
    batch.step(actions, np.array([True, False]))


def test_a_restored_episode_has_its_own_seed_and_step() -> None:
    batch = LoopBatch([Fragile(value(1, np.nan), 3, 7) for _ in range(3)])
    actions, everyone = np.zeros(3, np.int64), np.ones(3, np.bool_)
    batch.reset([6, 7, 8])
    batch.step(actions, everyone)
    snapshot = batch.snapshot(np.array([1]))
    batch.reset([1, 2, 3])
    batch.restore(snapshot, np.array([[0, 2]]))
    batch.step(actions, everyone)
    with pytest.raises(EnvError, match=place("step", 7, 3)):
        batch.step(actions, everyone)


# Anything at all


numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
)
atoms = st.one_of(st.none(), numbers, st.text(max_size=3), st.binary(max_size=3))
names = st.one_of(st.sampled_from(["a", "b", "action_mask"]), st.text(), st.integers(), st.none())
arrays = st.builds(
    lambda shape, dtype, fill: np.full(shape, fill).astype(dtype),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(["f2", "f4", "f8", "i1", "u8", "?", "c8", "O", "U3", "M8[s]", "m8[s]"]),
    st.integers(-2, 7),
)
anything = st.recursive(
    st.one_of(atoms, arrays, st.builds(object)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(names, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(
    junk=anything,
    kind=st.sampled_from(
        ["observation", "reward", "terminated", "truncated", "info", "mask", "all"]
    ),
    at=st.integers(0, LENGTH),
    observed_as=st.sampled_from(sorted(SPACES)),
    actions=st.sampled_from(sorted(ACTIONS)),
)
@pytest.mark.filterwarnings("error")
def test_anything_is_understood_or_refused_in_our_words(
    junk: Any, kind: str, at: int, observed_as: str, actions: str
) -> None:
    at = max(at, int(kind in ("reward", "terminated", "truncated")))
    broken: Break = lambda _: junk  # noqa: E731
    if kind == "mask":
        broken = mask(junk)
    elif kind != "all":
        broken = value(PLACES[kind], junk)
    wanted = place("step" if at else "reset", 12, at)
    try:
        play(Fragile(broken, at, 12, observed_as, actions))
    except EnvError as error:
        assert re.match(wanted, str(error)), str(error)
        assert "raised" not in str(error)
        assert len(str(error)) < 400
