"""Options of a command line, made from config classes.

Each field of a config class is an option with its name, type and docstring. tyro splits the words
and shows the help; values stay text until `from_mapping` checks them, so that every mistake is
reported in one line and an option that was not given is absent instead of a default.
"""

import contextlib
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypedDict

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from grpo_gym.settings import ConfigError, from_mapping, nearest, parse_value

SOURCE = "command line"
"""What errors call the source of options."""

_REGISTRY = ConstructorRegistry()
"""How the help shows mappings."""


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
        """The fields that are given."""
        return [name for group in self.values.values() for name in group]


class HelpShown(SystemExit):
    """The end of a command that was asked for help; users' code may raise other SystemExits."""


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
        self._types = {title: _option_types(config) for title, config in groups.items()}

    def read(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Read a command line; if it asks for help, print the options and exit.

        Returns:
            The configs by their group's title.

        Raises:
            ConfigError: If an option is unknown, or a value is refused.
            SystemExit: With status 0 after --help.
        """
        given = self.parse(arguments)
        configs: dict[str, Any] = {
            title: from_mapping(config, given.values[title], SOURCE)
            for title, config in self.groups.items()
        }
        if given.help:
            self.show_help(configs)
        return configs

    def parse(self, arguments: Sequence[str]) -> Given:
        """Read the words of a command line without checking values.

        Raises:
            ConfigError: If an option is unknown, is given twice, or lacks its value.
        """
        words = {
            name: bool if _is_flag(kind) else tuple[str, ...]
            for types in self._types.values()
            for name, kind in types.items()
        }
        given, unknown = tyro.cli(
            _mapping_of(words),
            args=list(arguments),
            add_help=False,
            return_unknown_args=True,
        )
        help_asked = "-h" in unknown or "--help" in unknown
        self._refuse_unknown([word for word in unknown if word not in ("-h", "--help")])
        _refuse_repeated(arguments)
        values = {
            title: {name: _value(name, given[name], types[name]) for name in types if name in given}
            for title, types in self._types.items()
        }
        return Given(values, help_asked)

    def show_help(self, defaults: Mapping[str, Any]) -> None:
        """Print the options and exit; the values of these configs, by title, are the defaults.

        Each config class and each of its base classes has a section.

        Raises:
            HelpShown: Always.
        """
        sections, values = {}, {}
        for group, config in self.groups.items():
            for title, owner, types in _sections(group, config):
                shown = {name: getattr(defaults[group], name) for name in types}
                values[title] = {name: value for name, value in shown.items() if value is not None}
                section = _section(owner, types, shown)
                sections[title] = Annotated[section, tyro.conf.OmitArgPrefixes]
        with contextlib.suppress(SystemExit):
            tyro.cli(
                _mapping_of(sections),
                args=["--help"],
                prog=invocation(self.command),
                description=self.description,
                default=values,
                registry=_REGISTRY,
            )
        raise HelpShown(0)

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        for word in words:
            if not word.startswith("-"):
                raise ConfigError(f"{word!r} belongs to no option: see --help")
            known = [as_option(name) for types in self._types.values() for name in types]
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


def _sections(title: str, config: type) -> Iterator[tuple[str, type, dict[str, Any]]]:
    """A config class and its base classes: a title, the class, and the fields it adds."""
    left = _option_types(config)
    for owner in config.__mro__:
        types = {name: left.pop(name) for name in inspect.get_annotations(owner) if name in left}
        if types:
            own = re.sub(r"(Config|Options|Settings)$", "", owner.__name__).lower()
            yield title if owner is config else own, owner, types


def _section(owner: Any, types: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """The fields that a class adds as a type whose options tyro can show."""
    options = {}
    for name, kind in types.items():
        doc = " ".join((owner.__pydantic_fields__[name].description or "").split())
        # The docstring says what absence means: "None" and "(default: )" would add nothing.
        hint = "" if defaults[name] in (None, {}, ()) else None
        members = tuple(member for member in typing.get_args(kind) if member is not NoneType)
        if NoneType in typing.get_args(kind):
            kind = typing.Union[members]  # noqa: UP007
        options[name] = Annotated[kind, tyro.conf.arg(help=doc, help_behavior_hint=hint)]
    section = _mapping_of(options)
    section.__doc__ = (owner.__doc__ or "").partition("\n")[0]
    return section


def _mapping_of(options: dict[str, Any]) -> Any:
    """The type of a mapping from options, which may be absent, to their values."""
    return TypedDict("Options", options, total=False)  # type: ignore[operator]


def _option_types(config: type) -> dict[str, Any]:
    types = typing.get_type_hints(config)
    return {f.name: types[f.name] for f in fields(config) if not is_dataclass(types[f.name])}


def _is_flag(kind: Any) -> bool:
    """Whether a field is true or false; without the flag it may also be None."""
    return kind is bool or set(typing.get_args(kind)) == {bool, NoneType}


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
    members = set(typing.get_args(kind))
    may_be_none = NoneType in members and members.isdisjoint({str, Path})
    return None if word == "None" and may_be_none else word


def _refuse_repeated(arguments: Sequence[str]) -> None:
    seen = set()
    for word in arguments:
        if word.startswith("--"):
            option = word.partition("=")[0].replace("_", "-")
            if option in seen:
                raise ConfigError(f"{option} is given twice: keep one")
            seen.add(option)
