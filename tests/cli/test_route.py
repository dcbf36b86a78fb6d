"""`grpo-gym route`: its options, what it refuses, what it says, and how it ends."""

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from grpo_gym.cli.main import main
from grpo_gym.deployment.proxy.files import check_open_files
from grpo_gym.deployment.proxy.settings import parse_backend, read_settings
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.settings import ConfigError, load_yaml
from proxy_processes import backend, process, route, routed

_NOTHING: dict[str, dict[str, object]] = {"route": {}, "proxy": {}, "routing": {}}
_BACKEND = "http://127.0.0.1:9001"


@contextmanager
def _taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def _error(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert main(["route", *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (_BACKEND, Endpoint("127.0.0.1:9001", _BACKEND)),
        (f"{_BACKEND},weight=2.5,workers=4", Endpoint("127.0.0.1:9001", _BACKEND, 2.5, 4)),
        (f"{_BACKEND},max_in_flight=8", Endpoint("127.0.0.1:9001", _BACKEND, 1.0, 1, 8)),
        ("https://shop.example/base/", Endpoint("shop.example:443", "https://shop.example/base")),
        ("http://[::1]:80", Endpoint("[::1]:80", "http://[::1]:80")),
    ],
)
def test_backends(text: str, endpoint: Endpoint) -> None:
    assert parse_backend(text) == endpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--backend must name at least one server, such as --backend http://127.0.0.1:9001"),
        (("--backend", "127.0.0.1:9001"), "backend must be http://HOST"),
        (("--backend", "ftp://a"), "backend must be http://HOST"),
        (("--backend", "http://a:b@c"), "backend must be http://HOST"),
        (("--backend", "http://a:99999"), "backend must be http://HOST"),
        (("--backend", "http://a?b"), "backend must be http://HOST"),
        (("--backend", f"{_BACKEND},weight"), "--backend must be URL[,weight=W]"),
        (("--backend", f"{_BACKEND},weight=1,weight=2"), "--backend must be URL[,weight=W]"),
        (("--backend", f"{_BACKEND},weight=0"), "weight must be > 0, got 0"),
        (("--backend", f"{_BACKEND},workers=x"), "workers must be an integer, got 'x'"),
        (("--backend", f"{_BACKEND},speed=2"), "'speed' is not a setting"),
        (
            ("--backend", _BACKEND, "--backend", f"{_BACKEND}/,weight=2"),
            "--backend must name each server once, got 127.0.0.1:9001 twice",
        ),
        (("--backend", _BACKEND, "--policy", "piak_ewma"), "Did you mean 'peak_ewma'?"),
        (("--backend", _BACKEND, "--policy", "oracle"), ""),
        (("--backend", _BACKEND, "--retries", "-1"), "retries must be >= 0, got '-1'"),
        (("--backend", _BACKEND, "--port", "70000"), "port must be <= 65535"),
        (("--backend", _BACKEND, "--grace", "3"), "Did you mean --grace-s?"),
        (("--backend", _BACKEND, "--observe-sizes"), "observe_sizes must be false here"),
        (("--backend", _BACKEND, "--ca-file", "none.pem"), "none.pem"),
        (("--backend", _BACKEND, "--max-connections", "100000000"), "(ulimit -Hn)"),
        (("--config", "none.yaml"), "cannot read none.yaml"),
    ],
)
def test_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in _error(capfd, *arguments)


def test_a_port_in_use(capfd: pytest.CaptureFixture[str]) -> None:
    with _taken_port() as port:
        message = _error(capfd, "--backend", _BACKEND, "--port", str(port))
        assert message == (
            f"port must be free, got 127.0.0.1:{port} (Address already in use): choose another"
        )


def test_an_admin_port_in_use(capfd: pytest.CaptureFixture[str]) -> None:
    with _taken_port() as port:
        message = _error(capfd, "--backend", _BACKEND, "--port", "0", "--admin-port", str(port))
        assert "admin port" in message
        assert str(port) in message


def test_a_policy_that_does_not_fit(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "policy.ckpt").write_bytes(b"garbage")
    _error(capfd, "--backend", _BACKEND, "--policy", str(tmp_path / "policy.ckpt"), status=1)


