"""The guides in docs/ do what they say: their examples run, trackers by stand-ins."""

import contextlib
import math
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_gym.cli.options import CommandLine
from grpo_gym.trainers.config import GRPOConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run_examples(name: str) -> dict[str, Any]:
    text = (DOCS / name).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names: dict[str, Any] = {}
    exec(compile(code, name, "exec"), names)
    return names


@pytest.mark.parametrize("name", ["how_to/does_not_learn.md", "how_to/groups.md"])
def test_the_examples_run(name: str) -> None:
    run_examples(name)


def test_trackers_get_finite_metrics_by_environment_step(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, list[tuple[int, dict[str, float]]]] = {"wandb": [], "mlflow": []}
    wandb = SimpleNamespace(
        init=lambda project: None,
        finish=lambda: None,
        log=lambda values, step: logged["wandb"].append((step, values)),
    )
    mlflow = SimpleNamespace(
        start_run=contextlib.nullcontext,
        log_metrics=lambda values, step: logged["mlflow"].append((step, values)),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    run_examples("how_to/tracking.md")
    for entries in logged.values():
        assert entries[0][0] > 0
        assert all("rollout/return_mean" in values for _, values in entries)
    assert all(math.isfinite(x) for _, values in logged["mlflow"] for x in values.values())
    assert (
        logged["mlflow"][-1][1]["rollout/return_mean"] >= 20.0 or logged["mlflow"][-1][0] >= 5_000
    )


def test_settings_and_metrics_that_the_guides_name_exist() -> None:
    metrics = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    for name in ("how_to/does_not_learn.md", "how_to/groups.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        for tag in re.findall(r"`((?:train|rollout|eval)/\w+)`", text):
            assert f"`{tag}`" in metrics, tag
        for setting in re.findall(r"`(\w+)=", text):
            known = set(GRPOConfig.__dataclass_fields__) | {"policy"}
            assert setting in known, setting


def test_commands_of_the_guides_parse() -> None:
    from grpo_gym.cli import compare, evaluate

    lines: dict[str, CommandLine] = {"evaluate": evaluate._LINE, "compare": compare._LINE}
    text = (DOCS / "how_to" / "does_not_learn.md").read_text(encoding="utf-8")
    commands = re.findall(r"^grpo-gym (\w+) (.*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command, arguments in commands:
        if command in lines:
            lines[command].parse(shlex.split(arguments.replace("<name>", "name")))


def test_training_and_test_have_csv_files_of_their_own(tmp_path: Path) -> None:
    from grpo_gym import GRPO

    for name, demand in (("training", 500), ("test", 900)):
        (tmp_path / f"{name}.csv").write_text("\n".join([str(demand)] * 40))
    model = GRPO(
        "linear",
        "AutoScaler-v0",
        env_kwargs={"demand_csv": str(tmp_path / "test.csv"), "episode_steps": 10},
        training_env_kwargs={"demand_csv": str(tmp_path / "training.csv")},
        num_groups=2,
        group_size=2,
    )
    seen: list[float] = []
    model.learn(40, callback=lambda _, stats: seen.append(stats.rollout["demand"]))
    assert seen[0] == pytest.approx(500.0, rel=0.01)
    assert model.evaluate(2).metrics["demand"] == pytest.approx(900.0, rel=0.01)
