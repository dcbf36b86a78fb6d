"""Options of a command line, made from config classes.

A field of a config class is an option: its name, its type and the docstring under it. tyro splits
the words and shows the help; every value stays text until `config` checks it, so that any mistake
is told in one line, and an option that was not given is absent instead of a default.
"""

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import tyro

from grpo_gym.settings.config import ConfigError, parse_value, suggest

SOURCE = "command line"
"""What errors call the place that options come from."""
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


@dataclass(frozen=True)
class Given:
    """What a command line says.

    Attributes:
        values: Text, lists of text, or flags, by group and field, of the options that are there.
        help: Whether help was asked for.
    """

    values: dict[str, dict[str, Any]]
    help: bool = False

    def names(self) -> list[str]:
        """The options that are there, as they are written."""
        return [as_option(name) for group in self.values.values() for name in group]


class CommandLine:
    """The options of one command."""

    def __init__(self, command: str, description: str, groups: Mapping[str, type]) -> None:
        """Describe a command.

        Args:
            command: Its name, such as "train".
            description: Shown above its options.
            groups: Config classes by a one-word title; configs nested in them are left out.
        """
        self.command = command
        self.description = description
        self.groups = dict(groups)

    def parse(self, arguments: Sequence[str]) -> Given:
        """Read the words of a command line; whether values make sense is not checked yet.

        Raises:
            ConfigError: If an option is unknown, comes twice, or has not the values it takes.
        """
        parsed, unknown = tyro.cli(
            self._target({}), args=list(arguments), add_help=False, return_unknown_args=True
        )
        help_asked = "-h" in unknown or "--help" in unknown
        self._refuse_unknown([word for word in unknown if word not in ("-h", "--help")])
        _refuse_repeated(arguments)
        values = {
            title: {
                name: _value(name, words, _field_types(config)[name])
                for name, words in parsed[title].items()
            }
            for title, config in self.groups.items()
        }
        return Given(values, help_asked)

    def show_help(self, defaults: Mapping[str, Any]) -> None:
        """Print the options and leave.

        Args:
            defaults: Configs by title, whose values are shown as defaults.

        Raises:
            SystemExit: Always, with status 0.
        """
        tyro.cli(
            self._target(defaults),
            args=["--help"],
            prog=invocation(self.command),
            description=self.description,
        )

    def _target(self, defaults: Mapping[str, Any]) -> Any:
        """The type that tyro fills: for each group, a mapping of the options that are there."""
        groups = {
            title: Annotated[_group(config, defaults.get(title)), tyro.conf.OmitArgPrefixes]
            for title, config in self.groups.items()
        }
        return TypedDict("Options", groups)  # type: ignore[operator]

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        for word in words:
            if not word.startswith("-"):
                raise ConfigError(f"{word!r} belongs to no option: see --help")
            known = [as_option(name) for c in self.groups.values() for name in _field_types(c)]
            hint = suggest(word.partition("=")[0].replace("_", "-"), known)
            hint = hint.replace("'", "") if "Did you mean" in hint else " See --help."
            raise ConfigError(f"{word} is not an option of {self.command}.{hint}")


def as_option(name: str) -> str:
    """A field's name as it is written on a command line."""
    return "--" + name.replace("_", "-")


def invocation(command: str) -> str:
    """How this command was called, for hints that can be copied to the shell."""
    program = Path(sys.argv[0])
    return f"python {program}" if program.name == f"{command}.py" else f"grpo-gym {command}"


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs of a command line as a mapping.

    Raises:
        ConfigError: If one is not of that form or a name comes twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} must be followed by NAME=VALUE pairs, got {pair!r}")
        if name in values:
            raise ConfigError(f"{option} must name {name!r} once, got it twice")
        values[name] = parse_value(text)
    return values


def field_docs(config: type) -> dict[str, str]:
    """The docstring under each field of a config class, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(doc))
            ):
                docs[name] = " ".join(doc.split())
    return docs


def _group(config: type, default: Any) -> Any:
    """The fields of a config as options that may be absent; all values are words, or flags."""
    docs = field_docs(config)
    options = {
        name: Annotated[
            bool if _is_flag(kind) else tuple[str, ...],
            tyro.conf.arg(
                help=docs.get(name, ""),
                metavar=None if _is_flag(kind) else _metavar(kind),
                help_behavior_hint=_hint(getattr(default, name, None)),
            ),
        ]
        for name, kind in _field_types(config).items()
    }
    group = TypedDict("Group", options, total=False)  # type: ignore[misc]
    group.__doc__ = (config.__doc__ or "").partition("\n")[0]
    return group


def _field_types(config: type) -> dict[str, Any]:
    kinds = typing.get_type_hints(config)
    return {f.name: kinds[f.name] for f in fields(config) if not is_dataclass(kinds[f.name])}


def _is_flag(kind: Any) -> bool:
    """Whether a field is true or false; None is what it is without the flag."""
    return kind is bool or set(typing.get_args(kind)) == {bool, types.NoneType}


def _metavar(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is dict:
        return "NAME=VALUE ..."
    if origin is tuple and arguments[-1] is ...:
        return f"{_metavar(arguments[0])} ..."
    if origin is tuple:
        return " ".join(map(_metavar, arguments))
    if origin in (typing.Union, types.UnionType):
        return "|".join(_metavar(arm) for arm in arguments if arm is not types.NoneType)
    return _METAVARS[kind]


def _hint(default: Any) -> str:
    """How the help shows a default."""
    if default is None or default == {} or default == ():
        return ""
    if isinstance(default, bool):
        return f"(default: {'yes' if default else 'no'})"
    if isinstance(default, Mapping):
        return f"(default: {' '.join(f'{name}={value}' for name, value in default.items())})"
    values = default if isinstance(default, tuple) else (default,)
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return f"(default: {' '.join(shown)})"


def _value(name: str, words: tuple[str, ...] | bool, kind: Any) -> Any:
    """An option's value as `from_mapping` takes it."""
    if isinstance(words, bool):
        return words
    origin = typing.get_origin(kind)
    if origin is dict:
        return parse_pairs(words, as_option(name))
    if origin is tuple:
        return list(words)
    if len(words) != 1:
        found = "none" if not words else " ".join(words)
        raise ConfigError(f"{as_option(name)} must be followed by one value, got {found}")
    return words[0]


def _refuse_repeated(arguments: Sequence[str]) -> None:
    seen = set()
    for word in arguments:
        if word.startswith("--"):
            option = word.partition("=")[0].replace("_", "-")
            if option in seen:
                raise ConfigError(f"{option} is given twice: keep one")
            seen.add(option)
