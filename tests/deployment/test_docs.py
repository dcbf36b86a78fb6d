"""The example of docs/how_to/deployment.md runs as it stands and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from grpo_gym.deployment import GuardConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "deployment.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda file: None)
    (code,), (expected,) = blocks("python"), blocks("text")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, str(PAGE), "exec"), {})
    assert printed.getvalue() == expected


def test_every_setting_that_the_page_names_exists_with_that_value() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+)` \(([0-9.]+)( %)?\)", text)
    assert len(named) >= 5
    for name, value, percent in named:
        assert getattr(GuardConfig(), name) == float(value) / (100 if percent else 1), name
