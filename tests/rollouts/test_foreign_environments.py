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
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.returned import choices_of
from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.settings import ConfigError

LENGTH = 4


class Foreign(gym.Env[Any, Any]):
    """Episodes of four steps; actions must be in the space, as `contains` has it."""

    def __init__(
        self,
        action_space: gym.Space[Any] | None = None,
        observation_space: gym.Space[Any] | None = None,
    ) -> None:
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        box = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = box if observation_space is None else observation_space

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


# Actions in the dtype of their space


INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
ACTIONS: dict[str, gym.Space[Any]] = {
    "discrete from 5": spaces.Discrete(3, start=5),
    "discrete from -3": spaces.Discrete(3, start=-3),
    "one action": spaces.Discrete(1),
    **{f"discrete {dtype.__name__}": spaces.Discrete(3, dtype=dtype) for dtype in INTEGERS},
    **{f"many {dtype.__name__}": spaces.MultiDiscrete([2, 3], dtype=dtype) for dtype in INTEGERS},
    "many from -2": spaces.MultiDiscrete([2, 3], start=[-2, 4], dtype=np.int8),
    "a table": spaces.MultiDiscrete(np.array([[2, 3, 1], [4, 1, 2]])),
    "a table from 1": spaces.MultiDiscrete(
        np.array([[2, 3]]), start=np.array([[1, -1]]), dtype=np.int16
    ),
    "bits": spaces.MultiBinary(3),
    "a table of bits": spaces.MultiBinary([2, 2]),
    "box float16": spaces.Box(-1.0, 2.0, (2,), np.float16),
    "box float32": spaces.Box(-1.0, 2.0, (2,), np.float32),
    "box float64": spaces.Box(-1.0, 2.0, (2,), np.float64),
    "a number": spaces.Box(-1.0, 1.0, (), np.float32),
    "a table of numbers": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "a box without width": spaces.Box(1.0, 1.0, (1,), np.float32),
}


@pytest.mark.parametrize("case", ACTIONS)
def test_actions_are_in_their_space(case: str) -> None:
    space = ACTIONS[case]
    model = learn(lambda: Foreign(space))
    observation = np.zeros(2, np.float32)
    for deterministic in (True, False):
        one, _ = model.predict(observation, deterministic=deterministic)
        several, _ = model.predict(np.zeros((3, 2)), deterministic=deterministic)
        assert np.asarray(one).dtype == several.dtype == space.dtype
        assert all(space.contains(action) for action in (one, *several))


def test_several_shapes_of_discrete_actions_are_learned() -> None:
    for case in ("discrete int8", "a table from 1", "a table of bits"):
        model = GRPO("linear", lambda: Foreign(ACTIONS[case]), learning_rate=0.05)  # noqa: B023
        before = model.evaluate(20, deterministic=False).mean_return
        for _ in range(10):
            model.train_iteration()
        assert model.evaluate(20, deterministic=False).mean_return > before + 2.0


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 3, (2,), np.int64),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Box(-1.0, 1.0, (0,), np.float32),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,), np.float32))),
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
    ],
)
def test_other_actions_are_refused_in_a_line(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"^action space must be Discrete") as caught:
        GRPO("linear", lambda: Foreign(space))
    assert len(str(caught.value).splitlines()) == 1


# Bounds that are none


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sides", ["both", "low", "high", "one"])
@pytest.mark.parametrize("size", ["max", "half", "infinite", "1e20", "largest float32"])
def test_a_bound_of_any_size_gives_finite_actions(dtype: Any, sides: str, size: str) -> None:
    largest = float(np.finfo(dtype).max)
    large = {
        "max": largest,
        "half": largest / 2,
        "infinite": np.inf,
        "1e20": 1e20,
        "largest float32": float(np.finfo(np.float32).max),
    }[size]
    large = large if np.isinf(large) else min(large, largest)
    low = np.array([-large if sides in ("both", "low") else -2.0] * 2, dtype)
    high = np.array([large if sides in ("both", "high") else 3.0] * 2, dtype)
    if sides == "one":
        high[1] = large
    space = spaces.Box(low, high, dtype=dtype)
    model = learn(lambda: Foreign(space))
    actions, _ = model.predict(np.zeros((100, 2)))
    assert np.isfinite(actions).all()
    unbounded = not (dtype == np.float16 and size == "half")
    if unbounded:
        assert np.abs(actions.astype(np.float64)).max() < 10.0
    assert np.ptp(actions.astype(np.float64)) > 0.0


