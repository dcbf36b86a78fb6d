"""A checkpoint is for the environment it was trained in, and says so by values, not by text."""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.online.trainer import OnlineGRPO
from grpo_gym.trainers.saved_environment import space_sha256

ENV = "Arguments-v0"


class Arguments(gym.Env[Any, Any]):
    """Remembers what it was made with; the reward is whatever that makes of it."""

    action_space = spaces.Discrete(2)
    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, argument: Any = None, bound: Any = None) -> None:
        self.argument = argument
        if bound is not None:
            self.observation_space = bound

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(self.observation_space.shape or (), np.float32), 1.0, True, False, {}


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Word(str):
    pass


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(ENV, entry_point=Arguments)  # type: ignore[arg-type]
    yield
    del gym.registry[ENV]


def make(**arguments: Any) -> GRPO:
    return GRPO("linear", ENV, num_groups=1, group_size=2, **arguments)


def saved(path: Path, **arguments: Any) -> Path:
    make(**arguments).save(path)
    return path


HELD: dict[str, Any] = {
    "a number": 0.1,
    "a large integer": 2**70,
    "infinite": -np.inf,
    "numbers as keys": {1: "a", 2.5: "b", None: "c", False: "d"},
    "a tuple": (4, 4),
    "tuples in a list": [(1, 2), (3,)],
    "tuples as values": {"a": ({"b": (1,)},)},
    "bytes": b"abc",
    "empty": [(), [], {}, "", b""],
    "text with a number": "1",
}


