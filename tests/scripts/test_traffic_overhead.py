"""scripts/traffic_overhead.py: what it reads from wrk, and one way measured."""

import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from grpo_gym.deployment.picker.envoy_process import find_envoy

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
_OUTPUT = """Running 5s test @ http://127.0.0.1:1
  Latency Distribution
     50%  340.00us
     75%    1.02ms
     99%    1.20s
  1000 requests in 5.00s, 100.00KB read
Requests/sec:  24962.17
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("traffic_overhead")


def _say(monkeypatch: pytest.MonkeyPatch, script: Any, text: str) -> None:
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=text))


def test_wrk_is_read(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _say(monkeypatch, script, _OUTPUT)

    found = script.load("http://127.0.0.1:1", 5.0, 16)

    assert found == {"p50_ms": 0.34, "p99_ms": 1200.0, "requests_per_s": 24962.17}


@pytest.mark.parametrize(
    "line", ["  Non-2xx or 3xx responses: 3", "  Socket errors: connect 0, read 1, write 0"]
)
def test_failed_requests_are_no_measurement(
    script: Any, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    _say(monkeypatch, script, f"{_OUTPUT}{line}\n")

    with pytest.raises(RuntimeError, match="requests failed"):
        script.load("http://127.0.0.1:1", 5.0, 16)


def test_the_table_has_medians(script: Any) -> None:
    values: dict[str, Any] = {"machine": {}}
    for repeat, rate in enumerate((1_000.0, 5_000.0, 2_000.0)):
        values[f"direct//{repeat}"] = {
            "p50_ms": 0.1,
            "p99_ms": 1.0,
            "requests_per_s": rate,
            "not_routed": repeat,
        }

    table = script.table(values)

    assert [next(iter(column.cells)) for column in table.columns] == [
        "direct",
        "",
        "0.10",
        "1.0",
        "2,000",
        "3",
    ]


@pytest.mark.skipif(
    shutil.which("wrk") is None or find_envoy() is None, reason="needs wrk and the extra envoy"
)
def test_a_way_is_measured(script: Any) -> None:
    with script.backends() as endpoints:
        assert len(endpoints) == script.BACKENDS
        found = script.measure("envoy", "least request", endpoints, script.Options(seconds=1.0))

    assert found["requests_per_s"] > 10.0
    assert found["not_routed"] == 0