def test_wide_bounds_are_bounds() -> None:
    space = spaces.Box(-1e6, 1e6, (2,), np.float32)
    model = GRPO("linear", lambda: Foreign(space))
    actions, _ = model.predict(np.zeros((100, 2)))
    assert np.abs(actions).max() > 1e5


# Masks


CHOICES: dict[str, gym.Space[Any]] = {
    "even": spaces.MultiDiscrete([3, 3, 3]),
    "uneven": spaces.MultiDiscrete([2, 4, 3], start=[5, 0, -1], dtype=np.int32),
    "as many as choices": spaces.MultiDiscrete([3, 3, 3], dtype=np.int8),
    "one": spaces.MultiDiscrete([4]),
    "table": spaces.MultiDiscrete(np.array([[2, 3], [3, 1]])),
    "bits": spaces.MultiBinary(3),
    "table of bits": spaces.MultiBinary([2, 2]),
    "discrete": spaces.Discrete(5, start=2),
}


def split(space: gym.Space[Any], flat: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(choices_of(space))[:-1])


def table(space: gym.Space[Any], flat: np.ndarray) -> np.ndarray:
    sizes = choices_of(space)
    rows = np.zeros((len(sizes), max(sizes)), flat.dtype)
    for row, part in zip(rows, split(space, flat), strict=True):
        row[: len(part)] = part
    return rows.reshape(*(space.shape or ()), -1)


FORMS: dict[str, Callable[[gym.Space[Any], np.ndarray], Any]] = {
    "flat": lambda space, flat: flat,
    "flat list": lambda space, flat: flat.tolist(),
    "flat tuple": lambda space, flat: tuple(flat.tolist()),
    "flat of bytes": lambda space, flat: flat.astype(np.int8),
    "table": table,
    "table in lists": lambda space, flat: table(space, flat).tolist(),
    "table of bytes": lambda space, flat: table(space, flat.astype(np.uint8)),
    "list": split,
    "list of lists": lambda space, flat: [part.tolist() for part in split(space, flat)],
    "tuple": lambda space, flat: tuple(split(space, flat)),
    "tuple of tuples": lambda space, flat: tuple(tuple(p.tolist()) for p in split(space, flat)),
    "tuple of bytes": lambda space, flat: tuple(p.astype(np.int8) for p in split(space, flat)),
}
MASK_CASES = [
    (form, case)
    for form in FORMS
    for case in CHOICES
    if form.startswith("flat") or case != "discrete"
]


