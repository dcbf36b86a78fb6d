"""Whatever Prometheus answers, a reading is complete and fresh, or one clear error."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
from aiohttp import web

from grpo_gym.deployment.scaler.prometheus import MetricsError, Prometheus
from grpo_gym.envs.autoscaler.measured import MEASUREMENTS
from scaler_world import READING, FakePrometheus, answer, http_server, settings

QUERIES = {name: name for name in MEASUREMENTS}


def read(fake: FakePrometheus, **changes: Any) -> dict[str, float]:
    """One reading."""
    return read_from(fake.handle, **changes)


def read_from(handler: Callable[..., Any], **changes: Any) -> dict[str, float]:
    async def run() -> dict[str, float]:
        async with http_server(handler) as url:
            prometheus = Prometheus(settings(prometheus=url + "/prefix/", **changes), QUERIES)
            try:
                return await prometheus.read()
            finally:
                await prometheus.close()

    return asyncio.run(run())


def test_a_reading_has_every_measurement() -> None:
    fake = FakePrometheus()
    assert read(fake) == READING
    assert sorted(fake.queries) == sorted(MEASUREMENTS)


@pytest.mark.parametrize("kind", ["NaN", "+Inf", "-Inf", "-3", "1e999"])
def test_values_are_passed_on_as_they_are(kind: str) -> None:
    """Whether they are plausible is for the core to say."""
    fake = FakePrometheus()
    fake.broken["cpu_percent"] = json.dumps(answer(kind))
    np_value = read(fake)["cpu_percent"]
    assert np_value == float(kind) or kind == "NaN"


def test_a_scalar_is_a_value_too() -> None:
    fake = FakePrometheus()
    scalar = {"resultType": "scalar", "result": [time.time(), "7"]}
    fake.broken["pending"] = json.dumps({"status": "success", "data": scalar})
    assert read(fake)["pending"] == 7.0


_DEEP = "[" * 100_000
_NOW = time.time()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps(answer()), "a query must give one series, got 0$"),
        (json.dumps(answer("1", "2")), "a query must give one series, got 2: aggregate them"),
        ("<html>not found</html>", "the answer is not JSON"),
        (b"\xff\xfe\x00", "the answer is not JSON"),
        ("", "the answer is not JSON"),
        (_DEEP, "the answer is not"),
        ("[]", "the answer is not one of Prometheus"),
        ("null", "the answer is not one of Prometheus"),
        ('{"status": "success"}', "the answer is not one of Prometheus"),
        ('{"status": "success", "data": null}', "the answer is not one of Prometheus"),
        ('{"status": "error", "error": "bad query"}', "error: bad query"),
        (json.dumps(answer(None)), "the answer is not one of Prometheus"),
        (json.dumps(answer("many")), "could not convert string to float"),
        (json.dumps(answer("1", now_s=_NOW - 1e6)), r"at most 60 s from now, got \d+ s ago"),
        (json.dumps(answer("1", now_s=_NOW + 1e6)), r"at most 60 s from now, got -\d+ s ago"),
        (json.dumps(answer("1")).replace('"value"', '"histogram"'), "not one of Prometheus"),
        (json.dumps(answer("1")).replace("vector", "matrix"), "a vector or a scalar, got a matrix"),
        (b" " * 1_100_000, "the answer has more than 1,000,000 bytes"),
        (503, "HTTP status 503: too busy"),
        (401, "HTTP status 401: too busy"),
    ],
)
def test_what_is_no_value_is_an_error_that_names_the_measurement(
    body: str | bytes | int, message: str
) -> None:
    fake = FakePrometheus()
    fake.broken["p99_latency_ms"] = body
    with pytest.raises(MetricsError, match=f"^p99_latency_ms: .*{message}"):
        read(fake)


def test_a_slow_prometheus_is_not_waited_for() -> None:
    fake = FakePrometheus()
    fake.wait_s = 30.0
    begun = time.monotonic()
    with pytest.raises(MetricsError, match=r"Prometheus has not answered within 0\.2 s"):
        read(fake, query_seconds=0.2)
    assert time.monotonic() - begun < 5.0


def test_an_answer_that_drips_is_not_waited_for() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    with pytest.raises(MetricsError, match="has not answered within"):
        read_from(drip, query_seconds=0.3)


def test_a_prometheus_that_is_down_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        async def run() -> None:
            prometheus = Prometheus(settings(prometheus=url), QUERIES)
            try:
                await prometheus.read()
            finally:
                await prometheus.close()

        with pytest.raises(MetricsError, match=r"Cannot connect to host 127\.0\.0\.1"):
            asyncio.run(run())


def test_tokens_and_headers_go_to_prometheus_and_to_nobody_else(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    seen: list[tuple[str | None, str | None]] = []

    async def check(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), request.headers.get("X-Scope-OrgID")))
        assert request.path == "/prefix/api/v1/query"
        raise web.HTTPFound("http://127.0.0.1:1/elsewhere")

    with pytest.raises(MetricsError, match="HTTP status 302: no reason given"):
        read_from(check, bearer_token_file=str(token), headers={"X-Scope-OrgID": "web"})
    assert set(seen) == {("Bearer s3cret", "web")}
    with pytest.raises(MetricsError, match="No such file"):
        read_from(check, bearer_token_file=str(tmp_path / "none"))
