"""`benchmark`: rates from steps and seconds, and what is refused; the work itself is stubbed."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo_gym.cli import benchmark


def test_rates_are_steps_per_second_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    clock = itertools.count(step=2.0)
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    sizes: list[int] = []

    def works(num_envs: int) -> dict[str, benchmark.Work]:
        sizes.append(num_envs)
        return {"first": lambda: 100, "second": lambda: 300}

    monkeypatch.setattr(benchmark, "_works", works)
    file = tmp_path / "rates.json"
    arguments = ["--repetitions", "3", "--num-envs", "8", "--json", str(file)]
    assert benchmark.main(arguments) == 0
    assert sizes == [8]
    rates = json.loads(file.read_text())["steps_per_second"]
    assert rates == {"first": [50.0] * 3, "second": [150.0] * 3}
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if "second " in line]
    assert row.split() == ["second", "150", "150", "150", "3.00"]
    assert not set(out) & set("│┃┌┏└┗"), "boxes"


def test_a_mistake_is_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "_works", lambda num_envs: pytest.fail("worked"))
    assert benchmark.main(["--repetitions", "0"]) == 2
    assert "repetitions must be >= 1" in capsys.readouterr().err
