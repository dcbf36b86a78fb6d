"""Settings as frozen dataclasses: checked when made, read from YAML and written back exactly.

A config class is `@dataclass(frozen=True, kw_only=True)` and calls `check_fields(self)` first in
its `__post_init__`. Its annotations are the rules: `Annotated[int, Range(2)]`, `Literal[...]`,
`float | None`, `tuple[int, ...]`, `dict[str, Any]`, another config class. Imports no torch.
"""

import contextlib
import dataclasses
import difflib
import glob
import math
import numbers
import os
import re
import secrets
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import yaml

if sys.platform != "win32":
    import fcntl

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A setting, or a file of settings, that cannot be used; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The allowed interval of a number, as metadata: `Annotated[float, Range(0.0, 1.0)]`."""

    minimum: float | None = None
    """Smallest allowed value; None leaves this side open."""
    maximum: float | None = None
    """Largest allowed value; None leaves this side open."""
    exclusive_minimum: bool = False
    """Whether `minimum` itself is refused."""
    exclusive_maximum: bool = False
    """Whether `maximum` itself is refused."""

    def __contains__(self, value: float) -> bool:
        """Whether the number lies inside."""
        if self.minimum is not None and (
            value < self.minimum or (self.exclusive_minimum and value == self.minimum)
        ):
            return False
        return self.maximum is None or not (
            value > self.maximum or (self.exclusive_maximum and value == self.maximum)
        )

    def __str__(self) -> str:
        """The rule in an error message, such as `> 0 and <= 1`."""
        lower = f"{'>' if self.exclusive_minimum else '>='} {self.minimum}"
        upper = f"{'<' if self.exclusive_maximum else '<='} {self.maximum}"
        sides = [(self.minimum, lower), (self.maximum, upper)]
        return " and ".join(text for bound, text in sides if bound is not None)


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
            checked = _check(field.name, value, annotations[field.name], source=None)
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
    checked = {key: _check(key, value, annotations[key], source) for key, value in values.items()}
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
    values = _parse_yaml(text, str(path))
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
        text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        write_atomic(path, text.encode())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error


def parse_value(text: str) -> Any:
    """Read the VALUE of a KEY=VALUE argument: a number, true, null, a string, [a, list], {a: dict}.

    Raises:
        ConfigError: If the text is broken YAML, such as a list that is not closed.
    """
    value = _parse_yaml(text, f"value {text!r}")
    # YAML takes nothing at all, and a colour such as #ff0000, for a comment.
    is_comment = value is None and text.strip() not in {"~", "null", "Null", "NULL"}
    return text if is_comment else value


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or the list of all if none is near."""
    valid = list(candidates)
    nearest = _nearest(name, valid)
    return nearest or (f" Choose from: {', '.join(valid)}." if valid else "")


def _nearest(name: str, candidates: Iterable[str]) -> str:
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def _refuse_unknown(cls: type, names: Iterable[Any], prefix: str) -> None:
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in names:
        if name not in known:
            hint = suggest(str(name), known)
            raise ConfigError(f"{prefix}{name!r} is not a setting of {cls.__name__}.{hint}")


