"""`grpo-gym demo traffic`, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_gym.cli import demo
from grpo_gym.cli.main import main

pytest.importorskip("aiohttp")

SHORT = ["--phase-seconds", "0.3", "--warmup-seconds", "0.2"]


def test_it_ends_with_a_table_a_picture_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--policies", "least_connections", "--paths", "proxy", "--json", "figures.json"]
    assert main(["demo", "traffic", *SHORT, *words]) == 0
    printed = capsys.readouterr().out
    assert "through the embedded proxy" in printed and "least_connections" in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    (contender,) = figures["contenders"]
    whole = contender["mean"]["all"]
    assert whole["requests"] > 200 and whole["errors"] < whole["requests"] / 2
    assert whole["p50_ms"] > 5.0
    if (tmp_path / "traffic.png").exists():
        assert "picture: traffic.png" in printed
    else:
        assert "no picture, which needs matplotlib" in printed


def test_without_matplotlib_there_is_the_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    words = ["--policies", "round_robin", "--paths", "proxy"]
    assert main(["demo", "traffic", *SHORT, *words]) == 0
    assert "no picture, which needs matplotlib" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_policy_through_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "traffic", *SHORT, "--json", "figures.json"]) == 0
    contenders = json.loads((tmp_path / "figures.json").read_text())["contenders"]
    assert len(contenders) in (6, 12)
    for each in contenders:
        whole = each["mean"]["all"]
        assert whole["requests"] > 200 and whole["errors"] < whole["requests"] / 2


@pytest.mark.slow
def test_a_dead_backend_that_envoy_lets_in_again_is_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--policies", "least_connections", "--paths", "envoy", "--json", "figures.json"]
    if main(["demo", "traffic", *words]) == 2:
        pytest.skip("envoy is not installed")
    (contender,) = json.loads((tmp_path / "figures.json").read_text())["contenders"]
    # With Envoy's merge window of a second more than a hundred of 450 fail.
    assert contender["mean"]["dead"]["errors"] < 20


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for task in tasks for each in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_process(number: int, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpo_gym", "demo", "traffic", "--paths", "proxy"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 120.0
        while len(started := children(process.pid)) < 5:  # four backends and a proxy
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60.0) == status
        for pid in started:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "demo must be followed by its name: traffic"),
        (["trafic"], "there is no demo 'trafic'. Did you mean 'traffic'?"),
        (["traffic", "--plot", "a.txt"], "--plot must be a .png, .pdf or .svg file, got a.txt"),
        (["traffic", "--workers", "0"], "workers must be >= 1"),
        (["traffic", "--json", "/dev/null/figures.json"], "--json must be a file that can be"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_a_policy_that_does_not_exist_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--policies", "nonsense", "--paths", "proxy"]
    assert main(["demo", "traffic", *SHORT, *words]) == 1
    assert "nonsense" in capsys.readouterr().err
