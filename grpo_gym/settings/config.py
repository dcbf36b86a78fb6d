"""Settings as frozen dataclasses: checked when made, read from YAML and written back exactly.

A config class is `@dataclass(frozen=True, kw_only=True)` and calls `check_fields(self)` first in
its `__post_init__`. Its annotations are the rules: `Annotated[int, Range(2)]`, `Literal[...]`,
`float | None`, `tuple[int, ...]`, `dict[str, Any]`, another config class. Imports no torch.
"""

import dataclasses
import numbers
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from grpo_gym.settings.errors import ConfigError, suggest
from grpo_gym.settings.fields import Range, check_value
from grpo_gym.settings.yaml_files import Dumper, parse_yaml
from grpo_gym.storage.files import write_atomic

__all__ = [
    "ConfigError",
    "Range",
    "check_fields",
    "from_mapping",
    "load_yaml",
    "parse_value",
    "replace",
    "save_yaml",
    "suggest",
    "to_mapping",
]

Config = TypeVar("Config")


def check_fields(config: Any) -> None:
    """Check every field of a config against its annotation; call it first in `__post_init__`.

    Harmless differences are normalised in place: 1 to 1.0 for a float, 1e6 to 1000000 for an int,
    a list to a tuple, a mapping to a dict of its own.

    Args:
        config: The dataclass instance, frozen or not.

    Raises:
        ConfigError: At the first field whose value breaks its rule; nan and inf always do.
        TypeError: If an annotation is of a kind that configs do not support.
    """
    annotations = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        if field.init:
            value = getattr(config, field.name)
            checked = check_value(field.name, value, annotations[field.name], source=None)
            object.__setattr__(config, field.name, checked)


def from_mapping(cls: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """Build a config from plain values, as read from YAML or a command line.

    Text that looks like a number ("3e-4") is taken as one where a number is expected.

    Args:
        cls: The config class.
        values: Field names and values; mappings for nested configs. Absent names get defaults.
        source: Where the values come from, for error messages; usually a path.

    Returns:
        The checked config.

    Raises:
        ConfigError: If a name is unknown or missing, or a value breaks its field's rule.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} must be a mapping of settings, got {values!r}")
    _refuse_unknown(cls, values, f"{source}: ")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        defaults = (field.default, field.default_factory)
        if field.init and field.name not in values and defaults == (dataclasses.MISSING,) * 2:
            raise ConfigError(f"{source}: {field.name} is required: {cls.__name__} has no default")
    annotations = typing.get_type_hints(cls, include_extras=True)
    checked = {
        key: check_value(key, value, annotations[key], source) for key, value in values.items()
    }
    try:
        return cls(**checked)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def replace(config: Config, **changes: Any) -> Config:
    """Return a copy of a config with some fields changed, and all of it checked again.

    Raises:
        ConfigError: If a name is unknown or a value breaks its field's rule.
    """
    _refuse_unknown(type(config), changes, "")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as plain YAML types: dicts, lists, strings, numbers, booleans and None.

    Raises:
        ConfigError: If a `dict[str, Any]` field holds something that YAML cannot say.
    """
    plain: dict[str, Any] = _plain(config, type(config).__name__)
    return plain


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Numbers and booleans are read as in YAML 1.2: `3e-4` is a number; `on`, `12:30` and
    `2024-01-01` are strings.

    Raises:
        ConfigError: If the file is missing, is not YAML (with the line), says a key twice, or is
            not a mapping.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}: check the path") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        found = "an empty file" if values is None else repr(values)
        raise ConfigError(f"{path} must be a mapping of settings (name: value), got {found}")
    return values


def save_yaml(config: Any, path: str | os.PathLike[str]) -> None:
    """Write a config or a mapping as YAML, atomically, so that `load_yaml` reads the same values.

    Args:
        config: A config, or a mapping of plain values.
        path: The file; parent folders are created.

    Raises:
        ConfigError: If a value cannot be said in YAML or the file cannot be written.
    """
    plain = _plain(config, type(config).__name__)
    try:
        text = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
        write_atomic(path, text.encode())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error


def parse_value(text: str) -> Any:
    """Read the VALUE of a KEY=VALUE argument: a number, true, null, a string, [a, list], {a: dict}.

    Raises:
        ConfigError: If the text is broken YAML, such as a list that is not closed.
    """
    value = parse_yaml(text, f"value {text!r}")
    # YAML takes nothing at all, and a colour such as #ff0000, for a comment.
    is_comment = value is None and text.strip() not in {"~", "null", "Null", "NULL"}
    return text if is_comment else value


def _refuse_unknown(cls: type, names: Iterable[Any], prefix: str) -> None:
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in names:
        if name not in known:
            hint = suggest(str(name), known)
            raise ConfigError(f"{prefix}{name!r} is not a setting of {cls.__name__}.{hint}")


def _plain(value: Any, name: str) -> Any:
    """Return the value in plain YAML types; `name` says in an error where it lies."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return {field: _plain(getattr(value, field), f"{name}.{field}") for field in fields}
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise ConfigError(f"{name} must be a number, text, list or mapping for YAML, got {value!r}")
