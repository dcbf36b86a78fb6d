"""Options of a command line, made from config classes.

Each field of a config class is an option with its name, type and docstring. tyro splits the words
and shows the help; values stay text until `from_mapping` checks them, so that every mistake is
reported in one line and an option that was not given is absent instead of a default.
"""

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from grpo_gym.settings import ConfigError, nearest, parse_value

SOURCE = "command line"
"""What errors call the source of options."""

_REGISTRY = ConstructorRegistry()
"""How the help shows types that tyro shows otherwise."""


@dataclass(frozen=True)
class Given:
    """What a command line says.

    Attributes:
        values: Text, lists of text, or flags, by group and field, of the options that are given.
        help: Whether help was asked for.
    """

    values: dict[str, dict[str, Any]]
    help: bool = False

    def names(self) -> list[str]:
        """The given options as they are written."""
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
        """Read the words of a command line without checking values.

        Raises:
            ConfigError: If an option is unknown, is given twice, or lacks its value.
        """
        as_text = {
            title: {
                name: bool if _is_flag(kind) else tuple[str, ...]
                for name, kind in _field_types(config).items()
            }
            for title, config in self.groups.items()
        }
        parsed, unknown = tyro.cli(
            _options(as_text), args=list(arguments), add_help=False, return_unknown_args=True
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
        """Print the options, one section for each config class and its base classes, and exit.

        Args:
            defaults: Configs by title, whose values are shown as defaults.

        Raises:
            SystemExit: Always, with status 0.
        """
        sections: dict[str, dict[str, Any]] = {}
        docs, values = {}, {}
        for group, config in self.groups.items():
            for title, owner, kinds in _sections(group, config):
                texts = field_docs(owner)
                sections[title] = {
                    name: Annotated[
                        bool if _is_flag(kind) else kind, tyro.conf.arg(help=texts[name])
                    ]
                    for name, kind in kinds.items()
                }
                docs[title] = (owner.__doc__ or "").partition("\n")[0]
                shown = {name: getattr(defaults[group], name) for name in kinds}
                values[title] = {  # a flag has no default that is None
                    name: value
                    for name, value in shown.items()
                    if value is not None or not _is_flag(kinds[name])
                }
        tyro.cli(
            _options(sections, docs),
            args=["--help"],
            prog=invocation(self.command),
            description=self.description,
            default=values,
            registry=_REGISTRY,
        )

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        for word in words:
            if not word.startswith("-"):
                raise ConfigError(f"{word!r} belongs to no option: see --help")
            known = [as_option(name) for c in self.groups.values() for name in _field_types(c)]
            hint = nearest(word.partition("=")[0].replace("_", "-"), known).replace("'", "")
            raise ConfigError(f"{word} is not an option of {self.command}.{hint or ' See --help.'}")


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
    """The docstring under each field that a config class defines itself, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    docs = {}
    for field, text in pairwise(typing.cast(ast.ClassDef, definition).body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(doc))
            ):
                docs[name] = " ".join(doc.split())
    return docs


@_REGISTRY.primitive_rule
def _shown_as_pairs(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if typing.get_origin(info.type) is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE ...",
        instance_from_str=lambda pairs: parse_pairs(pairs, SOURCE),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{name}={value}" for name, value in pairs.items()],
    )


def _options(groups: Mapping[str, Mapping[str, Any]], docs: Mapping[str, str] | None = None) -> Any:
    """The type that tyro fills: for each group, a mapping of the options that are given."""
    filled = {}
    for title, kinds in groups.items():
        group = TypedDict("Group", kinds, total=False)  # type: ignore[misc]
        group.__doc__ = (docs or {}).get(title)
        filled[title] = Annotated[group, tyro.conf.OmitArgPrefixes]
    return TypedDict("Options", filled)  # type: ignore[operator]


def _sections(title: str, config: type) -> Iterator[tuple[str, type, dict[str, Any]]]:
    """A config class and its base classes: a title, the class, and the fields it adds."""
    left = _field_types(config)
    for owner in config.__mro__:
        kinds = {name: left.pop(name) for name in inspect.get_annotations(owner) if name in left}
        if kinds:
            own = re.sub(r"(Config|Options|Settings)$", "", owner.__name__).lower()
            yield title if owner is config else own, owner, kinds


def _field_types(config: type) -> dict[str, Any]:
    kinds = typing.get_type_hints(config)
    return {f.name: kinds[f.name] for f in fields(config) if not is_dataclass(kinds[f.name])}


def _is_flag(kind: Any) -> bool:
    """Whether a field is true or false; without the flag it may also be None."""
    return kind is bool or set(typing.get_args(kind)) == {bool, types.NoneType}


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
    (word,) = words
    may_be_none = types.NoneType in typing.get_args(kind) and str not in typing.get_args(kind)
    return None if word == "None" and may_be_none else word


def _refuse_repeated(arguments: Sequence[str]) -> None:
    seen = set()
    for word in arguments:
        if word.startswith("--"):
            option = word.partition("=")[0].replace("_", "-")
            if option in seen:
                raise ConfigError(f"{option} is given twice: keep one")
            seen.add(option)