@pytest.mark.parametrize("case", HELD)
@pytest.mark.parametrize("where", ["env_kwargs", "training_env_kwargs"])
def test_plain_arguments_come_back_as_they_were(case: str, where: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", **{where: {"argument": HELD[case]}})
    again = getattr(GRPO.load(path), where)
    assert again == {"argument": HELD[case]}
    assert repr(again) == repr({"argument": HELD[case]})


def test_numbers_of_numpy_come_back_as_those_of_python(tmp_path: Path) -> None:
    for value in (np.float32(0.5), np.int8(3), np.bool_(True), np.float64(0.1)):
        path = saved(tmp_path / "a.ckpt", env_kwargs={"argument": [value]})
        found = GRPO.load(path).env_kwargs["argument"][0]
        assert found == value
        assert type(found) is type(value.item())


def test_one_list_in_two_places(tmp_path: Path) -> None:
    shared = [1, 2]
    path = saved(tmp_path / "a.ckpt", env_kwargs={"argument": [shared, shared]})
    assert GRPO.load(path).env_kwargs == {"argument": [[1, 2], [1, 2]]}


NOT_HELD: dict[str, Any] = {
    "a function": lambda: 1,
    "a class": Colour,
    "an enumeration": Colour.RED,
    "an enumeration of numbers": Level.HIGH,
    "a kind of text": Word("a"),
    "an object": object(),
    "an array": np.ones(2),
    "a set": {1, 2},
    "a path": Path("a"),
    "a complex number": 1j,
    "a date": np.datetime64("2026-01-01"),
    "an ordered dictionary": OrderedDict(a=1),
    "a mapping": MappingProxyType({"a": 1}),
    "an enumeration as a key": {Colour.RED: 1},
    "deep inside": [{"a": ({"b": [Colour.RED]},)}],
    "in itself": [],
}
NOT_HELD["in itself"].append(NOT_HELD["in itself"])


@pytest.mark.parametrize("case", NOT_HELD)
def test_other_arguments_are_asked_for(case: str, tmp_path: Path) -> None:
    value = NOT_HELD[case]
    path = saved(tmp_path / "a.ckpt", env_kwargs={"argument": value})
    with pytest.raises(
        CheckpointError, match=r"env_kwargs that a file cannot hold.*pass env_kwargs="
    ):
        GRPO.load(path)
    with pytest.raises(CheckpointError, match="pass env_kwargs="):
        GRPO.load(path, ENV)
    assert GRPO.load(path, env_kwargs={"argument": value}).env_kwargs["argument"] is value
    assert GRPO.load(path, env_kwargs={}).env_kwargs == {}
    assert GRPO.load(path, lambda: Arguments(value)).env_kwargs == {}


@pytest.mark.parametrize("case", ["a function", "an enumeration of numbers"])
def test_other_arguments_of_training_are_asked_for(case: str, tmp_path: Path) -> None:
    value = NOT_HELD[case]
    path = saved(tmp_path / "a.ckpt", training_env_kwargs={"argument": value})
    with pytest.raises(CheckpointError, match="pass training_env_kwargs="):
        GRPO.load(path)
    model = GRPO.load(path, training_env_kwargs={"argument": value})
    assert model.training_env_kwargs["argument"] is value
    assert GRPO.load(path, training_env_kwargs={}).training_env_kwargs == {}


def test_arrays_of_native_environments_are_lists(tmp_path: Path) -> None:
    rates = np.array([0.01, 0.02], np.float64)
    model = GRPO("linear", "LoadBalancer-v0", env_kwargs={"service_rates": rates})
    model.save(tmp_path / "a.ckpt")
    assert GRPO.load(tmp_path / "a.ckpt").env_kwargs == {"service_rates": [0.01, 0.02]}
    online = OnlineGRPO(env_kwargs={"service_rates": rates, "reward": "latency"})
    online.save(tmp_path / "b.ckpt")
    assert OnlineGRPO.load(tmp_path / "b.ckpt").env_kwargs["service_rates"] == [0.01, 0.02]


# Spaces


def box(count: int, changed: int | None = None, **options: Any) -> spaces.Box:
    low = np.full(count, -1.0 / 3.0, options.get("dtype", np.float32))
    if changed is not None:
        low[changed] *= 1.0 + 1e-6
    return spaces.Box(low, 1.0, (count,), **options)


@pytest.mark.parametrize(
    "options",
    [{"precision": 2}, {"threshold": 2}, {"sign": "+"}, {"linewidth": 20}, {"suppress": True}],
)
@pytest.mark.parametrize("old", [True, False])
def test_print_options_do_not_matter(options: dict[str, Any], old: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    model = GRPO("linear", lambda: Arguments(bound=box(40, 20)))
    model.save(path)
    if old:
        forget_digests(path)
    with np.printoptions(**options):
        GRPO.load(path, lambda: Arguments(bound=box(40, 20)))
        model.save(path)
    GRPO.load(path, lambda: Arguments(bound=box(40, 20)))


def forget_digests(path: Path) -> None:
    payload = checkpoint.load(path, kind="grpo")
    for name in ("observation_space", "action_space"):
        del payload["environment"][f"{name}_sha256"]
    checkpoint.save(path, payload, kind="grpo")


def test_bounds_are_compared_by_value_however_many(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for count in (3, 1500):
        GRPO("linear", lambda: Arguments(bound=box(count))).save(path)  # noqa: B023
        GRPO.load(path, lambda: Arguments(bound=box(count)))  # noqa: B023
        for changed in (0, count // 2, count - 1):
            with pytest.raises(CheckpointError, match="was trained with observation space"):
                GRPO.load(path, lambda: Arguments(bound=box(count, changed)))  # noqa: B023
    GRPO("linear", lambda: Arguments(bound=box(1500, 800))).save(path)
    with pytest.raises(
        CheckpointError, match=r"float32\), of other values: pass the env"
    ) as caught:
        GRPO.load(path, lambda: Arguments(bound=box(1500, 700)))
    assert len(str(caught.value).splitlines()) == 1


def other_bounds() -> spaces.Box:
    return spaces.Box(-2.0, 1.0, (2,), np.float32)


SPACES: dict[str, Callable[[], gym.Space[Any]]] = {
    "box": lambda: spaces.Box(-1.0, 1.0, (2,), np.float32),
    "double box": lambda: spaces.Box(-1.0, 1.0, (2,), np.float64),
    "box of bytes": lambda: spaces.Box(0, 1, (2,), np.uint8),
    "wide box": other_bounds,
    "column": lambda: spaces.Box(-1.0, 1.0, (2, 1), np.float32),
    "discrete": lambda: spaces.Discrete(2),
    "discrete from 1": lambda: spaces.Discrete(2, start=1),
    "many": lambda: spaces.MultiDiscrete([2, 2]),
    "many in a row": lambda: spaces.MultiDiscrete(np.array([[2, 2]])),
    "many from 1": lambda: spaces.MultiDiscrete([2, 2], start=[1, 0]),
    "bits": lambda: spaces.MultiBinary(2),
    "bits in a row": lambda: spaces.MultiBinary([1, 2]),
    "dict": lambda: spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}),
    "other names": lambda: spaces.Dict({"a": spaces.Discrete(2), "c": spaces.Discrete(2)}),
    "numbers as names": lambda: spaces.Dict(
        {1: spaces.Discrete(2), 2: spaces.Discrete(2)}  # type: ignore[dict-item]
    ),
    "digits as names": lambda: spaces.Dict({"1": spaces.Discrete(2), "2": spaces.Discrete(2)}),
    "other order": lambda: spaces.Dict(OrderedDict(b=spaces.Discrete(2), a=spaces.Discrete(2))),
    "tuple": lambda: spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
    "nested": lambda: spaces.Tuple((spaces.Dict(a=other_bounds()), spaces.Discrete(2))),
    "text": lambda: spaces.Text(3),
}


def test_equal_spaces_have_equal_hashes_and_others_other_ones() -> None:
    hashes = {name: space_sha256(space()) for name, space in SPACES.items()}
    again = {name: space_sha256(space()) for name, space in SPACES.items()}
    assert hashes == again
    assert len(set(hashes.values())) == len(SPACES)
    zeros = [spaces.Box(low, 1.0, (1,), np.float32) for low in (0.0, -0.0)]
    assert space_sha256(zeros[0]) == space_sha256(zeros[1])
