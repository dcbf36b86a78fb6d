"""Settings as frozen dataclasses, checked by pydantic when they are made.

    @checked_dataclass
    class Settings:
        group_size: Annotated[Integer, Field(ge=2)] = 16
        scale: Literal["none", "group"] = "none"

Imports no torch.
"""

import dataclasses
import functools
import numbers
from collections.abc import Mapping
from typing import Any, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import ConfigDict, TypeAdapter, ValidationError

from grpo_gym.settings.errors import ConfigError, explain

Config = TypeVar("Config")

_CHECKS = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def checked_dataclass(cls: type[Config]) -> type[Config]:
    """Make a class a frozen dataclass with keyword arguments whose fields are checked.

    Harmless differences are normalised: 1 to 1.0 for a float, 1e6 and "8" to an int, a list to
    a tuple, a mapping to a nested config or a copy of its own. `dataclasses.replace` checks again.

    Making an instance raises ConfigError if a name is missing, if a value breaks its annotation's
    rule (nan and inf always do), or if `__post_init__` raises a ValueError; UnknownSettingError if
    a name is unknown.
    """
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CHECKS)
    checked = cast(Any, make(cls))
    initialise = checked.__init__

    @functools.wraps(initialise)
    def checked_init(self: Any, **values: Any) -> None:
        try:
            initialise(self, **values)
        except ValidationError as error:
            raise explain(error, values, checked) from None

    checked.__init__ = checked_init
    return cast(type[Config], checked)


def check_value(name: str, value: Any, annotation: Any) -> Any:
    """Return a value as the type of an annotation that a field of a config could have.

    Raises:
        ConfigError: If the value breaks the annotation's rule.
    """
    values = {name: value}
    try:
        checked = TypeAdapter(dict[str, annotation], config=_CHECKS).validate_python(values)
    except ValidationError as error:
        raise explain(error, values) from None
    return checked[name]


def from_mapping(cls: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """Build a config from plain values by field, as read from YAML or a command line.

    Nested configs are mappings; absent names get defaults.

    Raises:
        ConfigError: If a name is missing, or a value breaks its field's rule. The message begins
            with the source of the values, usually a path.
        UnknownSettingError: If a name is unknown.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} must be a mapping of settings, got {values!r}")
    try:
        return cls(**{str(name): value for name, value in values.items()})
    except ConfigError as error:
        error.args = (f"{source}: {error}",)
        raise


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config, or a mapping, in plain YAML types.

    Those are dicts, lists, strings, numbers, booleans and None.

    Raises:
        ConfigError: If a value is of another type.
    """
    plain: dict[str, Any] = _plain(config, type(config).__name__)
    return plain


def _plain(value: Any, name: str) -> Any:
    """Return a value in plain YAML types; `name` says in an error where it lies."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {field: _plain(getattr(value, field), f"{name}.{field}") for field in fields}
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise ConfigError(f"{name} must be a number, text, list or mapping for YAML, got {value!r}")
