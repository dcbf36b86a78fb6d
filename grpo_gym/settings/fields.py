"""The rules that annotations are: whether a value fits, and what it becomes.

`Annotated[int, Range(2)]`, `Literal[...]`, unions, tuples, dicts, and config classes.
"""

import contextlib
import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from grpo_gym.settings.errors import ConfigError, nearest


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
        sides = []
        # 0 and 0.0 are the same rule, and typing keeps only one of two equal annotations.
        if self.minimum is not None:
            sides.append(f"{'>' if self.exclusive_minimum else '>='} {self.minimum:g}")
        if self.maximum is not None:
            sides.append(f"{'<' if self.exclusive_maximum else '<='} {self.maximum:g}")
        return " and ".join(sides)


class MismatchError(Exception):
    """A value that breaks its annotation's rule; `check_value` turns it into a ConfigError."""

    def __init__(self, rule: str, value: Any, hint: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.value = value
        self.hint = hint
        self.position = ""


def check_value(name: str, value: Any, annotation: Any, source: str | None) -> Any:
    """Return the value as its annotation's type; a source allows text for numbers and mappings."""
    prefix = f"{source}: " if source else ""
    try:
        return _convert(value, annotation, f"{prefix}{name}" if source else None)
    except MismatchError as error:
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
            raise MismatchError(str(allowed), value)
    return value


def _convert_union(value: Any, arms: tuple[Any, ...], source: str | None) -> Any:
    # The arm of the value's own type goes first, so that 3.0 stays a float in `int | float`.
    ordered = sorted(arms, key=lambda arm: type(value) is not _runtime_type(arm))
    problems = []
    for arm in ordered:
        try:
            return _convert(value, arm, source)
        except MismatchError as error:
            if error.position:
                raise
            problems.append(error)
    rules = [problem.rule for problem in sorted(problems, key=lambda each: each.rule == "None")]
    hint = next((problem.hint for problem in problems if problem.hint), "")
    raise MismatchError(" or ".join(rules), value, hint)


def _runtime_type(annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return typing.get_origin(annotation) or annotation


def _convert_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        # 1 == True, but nobody who writes one means the other.
        if type(choice) is type(value) and choice == value:
            return choice
    near = nearest(value, map(str, choices)) if isinstance(value, str) else ""
    rule = "one of " if len(choices) > 1 else ""
    raise MismatchError(rule + ", ".join(map(repr, choices)), value, near and f".{near}")


def _convert_tuple(value: Any, arguments: tuple[Any, ...], source: str | None) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MismatchError("a list", value, "" if value is None else f": write [{value}]")
    elements = arguments
    if arguments[1:] == (...,):
        elements = (arguments[0],) * len(value)
    if len(value) != len(elements):
        raise MismatchError(f"a list of {len(elements)} values", value)
    converted = []
    for index, (element, annotation) in enumerate(zip(value, elements, strict=True)):
        with _position(f"[{index}]"):
            converted.append(_convert(element, annotation, source))
    return tuple(converted)


def _convert_dict(value: Any, arguments: tuple[Any, ...], source: str | None) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise MismatchError("a mapping", value)
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
    except MismatchError as error:
        error.position = position + error.position
        raise


def _convert_nested(value: Any, cls: Any, source: str | None) -> Any:
    if isinstance(value, cls):
        return value
    if source is not None and isinstance(value, Mapping):
        # Nested configs are read like whole ones, by the module that reads with these rules.
        from grpo_gym.settings.config import from_mapping

        return from_mapping(cls, value, source)
    raise MismatchError(f"a config of type {cls.__name__}", value)


def _convert_bool(value: Any, _: bool) -> bool:
    if isinstance(value, bool):
        return value
    raise MismatchError("true or false", value)


def _convert_int(value: Any, allow_text: bool) -> int:
    number = _number_from_text(value) if allow_text else value
    if isinstance(number, numbers.Integral) and not isinstance(number, bool):
        return int(number)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    raise MismatchError("an integer", value)


def _convert_float(value: Any, allow_text: bool) -> float:
    number = _number_from_text(value) if allow_text else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise MismatchError("a number", value)
    try:
        converted = float(number)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise MismatchError("a finite number", value)
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
    raise MismatchError("a string", value, ": put it in quotes")


def _convert_none(value: Any, allow_text: bool) -> None:
    if value is not None and not (allow_text and value == "None"):
        raise MismatchError("None", value)


_SCALARS: dict[Any, Callable[[Any, bool], Any]] = {
    bool: _convert_bool,
    int: _convert_int,
    float: _convert_float,
    str: _convert_str,
    types.NoneType: _convert_none,
}
