"""200 open connections through everything that happens to a proxy: no request is lost."""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from proxy_processes import Load, Route, backend, routed

_CONNECTIONS = 200


async def _under_load(
    route: Route, events: Callable[[Load], Awaitable[None]], methods: tuple[str, ...] = ("GET",)
) -> Load:
    load = Load(route.port)
    running = asyncio.create_task(load.run(_CONNECTIONS, methods))
    await asyncio.sleep(1.0)
    await events(load)
    load.stopping = True
    await running
    return load


async def _command(route: Route, method: str, path: str, **body: str) -> None:
    await asyncio.to_thread(route.command, method, path, **body)
    await asyncio.sleep(0.5)


def _pretrained() -> Path:
    return Path(str(files("grpo_gym.trainers"))) / "pretrained" / "router.ckpt"


def test_nothing_is_lost(tmp_path: Path) -> None:
    policy = tmp_path / "policy.ckpt"
    shutil.copy(_pretrained(), policy)
    with (
        routed(3, "--policy", policy, "--guard-mode", "full") as (route, backends),
        backend() as (
            _,
            fourth,
        ),
    ):

        async def events(load: Load) -> None:
            await _command(route, "POST", "/policy", policy="online")
            await _command(route, "POST", "/policy", policy="peak_ewma")
            await _command(route, "POST", "/policy", policy=str(policy))
            shutil.copy(_pretrained(), tmp_path / "new.ckpt")
            (tmp_path / "new.ckpt").replace(policy)
            route.process.send(signal.SIGHUP)
            await _command(route, "POST", "/guard/rollback")
            await _command(route, "POST", "/guard/promote")
            await _command(route, "POST", "/endpoints", url=f"http://127.0.0.1:{fourth}")
            await _command(route, "DELETE", f"/endpoints/127.0.0.1:{backends[1][1]}")
            backends[0][0].popen.kill()
            await asyncio.sleep(2.0)
            route.process.send(signal.SIGTERM)
            await asyncio.sleep(2.0)

        load = asyncio.run(_under_load(route, events))
        assert load.lost == {}
        assert set(load.answers) == {("GET", 200)}
        assert load.answers["GET", 200] > 2 * _CONNECTIONS
        assert route.process.end() == 0
        assert "stopped\n" in route.process.output
        assert f"loaded {policy} again" in route.process.output


def test_what_may_not_be_repeated_is_lost_only_with_its_backend() -> None:
    with routed(3) as (route, backends):

        async def events(load: Load) -> None:
            backends[0][0].popen.kill()
            await asyncio.sleep(1.0)

        load = asyncio.run(_under_load(route, events, ("POST", "GET")))
        assert load.lost == {}
        assert set(load.answers) <= {("GET", 200), ("POST", 200), ("POST", 502)}
        # At most those that the backend had when it died.
        assert load.answers["POST", 502] <= _CONNECTIONS
        route.wait_until_idle()
        status = route.get("/status")
        assert status["unknown_tokens"] == status["expired"] == 0
        assert status["picks"] == status["finished"] + status["cancelled"]
        assert route.terminate() == 0


def test_a_backend_that_comes_back_gets_requests_again() -> None:
    with routed(2, "--health-interval-s", "0.1") as (route, backends):
        (first, port), _ = backends

        async def events(load: Load) -> None:
            first.popen.kill()
            first.popen.wait()
            await asyncio.sleep(1.0)
            assert not route.get("/status")["endpoints"][0]["healthy"]
            with backend(port=port):
                before = route.get("/status")["endpoints"][0]["picks"]
                await asyncio.sleep(4.0)
                after = route.get("/status")["endpoints"][0]
                assert after["healthy"]
                assert after["picks"] > before + 10
                load.stopping = True
                await asyncio.sleep(0.5)

        load = asyncio.run(_under_load(route, events))
        assert load.lost == {}
        assert set(load.answers) == {("GET", 200)}
