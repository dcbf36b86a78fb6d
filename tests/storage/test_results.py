"""Results of long experiments: kept piece by piece, also when made side by side."""

import json
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import pytest

from grpo_gym.storage.claims import InUseError
from grpo_gym.storage.results import Results


def square(number: int) -> dict[str, int]:
    return {"square": number**2, "process": os.getpid()}


def fail(_: int) -> dict[str, int]:
    raise ValueError("no result")


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    lines: list[str] = []
    path = tmp_path / "new" / "results.json"
    path.parent.mkdir()
    with Results(path, lines.append) as first:
        assert first.measure("a", partial(square, 3))["square"] == 9
    with Results(path, lines.append) as again:
        assert again.measure("a", partial(fail, 3)) == first.values["a"]
    assert lines == ["a: done", "a: done"]


def test_a_file_has_one_experiment_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with Results(path, lambda line: None) as first:
        first.measure("a", partial(square, 3))
        with pytest.raises(InUseError, match=r"results.json is in use by this process"):
            Results(path, lambda line: None)
    with Results(path, lambda line: None) as second:
        second.measure("b", partial(square, 4))
    assert json.loads(path.read_text()).keys() == {"a", "b"}
    path.write_text("{")
    with pytest.raises(ValueError):
        Results(path, lambda line: None)
    assert list(tmp_path.iterdir()) == [path], "released although it is no results file"


def test_side_by_side_each_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results(path, lambda line: None)
    results.measure("3", partial(square, 30))
    results.measure_all({str(n): partial(square, n) for n in range(5)}, processes=2)
    found = json.loads(path.read_text())
    assert found == results.values
    assert {key: value["square"] for key, value in found.items()} == {
        "0": 0,
        "1": 1,
        "2": 4,
        "3": 900,
        "4": 16,
    }
    assert len({value["process"] for value in found.values()}) == 5


def test_one_that_fails_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    lines: list[str] = []
    runs = {"a": partial(fail, 1), "b": partial(square, 2), "c": partial(square, 3)}
    with pytest.raises(ValueError, match="no result"):
        Results(path, lines.append).measure_all(runs, processes=1)
    assert json.loads(path.read_text()).keys() == {"b", "c"}
    assert any("no result" in line for line in lines)


def wait(seconds: float) -> dict[str, int]:
    time.sleep(seconds)
    return {}


def test_an_interruption_stops_what_is_under_way(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "results.json"
    runs = {"first": partial(square, 2), **{str(n): partial(wait, 3_600.0) for n in range(5)}}
    with pytest.raises(KeyboardInterrupt):
        Results(path, interrupt).measure_all(runs, processes=2)
    assert json.loads(path.read_text()).keys() == {"first"}
    for worker in multiprocessing.active_children():
        worker.join(60.0)
    assert multiprocessing.active_children() == []
