"""What SECURITY.md says is so: its tests exist, nothing listens, no file constructs objects."""

import ast
import re
from pathlib import Path

import pytest

import grpo_gym
from grpo_gym.settings import ConfigError, load_yaml

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = (_ROOT / "SECURITY.md").read_text()
_FORBIDDEN = {
    "aiohttp", "ftplib", "http", "onnx", "onnxruntime", "pickle", "shelve", "smtplib", "socket",
    "socketserver", "ssl", "urllib", "xmlrpc",
}  # fmt: skip


def test_every_promise_names_a_test_that_exists() -> None:
    rows = [line for line in _PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 5
    assert all("`tests/" in row for row in rows)
    named = re.findall(r"`((?:tests|docs)/[\w/]+\.\w+)`", _PAGE)
    assert len(named) > 6
    assert [path for path in named if not (_ROOT / path).is_file()] == []


def test_nothing_listens_exports_or_unpickles() -> None:
    """The page says that there is no server, no export and no pickle; change both together."""
    found = set()
    for folder in ("grpo_gym", "envs", "trainers"):
        for path in (_ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                found |= {(str(path), n) for n in names if n.partition(".")[0] in _FORBIDDEN}
    assert found == set()
    assert Path(grpo_gym.__file__).is_relative_to(_ROOT)


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
