"""Open-loop load, backends, and figures of the demonstration."""

import asyncio
import time

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from grpo_gym.deployment.demo.backend import Backend, service_seconds
from grpo_gym.deployment.demo.config import TrafficConfig
from grpo_gym.deployment.demo.contenders import Contender
from grpo_gym.deployment.demo.figures import figures_of, summary
from grpo_gym.deployment.demo.load import Requests, arrivals, send_all
from grpo_gym.settings import ConfigError


def test_arrivals_are_those_of_the_seed_and_poisson() -> None:
    config = TrafficConfig(phase_seconds=100.0)
    times = arrivals(config, seed=3)
    assert (times == arrivals(config, seed=3)).all()
    assert len(arrivals(config, seed=4)) != len(times)
    assert times[0] >= -1.0 and times[-1] < 500.0
    gaps = np.diff(times)
    # Mean and deviation of exponential gaps; four standard errors.
    assert abs(gaps.mean() * config.rate - 1.0) < 4.0 / len(gaps) ** 0.5
    assert abs(gaps.std() * config.rate - 1.0) < 6.0 / len(gaps) ** 0.5


def test_the_rate_is_the_offered_utilisation() -> None:
    config = TrafficConfig(service_ms=(10.0, 40.0), workers=2, utilisation=0.5)
    assert config.rate == pytest.approx(0.5 * (200.0 + 50.0))


def test_service_times_are_those_of_the_request() -> None:
    times = [service_seconds(1, str(number), 20.0) for number in range(5_000)]
    assert times[7] == service_seconds(1, "7", 20.0) != service_seconds(2, "7", 20.0)
    # A backend of twice the mean takes twice as long for the same request.
    assert service_seconds(1, "7", 40.0) == pytest.approx(2.0 * times[7])
    assert np.mean(times) == pytest.approx(0.020, rel=0.06)
    assert np.std(times) == pytest.approx(0.020, rel=0.1)


def serving(backend: object, work: object) -> object:
    """Run `work(url)` while a handler serves."""

    async def run() -> object:
        runner = web.ServerRunner(web.Server(backend))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await work(f"http://127.0.0.1:{runner.addresses[0][1]}")  # type: ignore[operator]
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_latency_counts_from_when_a_request_was_due() -> None:
    begun_s: list[float] = []

    async def stalls(request: web.BaseRequest) -> web.StreamResponse:
        if not begun_s:
            begun_s.append(time.perf_counter())
            time.sleep(0.5)  # the whole process, so nothing is sent or answered meanwhile
        return web.Response()

    config = TrafficConfig(
        service_ms=(20.0, 20.0), workers=1, warmup_seconds=0.0, phase_seconds=0.4
    )

    async def load(url: str) -> Requests:
        return await send_all(url, config, 0, time.perf_counter() + 0.1)

    requests = serving(stalls, load)
    assert isinstance(requests, Requests) and requests.ok.all()
    # Those that were due within the stall, about 30, waited for its end.
    assert (requests.latency_ms > 100.0).sum() > 10
    assert requests.lag_ms.max() > 300.0


def test_errors_and_silence_are_errors() -> None:
    async def fails(request: web.BaseRequest) -> web.StreamResponse:
        number = int(request.path.rpartition("/")[2])
        if number % 3 == 0:
            return web.Response(status=503)
        if number % 3 == 1:
            await asyncio.sleep(5.0)
        return web.Response()

    config = TrafficConfig(
        service_ms=(50.0, 50.0), workers=1, warmup_seconds=0.0, phase_seconds=0.2,
        timeout_seconds=0.5,
    )  # fmt: skip

    async def load(url: str) -> Requests:
        return await send_all(url, config, 0, time.perf_counter())

    requests = serving(fails, load)
    assert isinstance(requests, Requests)
    assert (requests.ok == (np.arange(len(requests.ok)) % 3 == 2)).all()
    assert (requests.latency_ms[1::3] > 400.0).all()


def test_a_backend_serves_a_few_at_a_time_and_changes_its_mind() -> None:
    import aiohttp

    async def talk(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            begin_s = time.perf_counter()
            numbers = range(4)
            answers = await asyncio.gather(
                *[session.get(f"{url}/0/{number}") for number in numbers]
            )
            assert [each.status for each in answers] == [200] * 4
            alone_s = [service_seconds(0, str(number), 100.0) for number in numbers]
            assert time.perf_counter() - begin_s >= sum(alone_s)  # one worker
            assert (await session.post(f"{url}/mode/errors")).status == 200
            begin_s = time.perf_counter()
            assert (await session.get(f"{url}/0/1")).status == 500
            assert time.perf_counter() - begin_s < 0.9 * max(alone_s)
            await session.post(f"{url}/mode/slow")
            begin_s = time.perf_counter()
            assert (await session.get(f"{url}/0/2")).status == 200
            assert time.perf_counter() - begin_s >= 9.9 * alone_s[2]

    serving(Backend(100.0, 1).handle, talk)


def made_up(latency_ms: float, failed: int) -> Requests:
    """Ten requests a second, of which the last ones of the phase "errors" fail."""
    due_s = np.arange(-10, 100) / 10.0
    ok = np.ones(len(due_s), np.bool_)
    ok[70 - failed : 70] = False
    return Requests(due_s, np.full(len(due_s), latency_ms), ok, np.full(len(due_s), 2.0))


def test_figures_leave_out_the_warm_up_and_know_phases() -> None:
    config = TrafficConfig()
    requests = made_up(30.0, failed=5)
    requests.latency_ms[:10] = 1e6
    requests.latency_ms[-1] = 130.0
    whole = figures_of(requests, config)
    assert (whole.requests, whole.errors, whole.lag_p99_ms) == (100, 5, 2.0)
    assert whole.mean_ms == pytest.approx((94 * 30.0 + 130.0) / 95)
    assert figures_of(requests, config, "errors").errors == 5
    assert figures_of(requests, config, "dead").errors == 0
    assert figures_of(requests, config, "back").p99_ms > 100.0
    assert figures_of(requests, config, "dead").p99_ms == 30.0
    requests.ok[:] = False
    assert np.isnan(figures_of(requests, config).p99_ms)


def test_the_summary_has_means_over_runs() -> None:
    config = TrafficConfig(policies=("online",), paths=("proxy",), runs=2)
    runs = {Contender("proxy", "online"): [made_up(20.0, 0), made_up(40.0, 4)]}
    (result,) = summary(runs, config)["contenders"]
    assert (result["path"], result["policy"]) == ("proxy", "online")
    assert result["mean"]["all"]["mean_ms"] == pytest.approx(30.0)
    assert result["mean"]["all"]["errors"] == 2.0
    assert [run["errors"]["p50_ms"] for run in result["runs"]] == [20.0, 40.0]


def test_the_picture(tmp_path: object) -> None:
    pytest.importorskip("matplotlib")
    from grpo_gym.deployment.demo.pictures import draw

    config = TrafficConfig(policies=("online", "random"), paths=("proxy", "envoy"))
    runs = {
        Contender(path, policy): [made_up(20.0, 3)]
        for path in config.paths
        for policy in config.policies
    }
    assert draw(runs, config, "png").startswith(b"\x89PNG")
    svg = draw(runs, config, "svg").decode()
    assert "through Envoy" in svg or "<svg" in svg


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"service_ms": (20.0,)}, "service_ms must name at least two backends"),
        ({"policies": ("online", "online")}, "policies must be different ones"),
        ({"utilisation": 1.0}, "utilisation must be < 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrafficConfig(**settings)