def random_mask(space: gym.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """Flat; one or two choices of each component."""
    parts = []
    for size in choices_of(space):
        part = np.zeros(size, np.bool_)
        part[rng.integers(size, size=2)] = True
        parts.append(part)
    return np.concatenate(parts)


def is_legal(space: gym.Space[Any], flat: np.ndarray, action: Any) -> bool:
    chosen = np.reshape(np.asarray(action) - getattr(space, "start", 0), -1)
    parts = split(space, flat)
    return all(bool(part[choice]) for part, choice in zip(parts, chosen, strict=True))


class Masked(Foreign):
    """Actions that the last mask forbids fail; masks are given in one form, in one or two ways."""

    def __init__(self, space: gym.Space[Any], form: str, ways: tuple[str, ...]) -> None:
        super().__init__(space)
        self.form, self.ways = form, ways
        if "method" in ways:
            self.action_masks = self._mask
        self.flat = np.ones(0, np.bool_)

    def _mask(self) -> Any:
        return FORMS[self.form](self.action_space, self.flat)

    def info(self) -> dict[str, Any]:
        assert self._np_random is not None
        self.flat = random_mask(self.action_space, self._np_random)
        return {"action_mask": self._mask()} if "info" in self.ways else {}

    def step(self, action: Any) -> Any:
        assert is_legal(self.action_space, self.flat, action), f"{action} is illegal"
        return super().step(action)


@pytest.mark.parametrize(("form", "case"), MASK_CASES)
def test_masks_in_every_form(form: str, case: str) -> None:
    space = CHOICES[case]
    rng = np.random.default_rng(0)
    model = GRPO("linear", lambda: Masked(space, form, ("info",)), num_groups=2, group_size=3)
    model.train_iteration()
    model.evaluate(3)
    for _ in range(20):
        flat = random_mask(space, rng)
        action, _ = model.predict(np.zeros(2), action_masks=FORMS[form](space, flat))
        assert is_legal(space, flat, action)
    for count in (1, 2, 3, 4):
        flats = [random_mask(space, rng) for _ in range(count)]
        masks = [FORMS[form](space, flat) for flat in flats]
        stacked = masks if "list" in form or "tuple" in form else np.array(masks)
        for given in (masks, stacked):
            actions, _ = model.predict(np.zeros((count, 2)), action_masks=given)
            assert all(map(is_legal, [space] * count, flats, actions))
        actions, _ = model.predict(np.zeros((count, 2)), action_masks=masks[0])
        assert all(is_legal(space, flats[0], action) for action in actions)


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("ways", [("method",), ("info", "method")])
def test_masks_by_the_method_of_sb3_contrib(case: str, ways: tuple[str, ...]) -> None:
    space = CHOICES[case]
    learn(lambda: Masked(space, "flat", ways))
    batch = make_batch(lambda: Masked(space, "flat", ways), None, 4)
    _, masks = batch.reset([1, 2, 3, 4])
    alive = np.ones(4, np.bool_)
    for _ in range(LENGTH):
        assert masks is not None
        assert not masks.all()
        step = batch.step(sample_batch(space, 4, masks), alive)
        masks = step.action_masks
    assert step.terminated.all()
    assert masks is None or masks.all()


def test_a_method_on_any_layer_is_asked_also_after_a_branching() -> None:
    wrappers = pytest.importorskip("sb3_contrib.common.wrappers")
    space = spaces.MultiDiscrete([8, 8])

    def make() -> gym.Env[Any, Any]:
        inner = Masked(space, "flat", ())
        masker = wrappers.ActionMasker(inner, lambda env: env.unwrapped._mask())
        return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(masker), 10)

    learn(make)
    learn(make, grouping="branch", branch_every=2)


def test_what_one_of_two_ways_forbids_is_forbidden() -> None:
    class Two(Foreign):
        action_masks = staticmethod(lambda: [1, 1, 0, 0])

        def info(self) -> dict[str, Any]:
            return {"action_mask": [0, 1, 1, 0]}

    def make() -> Two:
        return Two(spaces.Discrete(4))

    batch = make_batch(make, None, 2)
    _, masks = batch.reset([1, 2])
    assert masks is not None
    assert masks.tolist() == [[False, True, False, False]] * 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda: 1 / 0, r"action_masks\(\) raised ZeroDivisionError"),
        (lambda: [1, 1], r"action_mask must have shape \(4,\), got \(2,\)"),
        (lambda: [0, 0, 0, 0], "action_mask must allow an action, got none"),
        (lambda: [0, 0, 2, 0], "action_mask must be bool, or 0 and 1"),
    ],
)
def test_a_method_that_returns_what_it_must_not(mask: Any, message: str) -> None:
    class Wrong(Foreign):
        action_masks = staticmethod(mask)

    batch = make_batch(lambda: Wrong(spaces.Discrete(4)), None, 2)
    with pytest.raises(EnvError, match=rf"Wrong\.reset\(\), seed 7, step 0: {message}"):
        batch.reset([7, 8])


