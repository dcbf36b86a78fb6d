import dataclasses
import errno
import math
import os
import subprocess
import sys
import threading
from dataclasses import field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Integer,
    NoFlag,
    NonNegative,
    Number,
    PositiveFraction,
    check_value,
    checked_dataclass,
    from_mapping,
    load_yaml,
    parse_value,
    save_yaml,
    suggest,
    to_mapping,
)
from grpo_gym.storage import files as files_module
from grpo_gym.storage.files import write_atomic


@checked_dataclass
class Optimizer:
    learning_rate: PositiveFraction = 3e-4


@checked_dataclass
class Example:
    group_size: Annotated[Integer, Field(ge=2)] = 8
    gamma: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    target_kl: NonNegative | None = None
    scale: Literal["none", "group"] = "none"
    clip: Number | Literal["off"] = 0.2
    either: Number | Integer = 1
    decay: NonNegative | tuple[NonNegative, ...] = 0.5
    whitened: Flag = False
    layers: Annotated[Literal[1, 2], NoFlag] = 1
    name: str = "run"
    hidden_sizes: tuple[Count, ...] = (64, 64)
    betas: tuple[Number, Number] = (0.9, 0.999)
    options: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Number] | None = None
    optimizer: Optimizer = Optimizer()

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("name must not be 'forbidden'")


@checked_dataclass
class Required(Optimizer):
    seed: Integer


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("group_size", 1e6, 1_000_000),
        ("group_size", np.int64(4), 4),
        ("gamma", 0, 0.0),
        ("gamma", np.float32(0.25), 0.25),
        ("gamma", Fraction(1, 4), 0.25),
        ("target_kl", None, None),
        ("target_kl", 1, 1.0),
        ("clip", "off", "off"),
        ("clip", 1, 1.0),
        ("either", 3, 3),
        ("either", 3.0, 3.0),
        ("group_size", "8", 8),
        ("group_size", "1e1", 10),
        ("gamma", "3e-4", 3e-4),
        ("decay", [1, 2], (1.0, 2.0)),
        ("name", np.str_("a"), "a"),
        ("name", "12", "12"),
        ("hidden_sizes", [32, 16.0], (32, 16)),
        ("hidden_sizes", [], ()),
        ("betas", [0, 1], (0.0, 1.0)),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("options", {"a": [1, None]}, {"a": [1, None]}),
        ("optimizer", {"learning_rate": "1e-3"}, Optimizer(learning_rate=1e-3)),
    ],
)
def test_harmless_differences_are_normalised(name: str, value: Any, expected: Any) -> None:
    found = getattr(Example(**{name: value}), name)
    assert (found, type(found)) == (expected, type(expected))
    if isinstance(expected, tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("group_size", 1, "group_size must be >= 2, got 1"),
        ("group_size", True, "group_size must be an integer, got True"),
        ("layers", True, "layers must be an integer, got True"),
        ("group_size", 2.5, "group_size must be an integer, got 2.5"),
        ("group_size", math.inf, "group_size must be a finite number, got inf"),
        ("group_size", "many", "group_size must be an integer, got 'many'"),
        ("group_size", None, "group_size must be an integer, got None"),
        ("gamma", 1.0, "gamma must be < 1, got 1.0"),
        ("gamma", math.nan, "gamma must be a finite number, got nan"),
        ("gamma", -math.inf, "gamma must be a finite number, got -inf"),
        ("gamma", 10**400, "gamma must be a number, got 1000"),
        ("gamma", False, "gamma must be a number, got False"),
        ("target_kl", -0.1, "target_kl must be >= 0, got -0.1"),
        ("target_kl", math.nan, "target_kl must be a finite number, got nan"),
        (
            "scale",
            "grup",
            "scale must be one of 'none', 'group', got 'grup'. Did you mean 'group'?",
        ),
        ("scale", None, "scale must be one of 'none', 'group', got None"),
        ("clip", "of", "clip must be a number or 'off', got 'of'. Did you mean 'off'?"),
        ("decay", "x", "decay must be a number or a list, got 'x'"),
        ("decay", -1, "decay must be >= 0 or a list, got -1"),
        ("decay", [0, -1], "decay[1] must be >= 0, got -1"),
        ("whitened", 1, "whitened must be true or false, got 1"),
        ("name", 5, "name must be a string, got 5: put it in quotes"),
        ("hidden_sizes", 64, "hidden_sizes must be a list, got 64: write [64]"),
        ("hidden_sizes", "64", "hidden_sizes must be a list, got '64'"),
        ("hidden_sizes", (64, 0), "hidden_sizes[1] must be >= 1, got 0"),
        ("hidden_sizes", [True], "hidden_sizes[0] must be an integer, got True"),
        ("betas", (0.9,), "betas must be a list of 2 values, got (0.9,)"),
        ("betas", (0.9, 1, 2), "betas must be a list of 2 values, got (0.9, 1, 2)"),
        ("betas", (0.9, "x"), "betas[1] must be a number, got 'x'"),
        ("options", [1], "options must be a mapping, got [1]"),
        ("options", {1: 2}, "options[1] must be a string, got 1"),
        ("weights", {"a": "x"}, "weights.a must be a number, got 'x'"),
        (
            "optimizer",
            0.1,
            "optimizer must be of type Optimizer or a mapping of its settings, got 0.1",
        ),
    ],
)
def test_a_broken_rule_names_field_rule_and_value(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Example(**{name: value})
    assert str(caught.value).startswith(message)


def test_configs_own_their_mappings_and_stay_frozen() -> None:
    options = {"a": 1}
    config = Example(options=options)
    options["a"] = 2
    assert config.options == {"a": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gamma = 0.1  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Example(8)  # type: ignore[call-arg]


def test_check_value_names_the_value() -> None:
    assert check_value("percentage", "5e1", NonNegative) == 50.0
    with pytest.raises(ConfigError, match=r"^settings\['gamma'\] must be >= 0, got -1$"):
        check_value("settings['gamma']", -1, NonNegative)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            Example,
            {"grop_size": 4},
            "x.yaml: 'grop_size' is not a setting of Example. Did you mean 'group_size'?",
        ),
        (Example, {1: 4}, "x.yaml: '1' is not a setting of Example. Choose from: group_size,"),
        (Example, {"group_size": "many"}, "x.yaml: group_size must be an integer, got 'many'"),
        (Example, {"gamma": "nan"}, "x.yaml: gamma must be a finite number, got 'nan'"),
        (Example, {"name": "forbidden"}, "x.yaml: name must not be 'forbidden'"),
        (
            Example,
            {"optimizer": {"learning_rate": 0}},
            "x.yaml: optimizer.learning_rate must be > 0, got 0",
        ),
        (
            Example,
            {"optimizer": {"lerning_rate": 1}},
            "x.yaml: 'optimizer.lerning_rate' is not a setting of Optimizer. "
            "Did you mean 'learning_rate'?",
        ),
        (Example, [1], "x.yaml must be a mapping of settings, got [1]"),
        (Required, {}, "x.yaml: seed is required"),
    ],
)
def test_from_mapping_errors_name_the_source(cls: Any, values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, values, "x.yaml")
    assert str(caught.value).startswith(message)


