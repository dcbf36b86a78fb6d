"""Whatever bytes a file has, a reader gives its own errors: no traceback, no endless loop."""

import dataclasses
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Gt, Lt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_gym.deployment import GuardConfig, GuardError, state_file
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig
from grpo_gym.settings import (
    ConfigError,
    from_mapping,
    load_yaml,
    parse_value,
    save_yaml,
    to_mapping,
    to_yaml,
)
from grpo_gym.trainers.comparison.task_results import read_task
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.online.config import OnlineConfig
from grpo_gym.trainers.settings import TrainSettings
from guard_bench import bench

IN_FOLDER = settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["replace", "insert", "delete", "repeat"]),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.sampled_from([b"&a ", b"*a", b"- ", b": ", b"{", b"[", b"!!python/object:os.system ",
                             b".nan", b"1e999", b"9" * 400, b"\n", b"\t", b"\0", b"\xff\xfe", b'"',
                             b"null", b"-1", b"[" * 300]),
        ),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edited(content: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for place, kind, more in changes:
        at = int(place * len(content))
        if kind == "replace":
            content = content[:at] + more + content[at + len(more) :]
        elif kind == "insert":
            content = content[:at] + more + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + 8 * len(more) :]
        else:
            content = content[:at] + content[at : at + 40] * 2 + content[at + 40 :]
    return content


# Settings


@IN_FOLDER
@given(edits)
def test_any_settings_file_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[float, str, bytes]]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(edited(to_yaml(TrainSettings()).encode(), changes))
    try:
        found = from_mapping(TrainSettings, load_yaml(path), str(path))
    except ConfigError as error:
        assert str(path) in str(error)
        return
    assert from_mapping(TrainSettings, to_mapping(found), "again") == found


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\n" + "".join(
            f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
            for old, new in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
        ),
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: " + "[" * 200 + "]" * 200,
        "a: " + "{b: " * 20_000,
    ],
    ids=["aliases", "itself", "itself in a mapping", "deep", "deeper"],
)  # fmt: skip
def test_a_small_file_does_not_grow(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"nested at most 100 deep|cannot be read as YAML"):
        load_yaml(path)
    with pytest.raises(ConfigError):
        parse_value("{" + text.replace("\n", ", ") + "}")


def test_no_settings_are_endless(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must have at most 1,000,000 bytes"):
        load_yaml("/dev/zero")
    (tmp_path / "large.yaml").write_text("a: 1\n" + "# comment\n" * 200_000)
    with pytest.raises(ConfigError, match="must have at most 1,000,000 bytes"):
        load_yaml(tmp_path / "large.yaml")


# What is valid comes back as it was


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Valid values of a field's type, as far as it says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(each) for each in arguments])
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values_of, arguments))
    if origin is dict:
        if arguments[1] is Any:
            return st.dictionaries(st.text(max_size=4), plain, max_size=3)
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    if dataclasses.is_dataclass(hint):
        return configs(hint)
    return SIMPLE[hint]


SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(10**6), 10**6),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=8),
    type(None): st.none(),
}
plain = st.recursive(
    st.one_of(*SIMPLE.values()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def _bounded(base: Any, rules: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    bounds: list[Any] = [bound for rule in rules for bound in getattr(rule, "metadata", ())]
    lows = [getattr(b, name) for b in bounds for name in ("ge", "gt") if hasattr(b, name)]
    highs = [getattr(b, name) for b in bounds for name in ("le", "lt") if hasattr(b, name)]
    low, high = max(lows, default=None), min(highs, default=None)
    strict = {type(b) for b in bounds}
    if base is int:
        return st.integers(-100 if low is None else int(low), 10**6 if high is None else int(high))
    if base is float:
        return st.floats(
            low, high, exclude_min=Gt in strict, exclude_max=Lt in strict,
            allow_nan=False, allow_infinity=False,
        )  # fmt: skip
    return values_of(base)


def configs(cls: Any) -> st.SearchStrategy[Any]:
    """Valid configs: a few fields at a time, as rules across fields refuse most of many."""
    hints = get_type_hints(cls, include_extras=True)
    fields = [f.name for f in dataclasses.fields(cls) if f.name not in ("env", "demand_csv")]

    @st.composite
    def draw_config(draw: Callable[..., Any]) -> Any:
        config = cls()
        for name in draw(st.lists(st.sampled_from(fields), max_size=6, unique=True)):
            try:
                config = dataclasses.replace(config, **{name: draw(values_of(hints[name]))})
            except ConfigError:
                continue
        return config

    return draw_config()


@pytest.mark.parametrize(
    "cls",
    [
        GRPOConfig,
        OnlineConfig,
        TrainSettings,
        GuardConfig,
        BattleshipConfig,
        AutoScalerConfig,
        LoadBalancerConfig,
    ],
)
@IN_FOLDER
@given(data=st.data())
def test_valid_settings_come_back_from_a_file(tmp_path: Path, cls: Any, data: Any) -> None:
    config = data.draw(configs(cls))
    assert from_mapping(cls, to_mapping(config), "mapping") == config
    save_yaml(config, tmp_path / "config.yaml")
    assert from_mapping(cls, load_yaml(tmp_path / "config.yaml"), "file") == config


def test_the_drawn_settings_differ() -> None:
    """Otherwise the test before would show little."""
    changed: set[str] = set()

    @settings(max_examples=300, database=None)
    @given(configs(GRPOConfig))
    def collect(config: GRPOConfig) -> None:
        default = GRPOConfig()
        names = [field.name for field in dataclasses.fields(config)]
        changed.update(n for n in names if getattr(config, n) != getattr(default, n))

    collect()
    assert len(changed) > 0.7 * len(dataclasses.fields(GRPOConfig))


# The state of a guard


def damaged(value: Any, data: st.DataObject) -> Any:
    """A JSON value with one of its parts replaced, removed or nested."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        name = data.draw(st.sampled_from(sorted(value)))
        if not data.draw(st.integers(0, 5)):
            return {key: item for key, item in value.items() if key != name}
        return {**value, name: damaged(value[name], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 4)):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], damaged(value[index], data), *value[index + 1 :]]
    return data.draw(junk)


junk = st.one_of(
    plain,
    st.sampled_from([-1, 2**63, 10**400, 1e308, float("inf"), float("nan"), [[]], {"": {}}]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_state_of_a_guard_is_refused_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    path = tmp_path / "guard.json"
    path.unlink(missing_ok=True)
    world = bench(state_path=path)
    world.steps(6)
    world.guard.close()
    state = state_file.read_state(path)
    assert state is not None
    state_file.write_state(path, damaged(state, data))
    try:
        world = bench(state_path=path)
    except GuardError as error:
        assert str(path) in str(error)
        return
    try:
        world.steps(12)
        world.guard.status()
    finally:
        world.guard.close()


@IN_FOLDER
@given(edits)
def test_any_bytes_of_a_guards_state_are_refused_or_harmless(
    tmp_path: Path, changes: list[tuple[float, str, bytes]]
) -> None:
    path = tmp_path / "guard.json"
    state = {"decisions": 3, "numbers": [1.5, None, True]}
    state_file.write_state(path, state)
    path.write_bytes(edited(path.read_bytes(), changes))
    try:
        assert state_file.read_state(path) == state
    except GuardError as error:
        assert str(path) in str(error)


# Results


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    point = {"steps": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0, "mean_return": 1.0}
    final = {"mean_return": 2.0, "sem": 0.1}
    training = {
        "settings": {}, "tuned": False, "parameters": 3, "policy_parameters": 3,
        "peak_memory_mb": None, "steps": 10, "cpu_seconds": 1.0, "wall_seconds": 1.0,
        "curve": [point, {**point, "steps": 10}], "final": final,
    }  # fmt: skip
    task = {"env": "CartPole-v1", "versions": {}, "machine": {}, "command": "compare"}
    return {"task": task, "ppo/seed 0": training, "baseline/random": final}


@IN_FOLDER
@given(data=st.data())
def test_any_results_are_read_or_refused(
    tmp_path: Path, results: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(damaged(results, data)))
    try:
        read_task(path)
    except ConfigError as error:
        assert str(path) in str(error)


@IN_FOLDER
@given(edits)
def test_any_bytes_of_results_are_read_or_refused(
    tmp_path: Path, results: dict[str, Any], changes: list[tuple[float, str, bytes]]
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(edited(json.dumps(results).encode(), changes))
    try:
        read_task(path)
    except ConfigError as error:
        assert str(path) in str(error)
