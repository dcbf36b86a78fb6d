"""docs/how_to/environments.md does what it says."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "how_to" / "environments.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OWN, *OTHERS = EXAMPLES
SHORT = {
    "num_groups": 1,
    "group_size": 2,
    "max_episode_steps": 8,
    "minibatch_size": 8,
}


def run(code: str) -> Any:
    names: dict[str, Any] = {"__name__": "environments_page"}
    exec(compile(code, "docs/how_to/environments.md", "exec"), names)
    return names["model"]


def test_its_vector_environment_learns() -> None:
    assert run(OWN).evaluate(30).mean_return > 7.0


@pytest.mark.slow
@pytest.mark.parametrize("code", OTHERS, ids=["envpool", "minigrid", "ale_py"])
def test_its_examples_run(code: str) -> None:
    """Each with its own settings, but an iteration of a few steps."""
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
    for module in [alias.name for node in imported for alias in node.names]:
        if any(find_spec(name) is None for name in (module, "cv2")):
            pytest.skip(f"{module} or OpenCV is not installed")
    for name in SHORT:
        code = re.sub(rf", {name}=\d+", "", code)
    settings = ", ".join(f"{name}={number}" for name, number in SHORT.items())
    code = re.sub(r"^(model = GRPO\(.*?)\)(\.learn.*)?$", rf"\1, {settings})", code, flags=re.M)
    assert run(code).learn(1).num_steps == 16
