"""The command, a real Prometheus that scrapes a deployment, and KEDA's calls."""

import asyncio
import contextlib
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc", reason="needs the extra serve")
pytest.importorskip("aiohttp", reason="needs the extra serve")
import grpc

from grpo_gym.cli.main import main
from grpo_gym.deployment.scaler.core import ScalingCore
from grpo_gym.deployment.scaler.prometheus import Prometheus
from grpo_gym.settings import to_yaml
from scaled_cluster import Cluster, exported, free_port, prometheus
from scaler_world import READING, Keda, settings

_PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    _PROMETHEUS is None, reason="prometheus is not installed (Debian's package prometheus)"
)
SETTINGS: dict[str, Any] = {
    "deployment": "web",
    "policy": "hpa",
    "fallback": "static_25",
    "poll_seconds": 0.25,
    "hold_seconds": 2.0,
    "env_kwargs": {"step_seconds": 2},
    "guard": {"mode": "full", "holdout_percentage": 0, "outcome_test": False},
}


@contextlib.contextmanager
def scaler(path: Path, changes: dict[str, Any], *words: str) -> Iterator[tuple[Any, int, int]]:
    """The command as a process: it, its port, and its admin port."""
    config = path / "scaler.yaml"
    config.write_text(to_yaml({**SETTINGS, **changes}))
    command = [sys.executable, "-m", "grpo_gym", "scaler", "--config", str(config)]
    ports = ["--port", "0", "--admin-port", "0"]
    with (path / "scaler.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *ports, *words], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            found = [re.search(r":(\d+)$", line.strip()) for line in lines]
            assert all(found), (lines, (path / "scaler.log").read_text())
            port, admin = (int(each[1]) for each in found if each)
            yield process, port, admin
        finally:
            process.kill()
            process.wait()


async def until(call: Callable[[], Awaitable[Any]], is_right: Callable[[Any], bool]) -> Any:
    """The first answer that is right; a status where the call fails."""
    found: Any = None
    for _ in range(300):
        try:
            found = await call()
        except grpc.aio.AioRpcError as error:
            found = error.code()
        if is_right(found):
            return found
        await asyncio.sleep(0.1)
    pytest.fail(f"the last answer was {found}")


@needs_prometheus
def test_the_default_queries_measure_a_deployment(tmp_path: Path) -> None:
    """In a real Prometheus: with traffic, with errors, and without any requests."""
    assert _PROMETHEUS is not None
    cluster, port = Cluster(), free_port()
    chosen = settings(prometheus=f"http://127.0.0.1:{port}")
    queries = chosen.all_queries(2.0, 0.04)

    async def measured(is_right: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        reader = Prometheus(chosen, queries)

        async def read() -> Any:
            try:
                return await reader.read()
            except Exception as error:
                return error

        try:
            found: dict[str, float] = await until(
                read, lambda each: isinstance(each, dict) and is_right(each)
            )
            return found
        finally:
            await reader.close()

    def is_close(found: dict[str, float], **expected: float) -> bool:
        return all(
            found[name] == pytest.approx(value, rel=0.02) for name, value in expected.items()
        )

    with exported(cluster) as target, prometheus(_PROMETHEUS, target, port, tmp_path):
        found = asyncio.run(
            measured(lambda each: is_close(each, requests_per_s=1_000.0, cpu_percent=92.0))
        )
        assert is_close(
            found,
            memory_percent=40.0,
            network_mbit_per_s=250.0,
            disk_io_per_s=5_000.0,
            p50_latency_ms=50.0,
            p99_latency_ms=235.0,
            queue_depth=20.0,  # 1000/s for 60 ms are 60 in the system, 40 of them in service
            replicas=14.0,
            running=14.0,
            pending=1.0,
        )
        assert found["error_percent"] == 0.0
        cluster.error_share = 0.05
        asyncio.run(measured(lambda each: is_close(each, error_percent=5.0)))
        cluster.requests_per_s = 0.0
        found = asyncio.run(measured(lambda each: each["requests_per_s"] == 0.0))
        idle = ("error_percent", "p50_latency_ms", "p99_latency_ms", "queue_depth")
        assert [found[name] for name in idle] == [0.0] * 4  # not NaN


@needs_prometheus
def test_a_deployment_is_scaled_through_outages_until_the_end(tmp_path: Path) -> None:
    assert _PROMETHEUS is not None
    cluster, port = Cluster(), free_port()

    async def play(address: str) -> None:
        keda = Keda(address)

        async def replicas() -> float:
            return float((await keda.metric()).metricValueFloat)

        # Before there is a Prometheus: a specification, and no value.
        assert (await keda.spec()).targetSizeFloat == 1.0
        await until(replicas, lambda found: found == grpc.StatusCode.UNAVAILABLE)
        with prometheus(_PROMETHEUS, target, port, tmp_path):
            # 14 replicas at 92 % are 18.4 at 70 %.
            await until(replicas, lambda found: found == 19.0)
            cluster.ready = math.nan
            await until(replicas, lambda found: found == grpc.StatusCode.UNAVAILABLE)
            cluster.ready = 14
            await until(replicas, lambda found: found == 19.0)
            page = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5.0)
            metrics = page.read().decode()
            assert "grpo_gym_scaler_replicas 19.0" in metrics
            assert 'grpo_gym_guard_mode{mode="full"} 1.0' in metrics
        begun = time.monotonic()
        assert await replicas() == 19.0  # Prometheus is gone, and for a while nothing changes
        await until(replicas, lambda found: found == grpc.StatusCode.UNAVAILABLE)
        assert time.monotonic() - begun < 10.0
        assert await keda.is_active()
        assert (await keda.spec()).targetSizeFloat == 1.0
        await keda.channel.close()

    url = f"http://127.0.0.1:{port}"
    with exported(cluster) as target, scaler(tmp_path, {}, "--prometheus", url) as running:
        process, grpc_port, admin = running
        asyncio.run(asyncio.wait_for(play(f"127.0.0.1:{grpc_port}"), 120.0))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    log = (tmp_path / "scaler.log").read_text()
    assert "replicas must be from 0 to 100000, got nan" in log
    assert "Cannot connect to host" in log
    assert "metrics are back" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_status_0_and_keep_the_guards_state(
    tmp_path: Path, number: signal.Signals
) -> None:
    state = tmp_path / "guard.json"
    with scaler(tmp_path, {"state_path": str(state)}, "--prometheus", "http://127.0.0.1:1") as each:
        process, *_ = each
        process.send_signal(number)
        assert process.wait(timeout=15) == 0
    assert state.exists()
    assert "Traceback" not in (tmp_path / "scaler.log").read_text()


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ((), "--config must name a YAML file of settings: see docs/how_to/keda.md", 2),
        (("--config", "none.yaml"), "cannot read none.yaml: No such file or directory", 2),
        (("--config", "empty.yaml"), "empty.yaml must be a mapping of settings", 2),
        (("--config", "bad.yaml"), "bad.yaml: deployment", 2),
        (("--config", "good.yaml", "--policy", "hpe"), "Did you mean 'hpa'?", 2),
        (("--config", "good.yaml", "--policy", "broken.ckpt"), "broken.ckpt", 1),
        (("--config", "lost.yaml"), "cannot go on from guard.json: it is damaged: not JSON", 1),
        (("--config", "good.yaml", "--prometheus", "nowhere"), "prometheus must be http://", 2),
        (("--config", "good.yaml", "--port", "70000"), "port", 2),
        (("--config", "good.yaml", "--prot", "1"), "--prot is not an option of scaler", 2),
    ],
)
def test_mistakes_are_one_line(
    words: tuple[str, ...],
    message: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "bad.yaml").write_text("deployment: NOT_A_NAME\n")
    (tmp_path / "good.yaml").write_text("deployment: web\n")
    (tmp_path / "lost.yaml").write_text("deployment: web\nstate_path: guard.json\n")
    (tmp_path / "guard.json").write_text("lost")
    (tmp_path / "broken.ckpt").write_bytes(b"broken")
    assert main(["scaler", *words, "--admin-port", "0"]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, as gRPC writes into the terminal itself."""
    (tmp_path / "good.yaml").write_text("deployment: web\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["--config", "good.yaml", "--admin-port", "0", "--port", port]
        done = subprocess.run(
            [sys.executable, "-m", "grpo_gym", "scaler", *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: choose ")
    assert len(done.stderr.splitlines()) == 1


def test_an_error_that_nobody_expected_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scaler that reads no more would look alive."""

    async def read(self: Any) -> dict[str, float]:
        return READING

    def take(self: Any, measured: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Prometheus, "read", read)
    monkeypatch.setattr(ScalingCore, "take", take)
    (tmp_path / "scaler.yaml").write_text("deployment: web\n")
    words = ["--config", str(tmp_path / "scaler.yaml"), "--port", "0", "--admin-port", "0"]
    assert main(["scaler", *words]) == 1
    assert "error: ZeroDivisionError('a bug') in " in capfd.readouterr().err
