"""`grpo-gym guard` in front of a real admin port, of strangers, of nobody; and estimates."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.cli.main import main
from grpo_gym.deployment.shadow_log import ShadowLog
from grpo_gym.inference.numpy_policy import NumpyPolicy


@pytest.fixture(scope="module")
def ports() -> Iterator[Any]:
    pytest.importorskip("aiohttp", reason="needs the extra serve")
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    from admin_port import admin_ports

    with admin_ports() as start:
        yield start


@pytest.fixture
def service() -> Any:
    pytest.importorskip("aiohttp", reason="needs the extra serve")
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    from admin_port import Router

    return Router()


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


# A running process


def test_an_operator_promotes_looks_and_takes_back(
    ports: Any, service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = ["--admin", ports(service).url]
    assert main(["guard", "promote", *admin, "--reason", "shadow looked well"]) == 0
    assert said(capsys) == ("the guard is in gradual 10 %\n", "")
    for _ in range(40):
        service.guard.observe_request(True, 12.0, "policy")
    assert main(["guard", "status", *admin]) == 0
    out, err = said(capsys)
    assert err == ""
    assert all(len(line) <= 80 for line in out.splitlines())
    for words in ("mode", "gradual 10 %", "clean time", "40, 100 % well, p99 1", "shadow looked"):
        assert words in out, words
    assert main(["guard", "shadow", *admin]) == 0
    assert said(capsys) == ("the guard is in shadow\n", "")
    assert service.guard.mode == "shadow"
    reasons = [each.reason for each in service.guard.transitions]
    assert reasons == ["shadow looked well", "by grpo-gym guard"]
    assert main(["guard", "status", *admin]) == 0
    assert "an operator" in said(capsys)[0]


def test_json_has_everything(ports: Any, service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service.guard.act(0)
    assert main(["guard", "status", "--json", "--admin", ports(service).url]) == 0
    report = json.loads(said(capsys)[0])
    assert (report["mode"], report["decisions"]) == ("shadow", 1)
    assert report["quick_alarm"]["checks"] == 0


def test_what_the_guard_refuses_is_told_in_one_line(
    ports: Any, service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    service.guard.set_mode("full")
    assert main(["guard", "promote", "--admin", ports(service).url]) == 1
    out, err = said(capsys)
    assert out == ""
    assert err == "error: promote needs mode 'shadow' or 'gradual', it is 'full' already\n"


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        admin = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for command in ("status", "promote", "shadow"):
            assert main(["guard", command, "--admin", admin]) == 1
            out, err = said(capsys)
            assert out == ""
            assert err.startswith(f"error: nobody answers at {admin} (Connection refused): start")
            assert err.count("\n") == 1


@contextmanager
def stranger(status: int, body: bytes, raw: bool = False) -> Iterator[str]:
    """A server that is not ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if raw:
                self.wfile.write(body)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"mode": 3, "percentage": 0}'),
        (200, b'{"mode": "shadow"}'),
        (404, b"not found"),
        (404, b"{}"),
        (500, b'{"error": 3}'),
        (200, b"[" * 100_000),
        (200, b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("command", ["status", "promote"])
def test_a_stranger_is_told_apart(
    command: str, status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with stranger(status, body) as admin:
        assert main(["guard", command, "--admin", admin]) == 1
    assert said(capsys) == (
        "", f"error: what answers at {admin} is not an admin port of grpo-gym: see --admin\n",
    )  # fmt: skip


@pytest.mark.parametrize("body", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 200 OK\r\n"])
def test_what_does_not_speak_http_is_told_apart(
    body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with stranger(200, body, raw=True) as admin:
        assert main(["guard", "status", "--admin", admin]) == 1
    assert "is not an admin port of grpo-gym" in said(capsys)[1]


def test_a_stranger_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = {"mode": "\x1b[2Jshadow", "percentage": 0.0, "save_error": "[red]\x1b]0;x\x07"}
    with stranger(200, json.dumps(evil).encode()) as admin:
        assert main(["guard", "status", "--admin", admin]) == 0
    out, _ = said(capsys)
    assert "\x1b" not in out and "\x07" not in out
    assert "?[2Jshadow" in out and "[red]" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pause", "guard has no command 'pause'"),
        ("promot", "promote"),
        ("status --admin ftp://127.0.0.1:9901", "admin must be an address such as"),
        ("status --admin 127.0.0.1:9901", "admin must be an address such as"),
        ("status --admin http://", "admin must be an address such as"),
        ("status --admin http://127.0.0.1:99999", "admin must be an address such as"),
        ("status --admin http://[::1", "admin must be an address such as"),
        ("status --reason x", "--reason is not an option of guard status"),
        ("promote --reason", "--reason must be followed by one value"),
        ("shadow now", "'now' belongs to no option"),
        ("estimate", "estimate needs a log"),
        ("estimate log.jsonl --minimum-effective-rows 3", "minimum_effective_rows must be"),
    ],
)
def test_mistakes_are_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["guard", *words.split()]) == 2
    out, err = said(capsys)
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guard", "--help"]) == 0
    assert "take all traffic from the policy at once" in said(capsys)[0]
    assert main(["guard"]) == 2
    assert "usage: grpo-gym guard COMMAND" in said(capsys)[1]
    with pytest.raises(SystemExit) as end:
        main(["guard", "estimate", "--help"])
    assert end.value.code == 0
    assert "--minimum-effective-rows" in said(capsys)[0]


# Estimates


def write_log(path: Path, rows: int = 2_000, **row: Any) -> None:
    """Random choices among two, of which the second earns 1 more; the policy takes the second."""
    chance = np.random.default_rng(0)
    with ShadowLog(path) as log:
        for action in chance.integers(2, size=rows):
            log.write(action, 0.5, 2.0 + action + 0.1 * chance.normal(), **row)


def test_an_estimate_as_a_table_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log.jsonl", policy=1)
    assert main(["guard", "estimate", "log.jsonl"]) == 0
    out, err = said(capsys)
    assert err == "" and all(len(line) <= 80 for line in out.splitlines())
    assert "self normalised" in out and "doubly robust" in out
    assert main(["guard", "estimate", "log.jsonl", "--json"]) == 0
    result = json.loads(said(capsys)[0])
    assert result["self_normalised"]["value"] == pytest.approx(3.0, abs=0.02)
    assert result["logged"]["value"] == pytest.approx(2.5, abs=0.05)


def test_too_little_overlap_gives_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log.jsonl", rows=60, policy=1)
    assert main(["guard", "estimate", "log.jsonl"]) == 1
    out, _ = said(capsys)
    assert "not enough overlap: effective sample size" in out and "doubly" not in out
    assert main(["guard", "estimate", "log.jsonl", "--minimum-effective-rows", "30", "--json"]) in (
        0,
        1,
    )
    assert json.loads(said(capsys)[0])["rows"] == 60


def test_a_trained_policy_is_asked_for_each_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its probabilities, sampled, favour some server; deterministic ones take one only."""
    path = Path(__file__).parents[2] / "trainers/pretrained/router.ckpt"
    chance = np.random.default_rng(0)
    size = observation_size(path)
    with ShadowLog("log.jsonl") as log:
        for _ in range(600):
            action = int(chance.integers(4))
            log.write(action, 0.25, float(action), observation=chance.random(size))
    numbers = []
    for options in ([], ["--stochastic"]):
        status = main(["guard", "estimate", "log.jsonl", "--json", "--policy", str(path), *options])
        out, err = said(capsys)
        assert (status, err) == (0, "")
        numbers.append(json.loads(out))
    assert numbers[1]["effective_rows"] > numbers[0]["effective_rows"]
    assert 0.0 <= numbers[0]["self_normalised"]["value"] <= 3.0


def observation_size(path: Path) -> int:
    """Features of the pretrained router for four servers."""
    policy = NumpyPolicy.load(path)
    for size in range(1, 100):
        try:
            if policy.scores(np.zeros(size, np.float32)).shape == (4,):
                return size
        except ValueError:
            continue
    raise AssertionError("no size has four servers")


@pytest.mark.parametrize(
    ("content", "options", "message", "status"),
    [
        (None, "", "No such file", 1),
        ("nonsense\n", "", "must have rows, got 1 lines that are not JSON", 2),
        ('{"action": 0, "propensity": 2, "reward": 1}', "", "line 1: propensity cannot be used", 2),
        ('{"action": 0, "propensity": 1, "reward": 1}', "", "name a policy to ask", 2),
        ('{"action": 0, "propensity": 1, "reward": 1}', "--policy x.ckpt", "must have an obs", 2),
    ],
)
def test_logs_that_cannot_be_used(
    content: str | None, options: str, message: str, status: int, capsys: Any, tmp_path: Path
) -> None:
    if content is not None:
        Path("log.jsonl").write_text(content)
    assert main(["guard", "estimate", "log.jsonl", *options.split()]) == status
    out, err = said(capsys)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err, err
