"""YAML with plain types only, and the numbers and booleans of YAML 1.2."""

import re
from typing import Any

import yaml

from grpo_gym.settings.errors import ConfigError


class Loader(yaml.SafeLoader):
    """YAML's plain types only, with the numbers and booleans of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":null", ":bool", ":int", ":float", ":str", ":seq", ":map"))
    }

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that comes twice in one mapping."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is said twice: keep one", problem_mark=key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node


class Dumper(yaml.SafeDumper):
    """Quotes what `Loader`, or any other YAML reader, would not take for the same string."""

    def represent_text(self, value: str) -> yaml.Node:
        """Text, in double quotes where it has line breaks or control characters."""
        # Only double quotes keep line breaks and control characters as they are.
        style = None if value.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style)

    def represent_flow_list(self, value: list[Any]) -> yaml.Node:
        """A list in one line."""
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
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, None)
Dumper.add_representer(str, Dumper.represent_text)
Dumper.add_representer(list, Dumper.represent_flow_list)


def parse_yaml(text: str | bytes, source: str) -> Any:
    """Read YAML; errors name the source and the place in it.

    Raises:
        ConfigError: If it is not YAML or says a key twice.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise ConfigError(f"{source}: {place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read as YAML: {error}") from error
