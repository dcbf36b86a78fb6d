"""What SECURITY.md says is so: its tests exist, few modules listen, no file constructs objects."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import grpo_gym
from grpo_gym.settings import ConfigError, load_yaml

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = (_ROOT / "SECURITY.md").read_text()
_NETWORK = {
    "aiohttp", "ftplib", "grpc", "http", "smtplib", "socket", "socketserver", "ssl", "xmlrpc",
    "urllib",
}  # fmt: skip
_PICKLES = {"pickle", "shelve"}
_AMONG_OWN_PROCESSES = {
    *(f"trainers/processes/{name}.py" for name in ("errors", "group", "packing")),
    "grpo_gym/rollouts/workers/sent.py",
}
"""What processes and workers of one training tell each other."""
_OWN_SOCKETS = ("grpo_gym/rollouts/workers/pool.py", "trainers/processes/meeting.py")
_ONNX = {"onnx", "onnxruntime"}
_LISTENING = tuple(
    f"grpo_gym/deployment/{part}/" for part in ("admin", "demo", "picker", "proxy", "scaler")
)
_COMMANDS = tuple(
    f"grpo_gym/cli/{name}.py"
    for name in ("admin_port", "demo", "guard", "picker", "route", "scaler")
)


def test_every_promise_names_a_test_that_exists() -> None:
    rows = [line for line in _PAGE.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "shown by" not in row]
    assert len(rows) >= 10
    assert all("`tests/" in row for row in rows)
    named = re.findall(r"`((?:tests|docs)/[\w/]+\.\w+)`", _PAGE)
    assert len(named) > 6
    assert [path for path in named if not (_ROOT / path).is_file()] == []


def test_only_named_modules_open_connections_and_none_unpickles() -> None:
    """The page says which commands listen; change both together."""
    found = {
        (str(path.relative_to(_ROOT)), name.partition(".")[0])
        for folder in ("grpo_gym", "envs", "trainers")
        for path in (_ROOT / folder).rglob("*.py")
        for name in _imports(path)
        if name != "urllib.parse"
    }
    # Pairs between a process and its workers, and what listens to no network.
    found -= {(path, "socket") for path in _OWN_SOCKETS}
    network = {path for path, name in found if name in _NETWORK}
    assert {path for path in network if not path.startswith((*_LISTENING, *_COMMANDS))} == set()
    assert network
    onnx = {path for path, name in found if name in _ONNX}
    assert {path for path in onnx if not path.startswith("trainers/export/")} == set()
    assert {path for path, name in found if name in _PICKLES} == _AMONG_OWN_PROCESSES
    assert Path(grpo_gym.__file__).is_relative_to(_ROOT)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    "text",
    [
        "env: !!python/object/apply:os.mkdir [executed]",
        "env: !!python/name:os.system",
        "env: !include other.yaml",
        "env: !!binary aGk=",
    ],
)
def test_settings_construct_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"line 1"):
        load_yaml(tmp_path / "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
