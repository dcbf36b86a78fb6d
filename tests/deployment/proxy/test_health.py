"""Active health checks, and a policy's file that changes."""

import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.reload import PolicyFile
from grpo_gym.settings import ConfigError
from proxy_parts import Backend, CountingCore, proxy_before, quick


async def _until(core: CountingCore, name: str, healthy: bool) -> None:
    async with asyncio.timeout(20.0):
        while core.health.get(name) is not healthy:
            await asyncio.sleep(0.01)


def test_a_connection_is_enough_by_default() -> None:
    async def run() -> None:
        backend, other = Backend(), Backend()
        async with proxy_before(backend, other, config=quick(health_interval_s=0.05)) as (_, core):
            name, port = backend.endpoint.name, backend.port
            await asyncio.sleep(0.2)
            assert core.health == {}  # nothing new
            await backend.stop()
            await _until(core, name, False)
            assert other.endpoint.name not in core.health
            await backend.start(port)
            await _until(core, name, True)
            assert backend.seen == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (302, True), (404, False), (503, False), (None, False)]
)
def test_a_path_must_have_a_good_answer(status: int | None, healthy: bool) -> None:
    async def run() -> None:
        async def answer(request: web.BaseRequest, _: Backend) -> web.Response:
            if status is None:
                await asyncio.sleep(30.0)
            return web.Response(status=status or 200)

        backend = Backend(answer)
        config = quick(health_path="/ready?a=b", health_interval_s=0.05, health_timeout_s=0.5)
        async with proxy_before(backend, config=config) as (_, core):
            if healthy:
                await asyncio.sleep(0.5)
                assert core.health == {}
            else:
                await _until(core, backend.endpoint.name, False)
            assert backend.seen[0].target == "/ready?a=b"

    asyncio.run(run())


def test_one_failure_is_not_enough() -> None:
    async def run() -> None:
        statuses = iter([200, 500, 200, 500, 200, 500, 500])

        async def answer(request: web.BaseRequest, _: Backend) -> web.Response:
            return web.Response(status=next(statuses, 500))

        backend = Backend(answer)
        config = quick(health_path="/", health_interval_s=0.02)
        async with proxy_before(backend, config=config) as (_, core):
            await _until(core, backend.endpoint.name, False)
            assert len(backend.seen) >= 7

    asyncio.run(run())


def test_a_health_path_begins_with_a_slash() -> None:
    with pytest.raises(ConfigError, match="health_path must begin with /, got 'ready'"):
        ProxyConfig(health_path="ready")


class _Swaps:
    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.swaps: list[str] = []
        self.error: Exception | None = None

    def swap_policy(self, policy: str) -> None:
        if self.error is not None:
            raise self.error
        self.swaps.append(policy)
        self.policy = policy

    def status(self) -> "_Swaps":
        return self


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


@pytest.mark.parametrize("is_run", [False, True])
def test_a_policys_file_is_loaded_again_when_it_has_changed(tmp_path: Path, is_run: bool) -> None:
    async def run() -> None:
        path = tmp_path / "checkpoints" / "best.ckpt"
        path.parent.mkdir()
        path.write_text("a")
        core = _Swaps(str(tmp_path if is_run else path))
        file = PolicyFile(core)  # type: ignore[arg-type]
        await file.look()
        assert core.swaps == []
        _replace(path, "b")
        await file.look()
        await file.look()
        assert core.swaps == [core.policy]
        path.unlink()
        await file.look()
        assert len(core.swaps) == 1
        path.write_text("c")
        await file.look()
        assert len(core.swaps) == 2

    asyncio.run(run())


def test_a_file_that_cannot_be_used_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        path = tmp_path / "policy.ckpt"
        path.write_text("a")
        core = _Swaps(str(path))
        file = PolicyFile(core)  # type: ignore[arg-type]
        core.error = ConfigError("it does not fit")
        _replace(path, "b")
        await file.look()
        assert "the old policy stays: it does not fit" in caplog.text
        core.error = None
        await file.look()
        assert core.swaps == []  # not again and again
        _replace(path, "c")
        await file.look()
        assert len(core.swaps) == 1

    asyncio.run(run())


def test_another_policy_by_command_is_watched_from_then_on(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "policy.ckpt"
        path.write_text("a")
        core = _Swaps("round_robin")
        file = PolicyFile(core)  # type: ignore[arg-type]
        await file.look()
        core.policy = str(path)
        await file.look()
        assert core.swaps == []
        _replace(path, "b")
        await file.look()
        assert core.swaps == [str(path)]

    asyncio.run(run())