def test_a_file_of_settings_under_the_options() -> None:
    file = {
        "backend": [_BACKEND],
        "policy": "round_robin",
        "port": 80,
        "proxy": {"retries": 0, "max_headers": 50},
        "routing": {"ejection_s": 1.0, "guard": {"mode": "full", "block_steps": 900}},
    }
    settings = read_settings(
        file, {**_NOTHING, "route": {"port": 81}, "proxy": {"retries": 2}}, "f"
    )
    assert (settings.backend, settings.policy, settings.port) == ((_BACKEND,), "round_robin", 81)
    assert (settings.proxy.retries, settings.proxy.max_headers) == (2, 50)
    assert (settings.routing.ejection_s, settings.routing.token_age_s) == (1.0, 365 * 86_400.0)
    guard = settings.routing.guard
    assert (guard.mode, guard.block_steps) == ("full", 900)
    assert guard.policy_deadline_ms is None  # as for requests, not the guard's own default
    changed = read_settings(file, {**_NOTHING, "route": {"guard_mode": "gradual"}}, "f")
    assert changed.routing.guard.mode == "gradual"


def test_the_file_of_settings_in_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "routing.md").read_text()
    example = re.search(r"```yaml\n(# grpo-gym route .*?)```", page, re.DOTALL)
    assert example is not None
    (tmp_path / "route.yaml").write_text(example[1])
    settings = read_settings(load_yaml(tmp_path / "route.yaml"), _NOTHING, "route.yaml")
    assert [each.max_in_flight for each in settings.endpoints()] == [None, 64]
    assert settings.proxy.health_path == "/ready"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"port": "x"}, "f: port must be an integer, got 'x'"),
        ({"ports": 1}, "f: 'ports' is not a setting of RouteSettings"),
        ({"proxy": 3}, "f: proxy must be a mapping of settings, got 3"),
        ({"proxy": {"retry": 3}}, "f: 'proxy.retry' is not a setting"),
        ({"routing": {"guard": {"mode": "half"}}}, "f: routing.guard: mode must be"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used(file: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(file, _NOTHING, "f")
    assert message in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_room_for_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = {"now": (1_024, 4_096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(now=new))
    check_open_files(400)
    assert limits["now"] == (1_024, 4_096)
    check_open_files(1_000)
    assert limits["now"] == (2_128, 4_096)
    with pytest.raises(ConfigError, match=r"max_connections must be at most 1984 .* got 1985"):
        check_open_files(1_985)


def test_what_it_says_and_does(tmp_path: Path) -> None:
    (tmp_path / "route.yaml").write_text("policy: round_robin\naccess_log: true\n")
    with routed(2, "--config", tmp_path / "route.yaml", "--state", tmp_path / "guard.json") as (
        running,
        backends,
    ):
        names = [f"127.0.0.1:{port}" for _, port in backends]
        assert running.process.lines == [
            f"listening at http://127.0.0.1:{running.port}, backends: {', '.join(names)}\n",
            "policy: round_robin; guard: shadow: it only proposes, and least_connections decides\n",
            f"admin port: http://127.0.0.1:{running.admin_port}\n",
        ]
        url = f"http://127.0.0.1:{running.port}/a?b=secret"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b"GET /a?b=secret 0"
        assert [each["name"] for each in running.get("/status")["endpoints"]] == names
        maps = Path(f"/proc/{running.process.popen.pid}/maps").read_text()
        assert "uvloop" in maps
        assert "torch" not in maps
        assert running.terminate() == 0
        assert '127.0.0.1 "GET /a?b=secret HTTP/1.1" 200' in running.process.output
        assert running.process.output.endswith(
            "draining: waiting for requests in flight; a second signal stops at once\nstopped\n"
        )
        assert (tmp_path / "guard.json").is_file()


def test_a_log_of_choices_in_shadow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "choices.jsonl"
    options = ("--choice-log", path, "--exploration", "1", "--policy", "round_robin")
    with routed(2, *options) as (running, _):
        for _ in range(200):
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=10) as answer:
                answer.read()
        assert running.get("/status")["choice_log"]["dropped"] == 0
        assert running.terminate() == 0
    capsys.readouterr()
    assert main(["guard", "estimate", str(path), "--minimum-effective-rows", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 200
    assert result["self_normalised"]["value"] < 0.0


def test_a_second_signal_ends_it_at_once() -> None:
    with (
        backend(mean_ms=60_000.0) as (_, port),
        route("--backend", f"http://127.0.0.1:{port}") as running,
        socket.create_connection(("127.0.0.1", running.port)) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while running.in_flight() == 0:
            time.sleep(0.05)
        running.process.send(signal.SIGINT)
        running.process.line("^draining")
        started = time.monotonic()
        running.process.send(signal.SIGTERM)
        assert running.process.end() == 128 + signal.SIGTERM
        assert time.monotonic() - started < 20.0  # the grace period is 30 s
        assert "stopped" in running.process.output


def test_help() -> None:
    with process("-m", "grpo_gym", "route", "--help") as shown:
        assert shown.end() == 0
        for option in ("--backend", "--grace-s", "--ejection-s", "--admin-port"):
            assert option in shown.output
    assert os.environ.get("GRPO_GYM_TRACEBACK") is None
