"""What Prometheus reads: names, types, values, and that there are never too many."""

import math
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

from admin_port import Admin, Router, Scaler, samples_at
from grpo_gym.deployment.admin.metrics import ServiceCollector
from grpo_gym.deployment.admin.traffic import BUCKETS_S, Traffic, quantile

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "admin_port.md"


def send(router: Router, name: str, arm: Any, *latencies_ms: float, ok: bool = True) -> None:
    for latency_ms in latencies_ms:
        router.observers[0].on_pick(name, arm)
        router.observers[0].on_finish(name, arm, ok, latency_ms)


def test_requests_are_counted_by_endpoint_arm_and_outcome(admin: Admin, router: Router) -> None:
    first, second = router.endpoints
    send(router, first, "policy", 0.9, 1.0, 1.1, 70_000.0)
    send(router, first, "fallback", 30.0)
    send(router, second, "policy", 2.0, ok=False)
    router.observers[0].on_pick(second, "policy")
    router.observers[0].on_cancel(second, "policy")

    samples = samples_at(admin)

    def value(name: str, endpoint: str, arm: str, **labels: str) -> float:
        all_labels = {"endpoint": endpoint, "arm": arm, **labels}
        return samples[name, tuple(sorted(all_labels.items()))]

    assert value("picks_total", first, "policy") == 4
    assert value("picks_total", first, "fallback") == 1
    assert value("picks_total", second, "policy") == 2
    assert value("requests_total", first, "policy", outcome="success") == 4
    assert value("requests_total", second, "policy", outcome="error") == 1
    assert value("requests_total", second, "policy", outcome="success") == 0
    assert value("requests_total", second, "policy", outcome="cancelled") == 1

    durations = "request_duration_seconds"
    assert value(f"{durations}_sum", first, "policy") == pytest.approx(70.003)
    assert value(f"{durations}_count", first, "policy") == 4
    # A bound belongs to its bucket; each bucket holds those before it.
    for bound, count in (("0.001", 2), ("0.0025", 3), ("60", 3), ("+Inf", 4)):
        assert value(f"{durations}_bucket", first, "policy", le=bound) == count, bound
    assert value(f"{durations}_count", second, "policy") == 1


def test_endpoints_are_shown_as_the_core_sees_them(admin: Admin, router: Router) -> None:
    first, second = router.endpoints
    router.set(first, in_flight=7, share=0.25, weight=3.0, latency_ms=12.5, age_s=1.5)
    router.set(second, healthy=False, ejected=True, latency_ms=None, age_s=None, error_rate=0.5)
    samples = samples_at(admin)
    for name, of_first, of_second in (
        ("requests_in_flight", 7.0, 2.0),
        ("endpoint_share_ratio", 0.25, 0.5),
        ("endpoint_weight", 3.0, 1.0),
        ("endpoint_latency_seconds", 0.0125, None),
        ("endpoint_age_seconds", 1.5, None),
        ("endpoint_error_ratio", 0.01, 0.5),
        ("endpoint_healthy", 1.0, 0.0),
        ("endpoint_ejected", 0.0, 1.0),
    ):
        assert samples.get((name, (("endpoint", first),))) == of_first, name
        assert samples.get((name, (("endpoint", second),))) == of_second, name
    assert samples["expired_requests_total", ()] == 3
    assert samples["unknown_tokens_total", ()] == 4


def test_the_guard_is_shown_with_what_would_roll_it_back(admin: Admin, router: Router) -> None:
    router.guard.set_mode("gradual")
    router.guard.set_percentage(40.0)
    router.guard.act(None)
    samples = samples_at(admin)
    modes = {
        mode: samples["guard_mode", (("mode", mode),)] for mode in ("shadow", "gradual", "full")
    }
    assert modes == {"shadow": 0.0, "gradual": 1.0, "full": 0.0}
    assert samples["guard_policy_ratio", ()] == 0.4
    assert samples["guard_decisions_total", ()] == 1
    assert samples["guard_evidence_limit", ()] == 100.0
    assert samples["guard_window_violations_limit", ()] == 10.0
    assert samples["guard_alarm_failed_checks_limit", ()] == 5.0
    assert samples["policy_info", (("policy", "pretrained:router"),)] == 1.0

    router.policy = 'a "policy"\n\\with everything'
    assert samples_at(admin)["policy_info", (("policy", router.policy),)] == 1.0


def test_a_scaler_says_what_it_answered(open_admin: Callable[..., Admin]) -> None:
    samples = samples_at(open_admin(Scaler()))
    assert samples["scaler_decisions_total", ()] == 12
    assert samples["scaler_failures_total", ()] == 2
    assert samples["scaler_replicas", ()] == 7
    assert samples["scaler_metrics_age_seconds", ()] == 15
    assert ("scaler_target", ()) not in samples
    assert not any("endpoint" in dict(labels) for _, labels in samples)


def test_odd_numbers_survive_both_formats(admin: Admin, router: Router) -> None:
    guard = replace(router.guard.status(), evidence=math.inf, policy_outcome=-math.inf)
    router.guard.status = lambda: guard  # type: ignore[method-assign]
    samples = samples_at(admin)
    assert samples["guard_evidence", ()] == math.inf
    assert samples["guard_outcome", (("arm", "policy"),)] == -math.inf
    assert ("guard_outcome", (("arm", "fallback"),)) not in samples

    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = admin.request("GET", "/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {
        family.name: family for family in openmetrics.text_string_to_metric_families(answer.text)
    }
    assert families["grpo_gym_guard_evidence"].samples[0].value == math.inf
    assert families["grpo_gym_request_duration_seconds"].type == "histogram"


