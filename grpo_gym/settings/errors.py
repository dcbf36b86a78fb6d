"""Errors in settings, each in one line: `name must be RULE, got VALUE: remedy`."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grpo_gym.settings.other_names import counterpart

_RULES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer of at most 64 bits",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "too_long": "a list of {max_length} values",
    "dict_type": "a mapping",
    "dataclass_type": "of type {class_name} or a mapping of its settings",
    "literal_error": "{expected}",
    "greater_than": "> {gt:g}",
    "greater_than_equal": ">= {ge:g}",
    "less_than": "< {lt:g}",
    "less_than_equal": "<= {le:g}",
}
"""What each type of error says after "must be"."""
_REMEDIES = {"string_type": ": put it in quotes", "tuple_type": ": write [{}]"}

Path = tuple[int | str, ...]


class ConfigError(ValueError):
    """A setting, or a file of settings, that cannot be used; the message says which and why."""


class UnknownSettingError(ConfigError, TypeError):
    """A setting that does not exist; a TypeError, too, as for any unknown keyword argument.

    Attributes:
        setting: Its name, with those of the settings it was looked for in.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or the list of all if none is near.

    For a name of another library, such as Stable-Baselines3, it says what takes its place.
    """
    valid = list(candidates)
    return nearest(name, valid) or (f" Choose from: {', '.join(valid)}." if valid else "")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or nothing; else as `suggest`."""
    # Without dashes, which all options share: short ones would resemble anything.
    by_bare_name = {candidate.lower().lstrip("-"): candidate for candidate in candidates}
    if hint := counterpart(name, by_bare_name.values()):
        return hint
    matches = difflib.get_close_matches(name.lower().lstrip("-"), by_bare_name, n=1)
    return f" Did you mean {by_bare_name[matches[0]]!r}?" if matches else ""


def explain(
    error: ValidationError, values: Mapping[str, Any], cls: type | None = None
) -> ConfigError:
    """Pydantic's first error about these values, which may be for a config class, in our words."""
    problems = [(_path(each, values), each) for each in error.errors(include_url=False)]
    path, problem = problems[0]
    if problem["type"] == "unexpected_keyword_argument":
        return UnknownSettingError(_unknown(path, cls), _written(path))
    return ConfigError(_message(problems))


def _message(problems: Sequence[tuple[Path, ErrorDetails]]) -> str:
    first, problem = problems[0]
    name = _written(first)
    if problem["type"] == "value_error":  # from `__post_init__`
        message = str(problem["ctx"]["error"])
        return f"{name}: {message}" if name else message
    if problem["type"] == "missing":
        if isinstance(first[-1], int):  # each missing element of a list reports an error
            count = max(int(path[-1]) for path, _ in problems if path[:-1] == first[:-1]) + 1
            return (
                f"{_written(first[:-1])} must be a list of {count} values, got {problem['input']!r}"
            )
        return f"{name} is required"
    # Every member of a union reports an error; the deepest is of the one that was meant.
    related = [(path, each) for path, each in problems if path[: len(first)] == first]
    deepest = max((path for path, _ in related), key=len)
    return _broken(_written(deepest), [each for path, each in related if path == deepest])


def _path(problem: ErrorDetails, values: Any) -> Path:
    """Where the value lies, without the union members that pydantic names on the way."""
    path: list[int | str] = []
    for part in problem["loc"]:
        try:
            values = values[part]
        except (LookupError, TypeError):  # a member of a union
            continue
        path.append(part)
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return tuple(path)


def _written(path: Path) -> str:
    written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return written.removeprefix(".")


def _unknown(path: Path, cls: Any) -> str:
    for part in path[:-1]:
        # An index leads to an element: the annotation of the list is a tuple of its class.
        inside = get_args(cls)[:1] if isinstance(part, int) else ()
        cls = inside[0] if inside else cls.__pydantic_fields__[part].annotation
    hint = suggest(str(path[-1]), cls.__pydantic_fields__)
    return f"{_written(path)!r} is not a setting of {cls.__name__}.{hint}"


def _broken(name: str, problems: Sequence[ErrorDetails]) -> str:
    value, kinds = problems[0]["input"], [problem["type"] for problem in problems]
    if not set(kinds) <= _RULES.keys():
        return f"{name}: {problems[0]['msg']}"
    rule = " or ".join(dict.fromkeys(map(_rule, problems)))
    remedy = ""
    if isinstance(value, str) and "literal_error" in kinds:
        near = nearest(value, re.findall(r"'(.*?)'", rule))
        remedy = near and f".{near}"
    elif len(kinds) == 1 and value is not None:
        remedy = _REMEDIES.get(kinds[0], "").format(value)
    return f"{name} must be {rule}, got {value!r}{remedy}"


def _rule(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "literal_error" and " or " in context["expected"]:
        return "one of " + context["expected"].replace(" or ", ", ")
    return _RULES[problem["type"]].format_map(context)
