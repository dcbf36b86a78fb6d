"""Nobody but an operator on this machine gives commands; foreign web pages read nothing."""

import socket
from collections.abc import Callable

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, Router
from grpo_gym.deployment.admin.protection import is_loopback

COMMANDS = [
    ("POST", "/guard/promote"),
    ("POST", "/guard/shadow"),
    ("POST", "/guard/rollback"),
    ("POST", "/policy"),
    ("POST", "/endpoints"),
    ("DELETE", "/endpoints/127.0.0.1:9001"),
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:9901",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "[::2]",
    "[::1",
    "",
]


@pytest.mark.parametrize(("method", "path"), COMMANDS)
def test_commands_need_the_header(admin: Admin, router: Router, method: str, path: str) -> None:
    router.guard.set_mode("full")
    for headers in ({}, {"X-Grpo-Gym": "0"}, {"X-Grpo-Gym": "1, 1"}):
        answer = admin.request(method, path, headers=headers)
        assert (answer.status, answer.json) == (
            403,
            {"error": "commands need the header `X-Grpo-Gym: 1`"},
        )
    assert (router.guard.mode, len(router.endpoints)) == ("full", 2)


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_no_request_may_name_another_host(admin: Admin, router: Router, host: str) -> None:
    for method, path in (("GET", "/status"), ("GET", "/metrics"), ("POST", "/guard/promote")):
        answer = admin.request(method, path, headers={"Host": host, "X-Grpo-Gym": "1"})
        assert answer.status == 403, path
        assert answer.json["error"].startswith("Host must be localhost or a loopback address")
    assert router.guard.mode == "shadow"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9901", "127.0.0.2:1", "[::1]:9901"])
def test_every_name_of_loopback_will_do(admin: Admin, host: str) -> None:
    headers = {"Host": host, "X-Grpo-Gym": "1"}
    assert admin.request("POST", "/guard/promote", headers=headers).status == 200


@pytest.mark.parametrize("hosts", [(), ("localhost", "evil.example")])
def test_one_host_must_be_named(admin: Admin, router: Router, hosts: tuple[str, ...]) -> None:
    lines = ["POST /guard/promote HTTP/1.1", *(f"Host: {host}" for host in hosts)]
    request = "\r\n".join([*lines, "X-Grpo-Gym: 1", "Connection: close", "", ""])
    with socket.create_connection(("127.0.0.1", admin.server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = connection.makefile("rb").read()
    assert answer.split()[1] in (b"400", b"403")
    assert router.guard.mode == "shadow"


def test_a_port_for_the_network_may_be_read_from_there_but_takes_no_commands(
    open_admin: Callable[..., Admin], router: Router, own_address: str
) -> None:
    admin = open_admin(router, "0.0.0.0")

    def answer_to(method: str, path: str, host: str) -> bytes:
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Grpo-Gym: 1\r\n"
        address = (own_address, admin.server.port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
            return connection.makefile("rb").read()

    assert answer_to("GET", "/metrics", "gateway:9901").startswith(b"HTTP/1.1 200")
    # From another address, a header that says "localhost" is a lie.
    for host in ("gateway:9901", "localhost"):
        assert answer_to("POST", "/guard/promote", host).startswith(b"HTTP/1.1 403")
    assert router.guard.mode == "shadow"
    assert admin.command("POST", "/guard/promote").status == 200


@pytest.fixture
def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
    if is_loopback(address):
        pytest.skip("this machine has no address but loopback")
    return address