def test_promtool_has_nothing_to_say(admin: Admin, router: Router) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    send(router, "127.0.0.1:9001", "policy", 5.0)
    text = admin.get("/metrics").text
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    # It does complain about a name without its unit.
    spoilt = text.replace("duration_seconds", "duration_milliseconds")
    spoilt_check = subprocess.run(
        command, input=spoilt, capture_output=True, text=True, check=False
    )
    assert "base unit" in spoilt_check.stderr


def test_endpoints_that_come_and_go_leave_nothing_behind(admin: Admin, router: Router) -> None:
    send(router, "127.0.0.1:9001", "policy", 5.0)
    before = set(samples_at(admin))
    for number in range(300):
        router.add(endpoint_named(f"10.0.0.1:{number}"))
        send(router, f"10.0.0.1:{number}", "policy", 5.0)
        router.remove(f"10.0.0.1:{number}")
    # One that was removed while it answered.
    router.observers[0].on_finish("10.0.0.1:7", "policy", True, 5.0)
    assert set(samples_at(admin)) == before
    assert len(admin.server._traffic._endpoints) == 2


def test_a_port_that_nobody_reads_forgets_endpoints_too(
    open_admin: Callable[..., Admin], router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_gym.deployment.admin.server._FORGET_EVERY_S", 0.05)
    admin = open_admin(router)
    forgotten = threading.Event()
    for number in range(50):
        send(router, f"10.0.0.1:{number}", "policy", 5.0)
    for _ in range(100):
        if len(admin.server._traffic._endpoints) == 2:
            return
        forgotten.wait(0.05)
    pytest.fail(f"{len(admin.server._traffic._endpoints)} endpoints are kept")


def endpoint_named(name: str) -> Any:
    from grpo_gym.deployment.routing import Endpoint

    return Endpoint(name, f"http://{name}")


def test_recent_latencies_are_bounded() -> None:
    traffic = Traffic()
    for number in range(5_000):
        traffic.on_finish("x", "policy", True, float(number))
    tally = traffic.of(["x"])["x"]
    assert len(tally.recent_ms) == 500
    assert quantile(tally.recent_ms, 0.5) == 4_749.0
    # A copy: requests go on while it is read.
    traffic.on_finish("x", "policy", True, 1.0)
    assert (len(tally.recent_ms), tally.recent_ms[-1]) == (500, 4_999.0)
    assert sum(tally.arms["policy"].buckets) == tally.arms["policy"].successes == 5_000


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([2.0, 1.0], 0.5, 1.0), (range(1, 101), 0.99, 99.0)],
)
def test_a_quantile_is_a_value_that_occurred(
    values: list[float], share: float, expected: float | None
) -> None:
    assert quantile(values, share) == expected


def test_no_request_is_lost_among_threads(admin: Admin, router: Router) -> None:
    name = "127.0.0.1:9001"

    def work() -> None:
        send(router, name, "policy", *([1.0] * 3_000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        samples_at(admin)
    samples = samples_at(admin)
    labels = (("arm", "policy"), ("endpoint", name))
    assert samples["picks_total", labels] == 12_000
    assert samples["request_duration_seconds_count", labels] == 12_000


# The page


def families() -> Iterator[Metric]:
    """All metrics of both kinds of services, each with a sample."""
    router, scaler = Router(), Scaler()
    guard = replace(router.guard.status(), policy_outcome=-1.0, fallback_outcome=-2.0)
    router.guard.status = lambda: guard  # type: ignore[method-assign]
    status = replace(scaler.status(), target=50.0)
    scaler.status = lambda: status  # type: ignore[method-assign]
    seen = set()
    for service in (router, scaler):
        for family in ServiceCollector(service, Traffic()).collect():
            if family.name not in seen:
                yield family
            seen.add(family.name)


def row_of(family: Metric) -> tuple[str, ...]:
    labels = {name for sample in family.samples for name in sample.labels} - {"le"}
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    kind = family.type.replace("info", "gauge")
    return family.name + suffix, kind, ", ".join(sorted(labels)), family.documentation


def test_the_page_has_every_metric() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(grpo_gym_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.*) \|$", text, re.MULTILINE
    )
    assert rows == [row_of(family) for family in families()]


def test_names_follow_prometheus() -> None:
    for family in families():
        name = row_of(family)[0]
        assert name.startswith("grpo_gym_")
        assert not re.search(r"(_ms|percent|minutes|hours)", name)
        assert (family.type == "counter") == name.endswith("_total")
    assert list(BUCKETS_S) == sorted(BUCKETS_S)


def test_a_registry_of_its_own() -> None:
    from prometheus_client import REGISTRY

    registry = CollectorRegistry()
    registry.register(ServiceCollector(Router(), Traffic()))
    assert b"grpo_gym_picks_total" in generate_latest(registry)
    assert b"grpo_gym" not in generate_latest(REGISTRY)
