"""`grpo-gym picker` as a process of its own, with the real Envoy."""

import contextlib
import math
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

from envoy_bench import ENVOY, Backend, Envoy, backends, free_port, load, wait_until
from grpo_gym.cli.main import main

_BACKENDS = "http://127.0.0.1:9001", "http://127.0.0.1:9002"


class Picker:
    """A process of `grpo-gym picker`."""

    def __init__(self, options: list[str], log: Path) -> None:
        self.admin = free_port()
        self.log = log
        command = [sys.executable, "-m", "grpo_gym", "picker", *options]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, "--admin-port", str(self.admin)], stdout=file, stderr=file
            )
        try:
            wait_until(lambda: self._says("admin port:"), 60.0)
        except BaseException:
            self.process.kill()
            raise

    def metrics(self) -> str:
        """What Prometheus reads."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def _says(self, text: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()


def _options(mode: str, servers: list[Backend]) -> list[str]:
    urls = [f"http://{each.name}" for each in servers]
    ports = ["--port", str(free_port()), "--http-port", str(free_port())]
    return ["--mode", mode, "--backend", *urls, *ports, "--drain-s", "1.5"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


def _envoy(options: list[str], stack: ExitStack, capsys: pytest.CaptureFixture[str]) -> Envoy:
    """The real Envoy with the configuration that the command prints."""
    if ENVOY is None:
        pytest.skip("needs the extra envoy")
    ports = ["--listen-port", str(free_port()), "--envoy-admin-port", str(free_port())]
    timeout = ["--listen-host", "127.0.0.1", "--pick-timeout-ms", "10000"]
    capsys.readouterr()
    assert main(["picker", *options, *ports, *timeout, "--write-envoy-config"]) == 0
    envoy = Envoy(yaml.safe_load(capsys.readouterr().out), Path.cwd())
    stack.callback(envoy.close)
    return envoy


def _picker(options: list[str], stack: ExitStack) -> Picker:
    picker = Picker(options, Path.cwd() / "picker.log")
    stack.callback(picker.process.wait, 10)
    stack.callback(picker.process.kill)
    return picker


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz", "weights"])
def test_it_picks_beside_the_envoy_that_it_configures_and_ends_with_status_0(
    mode: str, stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = stack.enter_context(backends(3))
    options = _options(mode, servers)
    picker = _picker(options, stack)
    envoy = _envoy(options, stack, capsys)

    assert load(envoy.url, 60).statuses == {200: 60}
    wait_until(lambda: "grpo_gym" in picker.metrics())
    picker.process.send_signal(signal.SIGTERM)
    while picker.process.poll() is None:
        assert load(envoy.url, 20).statuses == {200: 20}

    assert picker.process.returncode == 0, picker.log.read_text()
    assert load(envoy.url, 20).statuses == {200: 20}
    assert "Traceback" not in picker.log.read_text()


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz", "weights"])
def test_the_death_of_the_picker_loses_none_of_200_open_requests(
    mode: str, stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = stack.enter_context(backends(3))
    for server in servers:
        server.delay_s = math.inf
    options = _options(mode, servers)
    picker = _picker(options, stack)
    envoy = _envoy(options, stack, capsys)
    clients = []
    for _ in range(200):
        client = socket.create_connection(("127.0.0.1", envoy.port))
        stack.enter_context(contextlib.closing(client))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        clients.append(client)
    wait_until(lambda: sum(each.waiting for each in servers) == 200)

    picker.process.kill()
    picker.process.wait(10)
    for server in servers:
        server.release()

    statuses = []
    for client in clients:
        client.settimeout(20)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        statuses.append(answer.split(b"\r\n")[0])
        assert answer.endswith(b"0\r\n\r\n")
    assert statuses == [b"HTTP/1.1 200 OK"] * 200


def test_it_starts_without_torch() -> None:
    code = (
        "import sys, grpo_gym.deployment.picker.server, grpo_gym.deployment.admin;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--backend must name at least one server"),
        (["--backend", "http://localhost:1"], "backend must be an IP address"),
        (["--backend", "nonsense"], "backend must be"),
        (["--backend", *_BACKENDS[:1] * 2], "must name each server once"),
        (["--backend", *_BACKENDS, "--mode", "wasm"], "mode must be one of"),
        (["--backend", *_BACKENDS, "--policy", "prettrained:router"], "policy"),
        (["--backend", *_BACKENDS, "--guard-mode", "fool"], "guard_mode must be"),
        (["--backend", *_BACKENDS, "--exploration", "0.1"], "choice_log and exploration must be"),
        (
            ["--backend", *_BACKENDS, "--exploration", "0.1", "--choice-log", "/dev/null/a"],
            "choice_log must be a file that can be written, got /dev/null/a: ",
        ),
        (["--backend", *_BACKENDS, "--eds-file", "a.yaml", "--mode", "weights"], "eds_file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["picker", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "mode"),
    [("--port", "ext_proc"), ("--http-port", "ext_authz"), ("--admin-port", "ext_proc")],
)
def test_a_port_that_is_taken_ends_it_with_status_2(
    option: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = {name: str(free_port()) for name in ("--port", "--http-port", "--admin-port")}
    with socket.socket() as taken:
        if hasattr(socket, "SO_REUSEPORT"):  # as another picker would, if pickers shared ports
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports[option] = str(taken.getsockname()[1])
        given = [word for pair in ports.items() for word in pair]
        assert main(["picker", "--mode", mode, "--backend", *_BACKENDS, *given]) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert ports[option] in error
    assert error.count("\n") == 1