def test_a_method_that_returns_nothing_and_an_attribute_are_no_masks() -> None:
    class Silent(Foreign):
        action_masks = staticmethod(lambda: None)

    class Attribute(Foreign):
        action_masks = None

    for kind in (Silent, Attribute):
        assert make_batch(kind, None, 2).reset([1, 2])[1] is None


@pytest.mark.parametrize(
    ("case", "mask", "message"),
    [
        ("even", np.ones((3, 2), np.bool_), "must have shape"),
        ("even", np.ones((2, 3), np.bool_), "must have shape"),
        ("uneven", np.ones((3, 4), np.bool_), r"must be 0 beyond \[2, 4, 3\] choices"),
        ("uneven", [[1, 1], [1, 1, 1], [1, 1, 1]], r"parts of \[2, 4, 3\] choices"),
        ("uneven", [0, 0, 1, 1, 1, 1, 1, 1, 1], "must allow an action"),
        ("bits", [1, 1, 0, 0, 1, 1], "must allow an action"),
        ("bits", [1, 1, 0], "must have shape"),
    ],
)
def test_masks_that_do_not_fit(case: str, mask: Any, message: str) -> None:
    model = GRPO("linear", lambda: Foreign(CHOICES[case]))
    with pytest.raises(ConfigError, match=message):
        model.predict(np.zeros(2), action_masks=mask)


# Observation spaces of every shape, and infos of every kind


OBSERVED: dict[str, gym.Space[Any]] = {
    "a number": spaces.Box(-1.0, 1.0, (), np.float32),
    "a double": spaces.Box(-np.inf, np.inf, (), np.float64),
    "integers": spaces.Box(-5, 5, (2,), np.int8),
    "large integers": spaces.Box(0, 2**40, (2, 2), np.int64),
    "truths": spaces.Box(0, 1, (2,), np.bool_),
    "half precision": spaces.Box(-1.0, 1.0, (2,), np.float16),
    "bits": spaces.MultiBinary(3),
    "a table of bits": spaces.MultiBinary([2, 2]),
    "discrete from -3": spaces.Discrete(4, start=-3),
    "one observation": spaces.Discrete(1),
    "many from -2": spaces.MultiDiscrete([2, 3], start=[-2, 4]),
    "a table": spaces.MultiDiscrete(np.array([[2, 3], [4, 1]])),
    "nested": spaces.Dict(
        {
            "inner": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiBinary(2)}),
            "tuple": spaces.Tuple((spaces.Box(-1.0, 1.0, (2, 2)), spaces.Discrete(3, start=-1))),
            "number": spaces.Box(-1.0, 1.0, ()),
        }
    ),
    "a tuple of tuples": spaces.Tuple((spaces.Tuple((spaces.Discrete(2),)), spaces.Discrete(2))),
}


@pytest.mark.parametrize("case", OBSERVED)
def test_observations_of_any_shape_train(case: str) -> None:
    space = OBSERVED[case]
    model = learn(lambda: Foreign(None, space), policy="mlp", frame_history=2)
    space.seed(1)
    model = learn(lambda: Foreign(None, space))
    action, _ = model.predict(space.sample(), deterministic=True)
    assert model.action_space.contains(action)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(-1.0, 1.0, (2,)), None),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple((spaces.Text(3),))}),
        spaces.Box(-1.0, 1.0, (0,), np.float32),
        spaces.Dict({}),
        spaces.Tuple(()),
    ],
)
def test_other_observations_are_refused_in_a_line(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="observation space must be") as caught:
        GRPO("linear", lambda: Foreign(None, space))
    assert len(str(caught.value).splitlines()) == 1


def test_infos_of_mixed_keys_train() -> None:
    class Mixed(Foreign):
        def info(self) -> dict[Any, Any]:
            return {1: 2.0, ("a", 1): 3, None: "x", "speed": self.time, "text": "a", b"b": [1]}

    model = learn(Mixed)
    assert model.evaluate(2).metrics["speed"].tolist() == [2.5, 2.5]
