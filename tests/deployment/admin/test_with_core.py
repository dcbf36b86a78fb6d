"""The admin port of a real routing core."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, samples_at
from grpo_gym.deployment.admin import RoutesRequests, SwapsPolicy
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, RoutingCore, routing_guard


@pytest.fixture
def core() -> Iterator[RoutingCore]:
    endpoints = [Endpoint.from_url(f"http://127.0.0.1:{port}") for port in (9001, 9002, 9003)]
    config = RoutingConfig(guard=routing_guard(mode="full", holdout_percentage=0.0))
    with RoutingCore(endpoints, "round_robin", config) as core:
        yield core


@pytest.fixture
def admin(core: RoutingCore, open_admin: Callable[..., Admin]) -> Admin:
    return open_admin(core)


def test_a_core_has_all_commands(core: RoutingCore) -> None:
    assert isinstance(core, RoutesRequests)
    assert isinstance(core, SwapsPolicy)


def test_its_requests_are_seen(admin: Admin, core: RoutingCore) -> None:
    for number in range(30):
        assert core.finish(core.pick().token, ok=number % 10 != 0, latency_ms=20.0)
    waiting = core.pick()
    core.cancel(core.pick().token)
    assert not core.finish(0, ok=True)

    samples = samples_at(admin)

    def total(name: str, **wanted: str) -> float:
        return sum(
            value
            for (each, labels), value in samples.items()
            if each == name and wanted.items() <= dict(labels).items()
        )

    assert total("picks_total", arm="policy") == 32
    assert total("requests_total", outcome="success") == 27
    assert total("requests_total", outcome="error") == 3
    assert total("requests_total", outcome="cancelled") == 1
    assert total("request_duration_seconds_bucket", le="0.01") == 0
    assert total("request_duration_seconds_bucket", le="0.025") == 30
    assert total("requests_in_flight") == 1
    assert total("requests_in_flight", endpoint=waiting.endpoints[0]) == 1
    assert total("unknown_tokens_total") == 1
    assert total("endpoint_share_ratio") == pytest.approx(1.0)
    assert total("guard_mode", mode="full") == 1
    status = admin.get("/status").json
    assert (status["picks"], status["errors"], status["cancelled"]) == (32, 3, 1)
    assert {endpoint["p99_ms"] for endpoint in status["endpoints"]} == {20.0}


def test_endpoints_come_and_go_while_requests_are_in_flight(
    admin: Admin, core: RoutingCore
) -> None:
    picks = [core.pick() for _ in range(6)]
    assert admin.command("DELETE", "/endpoints/127.0.0.1:9001").status == 200
    assert admin.command("POST", "/endpoints", {"url": "http://127.0.0.1:9004"}).status == 200
    assert all(core.finish(pick.token, ok=True) for pick in picks)
    names = {core.pick().endpoints[0] for _ in range(6)}
    assert names == {"127.0.0.1:9002", "127.0.0.1:9003", "127.0.0.1:9004"}
    seen = {dict(labels)["endpoint"] for name, labels in samples_at(admin) if name == "picks_total"}
    assert seen == names


def test_the_policy_is_swapped_or_stays(admin: Admin, core: RoutingCore, tmp_path: Path) -> None:
    assert admin.command("POST", "/policy", {"policy": "pretrained:router"}).status == 200
    assert core.status().policy == "pretrained:router"
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"not a checkpoint")
    for name in ("no_such_policy", str(damaged), str(tmp_path), "x" * 4_000, "a\0b"):
        answer = admin.command("POST", "/policy", {"policy": name})
        assert (answer.status, "\n" in answer.json["error"]) == (400, False), name
    assert core.status().policy == "pretrained:router"
    assert core.pick().endpoints


def test_not_ready_once_no_endpoint_is_healthy(admin: Admin, core: RoutingCore) -> None:
    for endpoint in core.status().endpoints:
        assert admin.get("/health").status == 200
        core.set_health(endpoint.name, False)
    assert admin.get("/health").status == 503
    core.set_health("127.0.0.1:9002", True)
    assert admin.get("/health").status == 200


def test_a_command_changes_the_real_guard(admin: Admin, core: RoutingCore) -> None:
    assert admin.command("POST", "/guard/rollback", {"reason": "p99 too high"}).status == 200
    assert core.guard.mode == "shadow"
    assert admin.command("POST", "/guard/promote").json["mode"] == "gradual"
