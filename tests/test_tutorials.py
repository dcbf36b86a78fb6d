"""Tutorials, and the README, run as they are printed; the fast tests train for fewer steps."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest

from grpo_gym.deployment.scaler.settings import ScalerSettings
from grpo_gym.settings import from_mapping, load_yaml

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"


def run_tutorial(name: str, steps: int | None) -> dict[str, Any]:
    """Run a tutorial: see `run_page`."""
    return run_page(TUTORIALS / f"{name}.md", steps)


def run_page(page: Path, steps: int | None) -> dict[str, Any]:
    """Run all of a page's Python as one program, each `learn` with so many steps.

    Returns:
        The names that it leaves.
    """
    text, name = page.read_text("utf-8"), page.stem
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    if steps is not None:
        code = re.sub(r"\.learn\([\d_]+\)", f".learn({steps})", code)
        code = re.sub(r"episodes=\d+", "episodes=8", code)
    module = ModuleType(f"tutorial_{name}")
    sys.modules[module.__name__] = module  # environments are made by their module's name
    try:
        exec(compile(code, str(page), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
        gym.registry.pop("Thermostat-v0", None)
    return vars(module)


def lower_bound(difference: Any) -> float:
    bound: float = difference.summary()["return"]["ci95"][0]
    return bound


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/get_started.md", "docs/how_to/resume.md"),
        *("docs/explanation/variants.md", "docs/reference/api/environments.md"),
    ],
)
def test_other_examples(page: str) -> None:
    names = run_page(ROOT / page, steps=200)
    assert "model" in names or "GRPO" in names or "vec" in names


def test_own_environment() -> None:
    names = run_tutorial("own_environment", steps=4_000)
    assert names["model"].num_steps >= 4_000
    assert 0 <= names["action"] < 3


def test_load_balancer() -> None:
    pytest.importorskip("safetensors")
    names = run_tutorial("load_balancer", steps=1_000)
    assert set(names["pick"].endpoints) == {"127.0.0.1:9001", "127.0.0.1:9002"}


def test_autoscaler() -> None:
    pytest.importorskip("safetensors")
    names = run_tutorial("autoscaler", steps=1_000)
    assert len(names["differences"]) == 2
    assert Path("policy.safetensors").is_file()
    page = (TUTORIALS / "autoscaler.md").read_text("utf-8")
    (settings,) = re.findall(r"```yaml\n(deployment:.*?)```", page, re.DOTALL)
    Path("scaler.yaml").write_text(settings)
    assert from_mapping(ScalerSettings, load_yaml(Path("scaler.yaml")), "page").fallback == "hpa"


def test_battleship() -> None:
    names = run_tutorial("battleship", steps=200)
    assert names["is_over"]
    assert names["large"].observation_space.shape[-1] == 8


@pytest.mark.slow
def test_what_the_tutorials_promise() -> None:
    """With all steps: better than chance and than the heuristics that the pages name."""
    assert lower_bound(run_tutorial("own_environment", None)["difference"]) > 0.0
    routing = run_tutorial("load_balancer", None)["differences"]
    assert lower_bound(routing["round_robin"]) > 0.0
    assert lower_bound(routing["least_connections"]) > 0.0
    scaling = run_tutorial("autoscaler", None)["differences"]
    assert all(lower_bound(difference) > 0.0 for difference in scaling.values())
    assert lower_bound(run_tutorial("battleship", None)["difference"]) > 0.0
