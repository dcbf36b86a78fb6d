"""YAML files of settings: plain types only, with the numbers and booleans of YAML 1.2.

`3e-4` is a number; `on`, `12:30` and `2024-01-01` are strings; a key may occur once.

PyYAML with these rules rather than ruamel.yaml, which writes `on`, `12:30` and `1e-05` unquoted, so
that YAML 1.1 readers take them for other values, and reads `2024-01-01` as a date.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from grpo_gym.settings.config import to_mapping
from grpo_gym.settings.errors import ConfigError
from grpo_gym.storage.files import write_atomic

_FLOAT = re.compile(
    r"""(?: [-+]? (?: (?: [0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]* ) (?:[eE][-+]?[0-9]+)?
                  | [0-9][0-9_]*[eE][-+]?[0-9]+
                  | \.(?:inf|Inf|INF) )
        | \.(?:nan|NaN|NAN) )\Z""",
    re.VERBOSE,
)
_PLAIN = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z"),
    "float": _FLOAT,
}
"""Which unquoted text is not a string, by tag."""


_LARGEST_FILE = 1_000_000
"""Bytes in a file of settings."""
_MOST_VALUES, _DEEPEST = 100_000, 100
"""Values in a file, each alias counted as what it stands for, and their nesting."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {*_PLAIN, "str", "seq", "map"}
    }

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                problem = f"{key.value!r} occurs twice: keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader`, or any other YAML reader, would take for something else."""


def _represent_text(dumper: _Dumper, value: str) -> yaml.Node:
    # Only double quotes keep line breaks and control characters.
    style = None if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


for _tag, _pattern in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, None)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: If the file is missing, is not YAML (with the line), has a key twice, is not a
            mapping, or is larger than settings are.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}: check the path") from error
    if len(text) > _LARGEST_FILE:
        raise ConfigError(f"{path} must have at most {_LARGEST_FILE:,} bytes, as settings have")
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        found = "an empty file" if values is None else repr(values)
        raise ConfigError(f"{path} must be a mapping of settings (name: value), got {found}")
    return values


def save_yaml(config: Any, path: str | os.PathLike[str]) -> None:
    """Write a config or a mapping as YAML, atomically, so that `load_yaml` reads the same values.

    Parent folders are created.

    Raises:
        ConfigError: If a value cannot be said in YAML or the file cannot be written.
    """
    try:
        write_atomic(path, to_yaml(config).encode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot write {path}: {reason}") from error


def to_yaml(config: Any) -> str:
    """Return a config or a mapping of plain values as YAML.

    Raises:
        ConfigError: If a value cannot be written in YAML.
    """
    text: str = yaml.dump(
        to_mapping(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def parse_value(text: str) -> Any:
    """Read the VALUE of NAME=VALUE: a number, true, null, a string, [a, list] or {a: mapping}.

    Raises:
        ConfigError: If the text is broken YAML, such as a list that is not closed.
    """
    value = _parse(text, f"value {text!r}")
    # To YAML, empty text and a colour such as #ff0000 are comments.
    is_comment = value is None and text.strip() not in {"~", "null", "Null", "NULL"}
    return text if is_comment else value


def _parse(text: str | bytes, source: str) -> Any:
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise ConfigError(f"{source}: {place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read as YAML: {error}") from error
    _check_size(values, source)
    return values


def _check_size(values: Any, source: str) -> None:
    """Refuse aliases that stand for ever more, or for themselves.

    Raises:
        ConfigError: If there are too many values, or they are nested too deeply.
    """
    count, pending = 0, [(values, 1)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ConfigError(
                f"{source} must have at most {_MOST_VALUES:,} values, nested at most {_DEEPEST} "
                "deep: look for an alias (*name)"
            )
        if isinstance(value, dict):
            pending += [(each, depth + 1) for each in (*value, *value.values())]
        elif isinstance(value, list):
            pending += [(each, depth + 1) for each in value]
