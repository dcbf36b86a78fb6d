"""`benchmark`: what it keeps, resumes, shows and refuses; measurements are stubbed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli import benchmark
from grpo_gym.storage.results import Results


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, and on a wide terminal."""

    def measure_all(
        self: Results, measurements: Mapping[str, Callable[[], Any]], processes: int
    ) -> None:
        assert processes == 1, "two at a time would disturb each other"
        for key, measurement in measurements.items():
            self.measure(key, measurement)

    monkeypatch.setattr(Results, "measure_all", measure_all)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.usefixtures("here")
def test_rates_are_kept_shown_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, int]] = []

    def measure_rates(num_envs: int, repetitions: int) -> dict[str, list[float]]:
        asked.append((num_envs, repetitions))
        return {"first": [50.0] * repetitions, "second": [140.0, 150.0, 190.0]}

    monkeypatch.setattr(benchmark, "measure_rates", measure_rates)
    file, page = tmp_path / "rates.json", tmp_path / "page.md"
    arguments = ["--repetitions", "3", "--num-envs", "8", "--json", str(file)]
    for _ in range(2):
        assert benchmark.main([*arguments, "--markdown", str(page)]) == 0
    assert asked == [(8, 3)]
    assert json.loads(file.read_text())["rates"]["second"] == [140.0, 150.0, 190.0]
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if "second " in line]
    assert rows == [["second", "150", "140", "190", "3.00"]] * 2
    assert "| second | 150 | 140 | 190 | 3.00 |" in page.read_text()
    assert "load average at the start" in page.read_text()
    assert not set(out) & set("│┃┌┏└┗"), "boxes"


@pytest.mark.usefixtures("here")
def test_results_of_another_machine_are_not_mixed_with_those_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: {"first": [1.0]})
    file = tmp_path / "rates.json"
    assert benchmark.main(["--json", str(file)]) == 0
    values = json.loads(file.read_text())
    values["machine"]["cores"] = 1_000
    file.write_text(json.dumps(values))
    assert benchmark.main(["--json", str(file)]) == 2
    assert "--json must be new or of this machine and these versions" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "text", ["no json", "[]", "3", '{"task": {"env": "CartPole-v1"}}', '{"machine": null}']
)
def test_files_of_others_stay_as_they_are(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: pytest.fail("measured"))
    file = tmp_path / "rates.json"
    file.write_text(text)
    assert benchmark.main(["--json", str(file)]) == 2
    assert "--json must be new or of an earlier benchmark" in capsys.readouterr().err
    assert file.read_text() == text


def test_what_is_measured_depends_on_what_is_asked() -> None:
    def keys(**options: Any) -> set[str]:
        found = benchmark._measurements(benchmark.BenchmarkOptions(**options))
        return {key.partition("/")[0] for key in found}

    assert keys() == {"rates"}
    assert keys(peers=True) == {"rate", "target", "process"}
    limits = keys(limits=True)
    assert {"ceilings", "num_groups", "group_size", "hidden_sizes", "board", "memory"} <= limits
    assert {"servers, mlp", "servers, servers", "processes"} <= limits
    assert keys(limits=True, peers=True) == limits | keys(peers=True)


def test_a_mistake_is_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "_measurements", lambda options: pytest.fail("worked"))
    assert benchmark.main(["--repetitions", "0"]) == 2
    assert "repetitions must be >= 1" in capsys.readouterr().err
