"""What the documentation site makes from code: a hook of MkDocs, named in mkdocs.yml.

A marker, alone on its line, becomes text when a page is built:

    <!-- settings: grpo_gym.trainers.config.GRPOConfig -->    a table for each of its sections
    <!-- commands -->                                         every command and its options
    <!-- recipes -->                                          every file of configs/

README.md, CHANGELOG.md, CONTRIBUTING.md and SECURITY.md become pages as they are.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from link_types import link_tree
from pydantic import TypeAdapter

from grpo_gym.cli.main import COMMANDS
from grpo_gym.cli.options import CommandLine, as_option

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Pages that lie at the root of the repository, by their place on the site."""
_SETTINGS = re.compile(r"^<!-- settings: ([\w.]+) -->$", re.MULTILINE)
_LARGEST = 2**63 - 1


def on_startup(*, command: str, dirty: bool) -> None:
    """Lay out the package as it is installed, before mkdocstrings looks for it there."""
    link_tree(ROOT)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=from_the_root(text)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Fill in what a page's markers ask for."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it would hold nothing but this page
    markdown = _SETTINGS.sub(lambda found: settings_tables(_named(found[1])), markdown)
    for marker, make in (("commands", commands), ("recipes", recipes)):
        line = f"<!-- {marker} -->"
        if line in markdown:
            markdown = markdown.replace(line, make())
    return markdown


def from_the_root(text: str) -> str:
    """A page of the repository's root as a page of the site.

    Links into docs/ and among these pages stay links; those to code become code.
    """
    names = {source: name for name, source in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        path, hash_sign, anchor = target.partition("#")
        if path.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')})"
        if path in names:
            return f"[{label}]({names[path]}{hash_sign}{anchor})"
        return found[0] if "://" in path or not path else f"`{path}`"

    return re.sub(r"\[([^\[\]]*)\]\(([^()\s]+)\)", link, text)


def settings_tables(config: type) -> str:
    """A section for a class of settings and for each class that it inherits from."""
    schema = TypeAdapter(config).json_schema()
    return "\n\n".join(
        f"### {title}\n\n{doc}\n\n{_table(('setting', 'value', 'default', 'meaning'), rows)}"
        for title, doc, rows in _sections(config, schema, str)
    )


def commands() -> str:
    """Every command: what it does, examples, and its options."""
    return "\n\n".join(
        part for name in COMMANDS for line in command_lines(name) for part in _command(line)
    )


def command_lines(name: str) -> list[CommandLine]:
    """The command lines that the module of a command has, several for one with sub-commands."""
    module = import_module(f"grpo_gym.cli.{'settings' if name == 'train' else name}")
    return [value for value in vars(module).values() if isinstance(value, CommandLine)]


def recipes() -> str:
    """Every file of shipped settings."""
    parts = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        parts.append(f"### {name}\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```")
    return "\n\n".join(parts)


def documented_settings() -> dict[str, str]:
    """The classes of settings that have tables, with the pages that hold them."""
    docs = ROOT / "docs"
    return {
        name: path.relative_to(docs).as_posix()
        for path in sorted(docs.rglob("*.md"))
        for name in _SETTINGS.findall(path.read_text(encoding="utf-8"))
    }


def _titled_link(found: re.Match[str]) -> str:
    """A link from the page of commands to a page of docs/, with its title."""
    title = (ROOT / found[0]).read_text(encoding="utf-8").partition("\n")[0]
    return f"[{title.removeprefix('# ')}](../{found[1]})"


def _named(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def _command(line: CommandLine) -> Iterator[str]:
    """The parts of a command's section."""
    yield f"## {line.command}"
    text, _, examples = line.description.partition("\n\nFor example:\n")
    yield re.sub(r"docs/([\w/]+\.md)", _titled_link, text)
    if examples:
        program = line.command.partition(" ")[0]
        lines = (f"grpo-gym {program} {words.strip()}" for words in examples.splitlines())
        yield "```bash\n" + "\n".join(lines) + "\n```"
    pages = {_named(name): page for name, page in documented_settings().items()}
    for config in line.groups.values():
        if page := pages.get(config):
            place = page.removeprefix("reference/")
            name = config.__name__
            yield f"The settings of [{name}]({place}) are options, too: `a_name` is `--a-name`."
            continue
        schema = TypeAdapter(config).json_schema()
        for _, doc, rows in _sections(config, schema, as_option):
            yield doc
            yield _table(("option", "value", "default", "meaning"), rows)


def _sections(
    config: type, schema: Mapping[str, Any], shown: Callable[[str], str]
) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Title, description and rows of a class of settings, then of those it inherits from.

    Settings that are classes of settings themselves have tables of their own.
    """
    left = set(schema["properties"])
    owners: tuple[Any, ...] = config.__mro__
    for owner in owners:
        names = [name for name in inspect.get_annotations(owner) if name in left]
        left -= set(names)
        if not names:
            continue
        doc = inspect.getdoc(owner) or ""
        rows = []
        for name in names:
            described = schema["properties"][name]
            if "$ref" in described:
                continue
            meaning = " ".join((owner.__pydantic_fields__[name].description or "").split())
            # Some depend on the machine or on other settings: their meaning says how.
            default = "" if "by default" in meaning else _default(name, described, schema)
            rows.append([f"`{shown(name)}`", _rule(described), default, meaning])
        title = re.sub(r"(Config|Options|Settings)$", "", owner.__name__) or owner.__name__
        yield title, doc.partition("\n\n")[0].replace("\n", " "), rows


def _default(name: str, described: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "default" not in described:
        return "" if name in schema.get("required", ()) else "empty"
    value = described["default"]
    if value is None:
        return "none"
    if value in ([], {}, ""):
        return "empty"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"`{value:g}`" if abs(value) < 1e5 else f"`{value:,.0f}`"
    return f"`{json.dumps(value)}`"


def _rule(described: Mapping[str, Any]) -> str:
    """What a value must be, from its JSON schema, in words."""
    if "anyOf" in described:
        return " or ".join(_rule(each) for each in described["anyOf"])
    if "enum" in described:
        return ", ".join(f"`{json.dumps(value)}`" for value in described["enum"])
    if "const" in described:
        return f"`{json.dumps(described['const'])}`"
    if "$ref" in described:
        return "settings of their own"
    kind = described.get("type")
    if kind == "array":
        items = described.get("prefixItems")
        if items:
            alike = all(item == items[0] for item in items)
            return f"{len(items)} of: {_rule(items[0])}" if alike else f"{len(items)} values"
        return f"list of {_rule(described.get('items', {}))}"
    if kind in ("integer", "number"):
        return f"{kind}{_bounds(described)}"
    words = {"boolean": "true, false", "null": "none", "object": "mapping", "string": "text"}
    return "path" if described.get("format") == "path" else words.get(str(kind), "any")


def _bounds(described: Mapping[str, Any]) -> str:
    lower = (("gt", ">"), ("exclusiveMinimum", ">"), ("ge", "≥"), ("minimum", "≥"))
    upper = (("lt", "<"), ("exclusiveMaximum", "<"), ("le", "≤"), ("maximum", "≤"))
    found = [(sign, described[name]) for name, sign in (*lower, *upper) if name in described]
    kept = [f"{sign} {bound:,}" for sign, bound in found if abs(bound) < _LARGEST]
    return " " + ", ".join(kept) if kept else ""


def _escaped(text: str) -> str:
    """Plain text, with code in backquotes, as Markdown in a table."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\[\]*_])", r"\\\1", parts[i]).replace("<", "&lt;")
    return "`".join(parts).replace("|", "\\|")


def _table(titles: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