class _MismatchError(Exception):
    """A value that breaks its annotation's rule; `_check` turns it into a ConfigError."""

    def __init__(self, rule: str, value: Any, hint: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.value = value
        self.hint = hint
        self.position = ""


def _check(name: str, value: Any, annotation: Any, source: str | None) -> Any:
    """Return the value as its annotation's type; a source allows text for numbers and mappings."""
    prefix = f"{source}: " if source else ""
    try:
        return _convert(value, annotation, f"{prefix}{name}" if source else None)
    except _MismatchError as error:
        found = f"{name}{error.position} must be {error.rule}, got {error.value!r}"
        raise ConfigError(f"{prefix}{found}{error.hint}") from None


def _convert(value: Any, annotation: Any, source: str | None) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _within_ranges(_convert(value, arguments[0], source), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, source)
    if origin is Literal:
        return _convert_literal(value, arguments)
    if origin is tuple:
        return _convert_tuple(value, arguments, source)
    if origin is dict:
        return _convert_dict(value, arguments, source)
    if annotation in _SCALARS:
        return _SCALARS[annotation](value, source is not None)
    if dataclasses.is_dataclass(annotation):
        return _convert_nested(value, annotation, source)
    if annotation is Any:
        return value
    raise TypeError(f"config annotation must be a supported type, got {annotation!r}")


def _within_ranges(value: Any, metadata: tuple[Any, ...]) -> Any:
    for allowed in metadata:
        is_text_or_none = isinstance(value, str | None)
        if isinstance(allowed, Range) and not is_text_or_none and value not in allowed:
            raise _MismatchError(str(allowed), value)
    return value


def _convert_union(value: Any, arms: tuple[Any, ...], source: str | None) -> Any:
    # The arm of the value's own type goes first, so that 3.0 stays a float in `int | float`.
    ordered = sorted(arms, key=lambda arm: type(value) is not _runtime_type(arm))
    problems = []
    for arm in ordered:
        try:
            return _convert(value, arm, source)
        except _MismatchError as error:
            if error.position:
                raise
            problems.append(error)
    rules = [problem.rule for problem in sorted(problems, key=lambda each: each.rule == "None")]
    hint = next((problem.hint for problem in problems if problem.hint), "")
    raise _MismatchError(" or ".join(rules), value, hint)


def _runtime_type(annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return typing.get_origin(annotation) or annotation


def _convert_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        # 1 == True, but nobody who writes one means the other.
        if type(choice) is type(value) and choice == value:
            return choice
    near = _nearest(value, map(str, choices)) if isinstance(value, str) else ""
    rule = "one of " if len(choices) > 1 else ""
    raise _MismatchError(rule + ", ".join(map(repr, choices)), value, near and f".{near}")


def _convert_tuple(value: Any, arguments: tuple[Any, ...], source: str | None) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _MismatchError("a list", value, "" if value is None else f": write [{value}]")
    elements = arguments
    if arguments[1:] == (...,):
        elements = (arguments[0],) * len(value)
    if len(value) != len(elements):
        raise _MismatchError(f"a list of {len(elements)} values", value)
    converted = []
    for index, (element, annotation) in enumerate(zip(value, elements, strict=True)):
        with _position(f"[{index}]"):
            converted.append(_convert(element, annotation, source))
    return tuple(converted)


def _convert_dict(value: Any, arguments: tuple[Any, ...], source: str | None) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _MismatchError("a mapping", value)
    converted = {}
    for key, element in value.items():
        with _position(f"[{key!r}]"):
            converted[_convert(key, arguments[0], None)] = _convert(element, arguments[1], source)
    return converted


@contextlib.contextmanager
def _position(position: str) -> Iterator[None]:
    """Say where in a list or mapping the value lies that breaks its rule."""
    try:
        yield
    except _MismatchError as error:
        error.position = position + error.position
        raise


def _convert_nested(value: Any, cls: Any, source: str | None) -> Any:
    if isinstance(value, cls):
        return value
    if source is not None and isinstance(value, Mapping):
        return from_mapping(cls, value, source)
    raise _MismatchError(f"a config of type {cls.__name__}", value)


def _convert_bool(value: Any, _: bool) -> bool:
    if isinstance(value, bool):
        return value
    raise _MismatchError("true or false", value)


def _convert_int(value: Any, allow_text: bool) -> int:
    number = _number_from_text(value) if allow_text else value
    if isinstance(number, numbers.Integral) and not isinstance(number, bool):
        return int(number)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    raise _MismatchError("an integer", value)


def _convert_float(value: Any, allow_text: bool) -> float:
    number = _number_from_text(value) if allow_text else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise _MismatchError("a number", value)
    try:
        converted = float(number)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise _MismatchError("a finite number", value)
    return converted


def _number_from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(value)
    return value


def _convert_str(value: Any, _: bool) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    raise _MismatchError("a string", value, ": put it in quotes")


def _convert_none(value: Any, allow_text: bool) -> None:
    if value is not None and not (allow_text and value == "None"):
        raise _MismatchError("None", value)


_SCALARS: dict[Any, Callable[[Any, bool], Any]] = {
    bool: _convert_bool,
    int: _convert_int,
    float: _convert_float,
    str: _convert_str,
    types.NoneType: _convert_none,
}


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


class _Loader(yaml.SafeLoader):
    """YAML's plain types only, with the numbers and booleans of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":null", ":bool", ":int", ":float", ":str", ":seq", ":map"))
    }

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is said twice: keep one", problem_mark=key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader`, or any other YAML reader, would not take for the same string."""

    def represent_text(self, value: str) -> yaml.Node:
        # Only double quotes keep line breaks and control characters as they are.
        style = None if value.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style)

    def represent_flow_list(self, value: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_FLOAT = re.compile(
    r"""(?: [-+]? (?: (?: [0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]* ) (?:[eE][-+]?[0-9]+)?
                  | [0-9][0-9_]*[eE][-+]?[0-9]+
                  | \.(?:inf|Inf|INF) )
        | \.(?:nan|NaN|NAN) )\Z""",
    re.VERBOSE,
)
for _tag, _pattern in {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z"),
    "float": _FLOAT,
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, None)
_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_flow_list)


def _parse_yaml(text: str | bytes, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise ConfigError(f"{source}: {place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read as YAML: {error}") from error


def write_atomic(path: str | os.PathLike[str], *chunks: bytes | memoryview) -> None:
    """Replace a file as a whole: at every moment a reader finds the old content or the new.

    Parent folders are created. What a killed writer left behind for this file is removed.

    Args:
        path: The file.
        chunks: Its content, written one after the other.

    Raises:
        OSError: If it cannot be written; the old file is then intact and nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a folder or a device, not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path.parent} is not a folder") from error
    _remove_stale_temporaries(path)
    temporary, file = _open_temporary(path)
    try:
        with file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # Some file systems cannot flush a folder; the content itself is already safe.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new hidden file beside the target; its lock, which dies with us, says we live."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        # Another writer may have taken it for stale before it was locked.
        if temporary.exists():
            return temporary, file
        file.close()


def _remove_stale_temporaries(path: Path) -> None:
    """Remove temporary files of this target that no living writer holds."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"
    for temporary in path.parent.glob(pattern):
        with contextlib.suppress(OSError), temporary.open("rb") as file:
            if sys.platform == "win32":
                file.close()
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
