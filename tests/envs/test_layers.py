"""Simulators and presets import neither Gymnasium nor torch, directly or through others."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from native_cases import DEFAULTS, NativeCase


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def imports_of(module: str) -> set[str]:
    """Modules that a module imports when it is imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module, *filter(is_module, members)}
    return found


@pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)
def test_simulators_import_neither_gymnasium_nor_torch(case: NativeCase) -> None:
    # `grpo_gym/__init__.py`, which registers the environments, is no import of theirs.
    waiting, seen = [type(case.single().simulator).__module__], {"grpo_gym"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        imports = imports_of(module)
        assert not {name.partition(".")[0] for name in imports} & {"gymnasium", "torch"}, module
        waiting += [name for name in imports - seen if name.startswith("grpo_gym.")]
    assert any(name.endswith((".presets", ".config")) for name in seen)