def test_replace_checks_names_and_values() -> None:
    assert dataclasses.replace(Example(), group_size=4).group_size == 4
    with pytest.raises(
        ConfigError, match=r"'grop_size' is not a setting.*Did you mean 'group_size'\?"
    ):
        dataclasses.replace(Example(), grop_size=4)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="group_size must be >= 2, got 1"):
        dataclasses.replace(Example(), group_size=1)


def test_to_mapping_has_plain_types_only() -> None:
    mapping = to_mapping(Example(options={"a": (1, np.float32(0.5)), "b": Optimizer()}))
    assert mapping["hidden_sizes"] == [64, 64]
    assert mapping["options"] == {"a": [1, 0.5], "b": {"learning_rate": 3e-4}}
    assert yaml.safe_load(yaml.safe_dump(mapping)) == mapping
    with pytest.raises(ConfigError, match=r"Example\.options\['a'\]\[0\] must be a number.*Path"):
        to_mapping(Example(options={"a": [Path("x")]}))


def test_suggest() -> None:
    assert suggest("Grop-Size", ["gamma", "group_size"]) == " Did you mean 'group_size'?"
    assert suggest("xyz", iter(["gamma", "seed"])) == " Choose from: gamma, seed."
    assert suggest("xyz", []) == ""


# YAML

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | finite | st.text()
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0."""
    return repr(left) == repr(right)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text() | st.integers(), trees))
@example({"a": "3e-4", "b": "1e6", "c": "on", "d": "12:30", "e": "2024-01-01", "f": "", "g": "~"})
@example(
    {
        "a": 3e-4,
        "b": 1e22,
        "c": 5e-324,
        "d": -0.0,
        "e": 1e6,
        "f": "\x85\u2028 \ufeff\n\ud800",
        "g": "010",
    }
)
def test_yaml_round_trip_is_exact(tmp_path_factory: Any, tree: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    save_yaml(tree, path)
    assert same(load_yaml(path), tree)
    # Files that we write mean the same to every other YAML reader.
    assert same(yaml.safe_load(path.read_bytes()), tree)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Example,
        group_size=st.integers(2, 2**63 - 1),
        gamma=st.floats(0, 1, exclude_max=True),
        target_kl=st.none() | st.floats(0, 1e300),
        clip=st.just("off") | finite,
        either=st.integers(-(2**63), 2**63 - 1) | finite,
        name=st.text().filter(lambda text: text != "forbidden"),
        hidden_sizes=st.lists(st.integers(1, 2**63 - 1)),
        options=st.dictionaries(st.text(), trees),
        optimizer=st.builds(Optimizer, learning_rate=st.floats(1e-300, 1)),
    )
)
def test_config_round_trip_is_exact(tmp_path_factory: Any, config: Example) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    save_yaml(config, path)
    assert same(from_mapping(Example, load_yaml(path), str(path)), config)


def test_saved_yaml_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "config.yaml"
    save_yaml(Example(gamma=1e-5, name="é"), path)
    text = path.read_text("utf-8")
    assert "gamma: 1.0e-05\n" in text
    assert "hidden_sizes: [64, 64]\n" in text
    assert "name: é\n" in text
    assert text.startswith("group_size: 8\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1,\n", "line 3, column 1: "),
        (b"a: 1\nb: 2\n'a': 3\n", "line 3, column 1: 'a' occurs twice: keep one"),
        (b"o:\n  x: 1\n  x: 1\n", "line 3, column 3: 'x' occurs twice"),
        (b"- 1\n", "must be a mapping of settings (name: value), got [1]"),
        (b"# nothing\n", "must be a mapping of settings (name: value), got an empty file"),
        (b"a: 1\n---\nb: 1\n", "line 2, column 1: "),
        (b"a: !!python/object/apply:os.system [ls]\n", "line 1, column 4: "),
        (b"a: !!timestamp x\n", "line 1, column 4: "),
        (b"a: !!int x\n", "cannot be read as YAML"),
        (b"a: !!bool x\n", "cannot be read as YAML"),
        (b"a: " + b"9" * 5000, "cannot be read as YAML"),
        (b"a: " + b"[" * 5000, "cannot be read as YAML"),
        (b"\xff\xfe\xfd", "cannot be read as YAML"),
        (b"a: \x00", "cannot be read as YAML"),
        (b"? [a]\n: 1\n", "line 1, column 3: "),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_unreadable_and_unwritable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load_yaml(tmp_path)
    with pytest.raises(ConfigError, match="cannot write"):
        save_yaml({}, tmp_path)
    with pytest.raises(ConfigError, match="must be a number, text, list or mapping"):
        save_yaml({"a": {1, 2}}, tmp_path / "a.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e6", 1e6),
        ("3e-4", 3e-4),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("010", "010"),
        ("true", True),
        ("off", "off"),
        ("null", None),
        ("", ""),
        ("#ff0000", "#ff0000"),
        ("12:30", "12:30"),
        ("localhost:80", "localhost:80"),
        ("2024-01-01", "2024-01-01"),
        ("[64, 1e3, a]", [64, 1e3, "a"]),
        ("{a: 1}", {"a": 1}),
        ("'1'", "1"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
    ],
)
def test_parse_value(text: str, expected: Any) -> None:
    assert same(parse_value(text), expected)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text("[]{}:,'\"!&*-?|>%@#0e.\n ", max_size=12))
def test_parse_value_gives_a_plain_value_or_a_config_error(text: str) -> None:
    try:
        value = parse_value(text)
    except ConfigError:
        return
    plain = (str, int, float, bool, list, dict, type(None))
    assert isinstance(value, plain)


# Files


def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    save_yaml({"a": 1}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        save_yaml({"a": 2}, path)
    assert load_yaml(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_stale_temporary_files_of_this_target_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a[1].yaml"
    stale = tmp_path / ".a[1].yaml.0123abcd.tmp"
    others = [tmp_path / ".a[1].yaml.tmp", tmp_path / ".a1.yaml.0123abcd.tmp", tmp_path / "b.tmp"]
    for file in [stale, *others]:
        file.touch()
    write_atomic(path, b"x")
    assert set(tmp_path.iterdir()) == {path, *others}


def test_concurrent_writers_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    failures: list[Exception] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(50):
                write_atomic(path, content, content)
        except OSError as error:
            failures.append(error)

    contents = [bytes([number]) * 10_000 for number in range(4)]
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in [content * 2 for content in contents]
    assert list(tmp_path.iterdir()) == [path]


def test_devices_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a folder or a device"):
        write_atomic(pipe, b"x")
    assert pipe.is_fifo()


def test_import_is_light() -> None:
    code = "import sys, grpo_gym.settings; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
