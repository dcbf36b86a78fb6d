"""What docs/how_to/routing.md says of the core holds."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.deployment.routing import RoutingConfig

_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how_to" / "routing.md").read_text("utf-8")
_CORE = _PAGE.partition("## The core\n")[2].partition("\n## ")[0]


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", _CORE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/how_to/routing.md", "exec"), names)
    assert names["core"].status().finished == 1


def test_numbers_of_settings_are_the_defaults() -> None:
    named = re.findall(r"`(\w+)` \(([\d,]+)\)", _CORE)
    assert len(named) >= 2
    for name, value in named:
        assert getattr(RoutingConfig(), name) == float(value.replace(",", "")), name
    config = RoutingConfig()
    assert (config.consecutive_errors, config.error_share, config.probe_successes) == (5, 0.5, 3)
    assert (config.ejection_s, config.longest_ejection_s, config.ejected_share) == (2, 60, 0.5)
    assert (config.error_period_requests, config.error_period_s) == (20, 10)
    assert (config.guard.block_steps, config.guard.warmup_steps) == (500, 100)
    assert config.guard.mode == "shadow"


def test_every_setting_that_is_named_exists() -> None:
    known = {field.name for field in dataclasses.fields(RoutingConfig)}
    health = _CORE.partition("### Health\n")[2].partition("\n### ")[0]
    named = {name for name in re.findall(r"`(\w+_\w+)`", health)}
    assert named - {"max_in_flight"} <= known
