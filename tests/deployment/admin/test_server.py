"""Health, and a port that stays up whatever it is asked, and by whom."""

import asyncio
import gzip
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, Router, Scaler, samples_of
from grpo_gym.deployment.admin import start_admin
from grpo_gym.settings import ConfigError


def test_ready_while_one_endpoint_can_serve(admin: Admin, router: Router) -> None:
    first, second = router.endpoints
    router.set(first, healthy=False)
    assert admin.get("/health").json == {"ready": True, "problem": None}
    router.set(second, healthy=False, ejected=True)
    for path in ("/health", "/health/ready"):
        answer = admin.get(path)
        assert answer.status == 503
        assert answer.json == {"ready": False, "problem": "no endpoint is healthy"}
    # Restarting the process would not heal its endpoints.
    assert (admin.get("/health/live").status, admin.get("/health/live").json) == (
        200,
        {"alive": True},
    )
    assert admin.get("/status").json["problem"] == "no endpoint is healthy"


def test_not_ready_without_endpoints(admin: Admin, router: Router) -> None:
    router.endpoints.clear()
    assert admin.get("/health").status == 503


def test_a_scaler_is_ready_unless_it_says_why_not(open_admin: Callable[..., Admin]) -> None:
    scaler = Scaler()
    admin = open_admin(scaler)
    assert admin.get("/health").status == 200
    scaler.problem = "no metrics for 300 s"
    answer = admin.get("/health")
    assert (answer.status, answer.json["problem"]) == (503, "no metrics for 300 s")


def test_draining_is_alive_and_not_ready(admin: Admin) -> None:
    admin.server.drain()
    answer = admin.get("/health")
    assert (answer.status, answer.json["problem"]) == (503, "it is shutting down")
    assert admin.get("/health/live").status == 200


def test_a_service_that_hangs_is_told_and_others_are_not_kept(
    admin: Admin, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_gym.deployment.admin.server._SLOWEST_STATUS_S", 0.1)
    router.before_status = lambda: time.sleep(0.5)
    for path in ("/health/live", "/health", "/status", "/metrics"):
        answer = admin.get(path)
        assert answer.status == 503, path
        assert answer.json == {"error": "the service did not say its status within 0.1 s"}
    assert admin.get("/").status == 200
    router.before_status = lambda: None
    monkeypatch.undo()
    assert admin.get("/health").status == 200


def test_status_is_plain_json(admin: Admin, router: Router) -> None:
    router.observers[0].on_pick("127.0.0.1:9001", "policy")
    for latency_ms in range(1, 101):
        router.observers[0].on_finish("127.0.0.1:9001", "policy", latency_ms > 10, latency_ms)
    status = admin.get("/status").json
    assert (status["policy"], status["mode"], status["expired"]) == (
        "pretrained:router",
        "shadow",
        3,
    )
    first, second = status["endpoints"]
    assert (first["name"], first["picks"], first["errors"]) == ("127.0.0.1:9001", 1, 10)
    assert (first["p50_ms"], first["p99_ms"]) == (50.0, 99.0)
    assert (second["p50_ms"], second["in_flight"]) == (None, 2)


def test_a_port_in_use_is_one_error_line(open_admin: Callable[..., Admin], router: Router) -> None:
    taken = open_admin(Router())
    with pytest.raises(ConfigError) as caught:
        asyncio.run(start_admin(router, port=taken.server.port))
    assert str(caught.value) == (
        f"the admin port cannot be opened at 127.0.0.1:{taken.server.port}: address already in "
        "use. Choose another address or port"
    )
    assert router.observers == []


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_does_not_exist_is_one_error_line(
    router: Router, host: str, port: int
) -> None:
    with pytest.raises(ConfigError, match=r"^the admin port cannot be opened at [^\n]*$"):
        asyncio.run(start_admin(router, host, port))


def test_a_closed_port_leaves_the_service_as_it_was(router: Router) -> None:
    async def open_and_close() -> int:
        server = await start_admin(router, port=0)
        assert len(router.observers) == 1
        await server.close()
        return server.port

    port = asyncio.run(open_and_close())
    assert router.observers == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_ipv6(open_admin: Callable[..., Admin], router: Router) -> None:
    try:
        admin = open_admin(router, "::1")
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with socket.create_connection(("::1", admin.server.port), timeout=5) as connection:
        connection.sendall(b"POST /guard/promote HTTP/1.1\r\nHost: [::1]\r\nX-Grpo-Gym: 1\r\n")
        connection.sendall(b"Connection: close\r\n\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /policy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /policy HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_garbage_is_a_bad_request(admin: Admin, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", admin.server.port), timeout=5) as connection:
        connection.sendall(garbage)
        answer = connection.makefile("rb").readline()
    assert answer.startswith(b"HTTP/1.") and answer.split()[1] in (b"400", b"403", b"414", b"431")
    assert admin.get("/health").status == 200


def test_a_slow_body_is_given_up(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_gym.deployment.admin.server._SLOWEST_BODY_S", 0.1)
    request = b"POST /policy HTTP/1.1\r\nHost: localhost\r\nX-Grpo-Gym: 1\r\n"
    request += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", admin.server.port), timeout=5) as connection:
        connection.sendall(request)
        assert b"408" in connection.makefile("rb").readline()


def test_clients_that_go_away_are_nobodys_problem(admin: Admin, router: Router) -> None:
    router.before_status = lambda: time.sleep(0.02)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", admin.server.port), timeout=5) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert admin.get("/health").status == 200


def test_large_metrics_are_compressed_for_those_who_can_read_it(admin: Admin) -> None:
    plain = admin.get("/metrics")
    assert "content-encoding" not in plain.headers
    connection = http.client.HTTPConnection("127.0.0.1", admin.server.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.getheader("Content-Encoding") == "gzip"
    text = gzip.decompress(answer.read()).decode()
    connection.close()
    assert samples_of(text).keys() == samples_of(plain.text).keys()


def test_no_torch_where_traffic_is_served() -> None:
    code = "import sys, grpo_gym.deployment.admin; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_closes_whatever_it_is_doing(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_gym.deployment.admin.server._FORGET_EVERY_S", 0.0)

    async def open_and_close() -> None:
        for number in range(200):
            server = await start_admin(router, port=0)
            await asyncio.sleep(number * 1e-5)  # to be within the reading, or at its end
            async with asyncio.timeout(10):
                await server.close()

    asyncio.run(open_and_close())
