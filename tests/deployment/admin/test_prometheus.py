"""A real Prometheus scrapes the port, and answers the queries of docs/reference/admin_port.md."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, Router

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "admin_port.md"
Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def query(admin: Admin, tmp_path: Path) -> Iterator[Query]:
    """Asks a Prometheus that scrapes the port every 200 ms."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian's package prometheus)")
    target = {"targets": [f"127.0.0.1:{admin.server.port}"]}
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "grpo-gym", "static_configs": [target]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(expression: str) -> list[dict[str, Any]]:
        parameters = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{port}/api/v1/query?{parameters}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(timeout=20)


def wait_for(query: Query, expression: str, value: float) -> None:
    found: Any = "no answer"
    for _ in range(150):
        try:
            found = query(expression)
        except OSError as error:  # it still starts
            found = error
        else:
            if found and float(found[0]["value"][1]) == value:
                return
        time.sleep(0.1)
    pytest.fail(f"{expression} must become {value}, is {found}")


def queries() -> dict[str, str]:
    """The queries on the page by their template's name, over a range of 1 m."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = {}
    for document in (each for block in blocks for each in yaml.safe_load_all(block)):
        if document.get("kind") == "MetricTemplate":
            query = document["spec"]["query"].replace("{{ interval }}", "1m")
            found[document["metadata"]["name"]] = query
        if document.get("kind") == "AnalysisTemplate":
            for metric in document["spec"]["metrics"]:
                found[metric["name"]] = metric["provider"]["prometheus"]["query"]
    return found


def test_the_queries_on_the_page(admin: Admin, router: Router, query: Query) -> None:
    wait_for(query, "up", 1.0)
    first, second = router.endpoints
    observer = router.observers[0]
    for number in range(1_000):
        # The policy: 1 % errors; 2 % of the answers in the bucket from 250 to 500 ms.
        observer.on_finish((first, second)[number % 2], "policy", number % 100 != 0, 20.0)
        if number % 50 == 0:
            observer.on_finish(first, "policy", True, 400.0)
        # Of the fallback, whose answers are all bad, nothing is asked.
        observer.on_finish(first, "fallback", False, 5_000.0)
        observer.on_pick(first, "policy")
        observer.on_cancel(first, "policy")
    wait_for(query, 'sum(grpo_gym_requests_total{outcome="success",arm="policy"})', 1_010.0)

    answers = {}
    for name, expression in queries().items():
        (answer,) = query(expression)  # one number each, without labels
        assert answer["metric"] == {}, name
        answers[name] = float(answer["value"][1])
    assert answers["success-rate"] == pytest.approx(1_010 / 1_020)
    assert answers["grpo-gym-success-percentage"] == pytest.approx(100 * 1_010 / 1_020)
    # The 99th of a hundred is half-way through that bucket.
    slow_share = 20 / 1_020
    expected_s = 0.25 + 0.25 * (1.0 - 0.01 / slow_share)
    assert answers["p99-seconds"] == pytest.approx(expected_s)
    assert answers["grpo-gym-p99-milliseconds"] == pytest.approx(1_000 * expected_s)
    assert len(answers) == 4


def test_without_traffic_the_queries_say_nothing_wrong(query: Query) -> None:
    wait_for(query, "count_over_time(up[1m]) >= bool 3", 1.0)
    for name, expression in queries().items():
        assert [answer["value"][1] for answer in query(expression)] in ([], ["NaN"]), name
