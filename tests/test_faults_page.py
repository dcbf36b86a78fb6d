"""The table of faults names tests, and each of them exists."""

import ast
import re
from pathlib import Path

_TESTS = Path(__file__).resolve().parent
_PAGE = (_TESTS.parent / "docs" / "reference" / "faults.md").read_text()


def test_every_fault_has_a_test_that_exists() -> None:
    rows = [line for line in _PAGE.splitlines() if re.match(r"\| (?!fault |---)", line)]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row.split(" | ")[-1])
        assert named, row
        for path, name in named:
            tree = ast.parse((_TESTS / path).read_text())
            functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert name in functions, (path, name)
