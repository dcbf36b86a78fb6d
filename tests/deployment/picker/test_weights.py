"""Slow weights: the estimate, and the file that a real Envoy follows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

from envoy_bench import Loop, load, wait_until
from grpo_gym.deployment.picker.config import PickerConfig
from grpo_gym.deployment.picker.weights import WeightEstimate, WeightFile
from grpo_gym.deployment.routing import Endpoint, RoutingCore
from grpo_gym.settings import ConfigError
from picker_bench import Bench, Start, Steered, never_eject

_NAMES = ["127.0.0.1:9001", "127.0.0.1:9002"]


def test_weights_are_shares_of_votes_smoothed_and_never_zero() -> None:
    estimate = WeightEstimate(smoothing=0.5, floor=0.1)
    assert estimate.update(["a", "b"]) == [1000, 1000]

    for name in "aaab":
        estimate.vote(name)
    # Half of the equal share, and half of 3/4 and 1/4.
    assert estimate.update(["a", "b"]) == [1250, 750]
    assert estimate.update(["a", "b"]) == [1250, 750], "without votes nothing changes"

    for _ in range(20):
        estimate.vote("a")
        weights = estimate.update(["a", "b"])
    assert weights == [2000, 100]


def test_endpoints_that_come_begin_with_an_equal_share() -> None:
    estimate = WeightEstimate(smoothing=1.0, floor=0.1)
    estimate.vote("a")
    estimate.update(["a", "b"])

    # a has 1, b 0, c 1/3, of 4/3 in all.
    assert estimate.update(["a", "b", "c"]) == [2250, 100, 750]
    assert estimate.update(["c"]) == [1000]


def test_the_file_is_complete_at_every_moment_and_ends_with_equal_weights(tmp_path: Path) -> None:
    loop = Loop()
    core = RoutingCore([Endpoint.from_url(f"http://{name}") for name in _NAMES], Steered())
    config = PickerConfig(mode="weights", eds_file=tmp_path / "w.json", update_s=0.01)

    async def run() -> None:
        file = WeightFile(core, config)
        await file.start()
        for _ in range(40):
            file._estimate.vote(_NAMES[1])
            _read(config.eds_file)
            await file._stops_within(0.01)
        assert _read(config.eds_file)[_NAMES[1]]["load_balancing_weight"] > 1500
        await file.close()

    loop.run(run())
    loop.close()
    rows = _read(config.eds_file)
    assert {row["load_balancing_weight"] for row in rows.values()} == {1000}
    assert list(tmp_path.iterdir()) == [config.eds_file]


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    loop = Loop()
    core = RoutingCore([Endpoint.from_url(f"http://{name}") for name in _NAMES], Steered())
    config = PickerConfig(mode="weights", eds_file=tmp_path / "folder.json")
    config.eds_file.mkdir()

    async def run() -> None:
        await WeightFile(core, config).start()

    with pytest.raises(OSError, match="folder"):
        loop.run(run())
    loop.close()
    with pytest.raises(ConfigError, match=r"eds_file must end in \.json"):
        PickerConfig(mode="weights", eds_file=tmp_path / "w.yaml")


def test_envoy_follows_the_weights(start: Start) -> None:
    bench = start("weights", update_s=0.2)
    bench.policy.favourite = 1
    favourite = bench.backends[1].name

    wait_until(lambda: load(bench.envoy.url, 20) is not None and _weights(bench)[1] == 3000)
    answers = load(bench.envoy.url, 310, at_once=1)

    assert answers.statuses == {200: 310}
    # 3000 : 100 : 100, one request at a time: 97 % within four standard errors.
    assert Counter(answers.served_by)[favourite] > 280
    assert bench.envoy.stat("cluster.pool.update_rejected") == 0
    assert bench.envoy.stat("logs_dropped") == 0


def test_the_core_sees_the_traffic_that_envoy_routes(start: Start) -> None:
    bench = start("weights")
    for backend in bench.backends:
        backend.delay_s = 0.1

    answers = load(bench.envoy.url, 60, at_once=6)

    bench.wait_until_idle()
    assert Counter(bench.seen.picked) == Counter(answers.served_by)
    assert len(bench.seen.finished) == 60
    latencies = [latency_ms for _, _, latency_ms in bench.seen.finished]
    assert 95.0 < np.median(latencies) < 300.0


def test_in_flight_is_what_is_open_at_each_backend(start: Start) -> None:
    import socket

    bench = start("weights")
    for backend in bench.backends:
        backend.delay_s = 30.0
    clients = []
    for _ in range(12):
        client = socket.create_connection(("127.0.0.1", bench.envoy.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        clients.append(client)
    wait_until(lambda: bench.in_flight == 12)
    for client in clients:
        client.close()

    bench.wait_until_idle()
    assert len(bench.seen.cancelled) == 12


def test_a_dead_backend_is_marked_and_comes_back(start: Start) -> None:
    bench = start("weights", update_s=0.2)
    dead = bench.backends[0]
    dead.stop()

    def until(health: str) -> None:
        def reached() -> bool:
            assert load(bench.envoy.url, 30).statuses == {200: 30}
            return bool(_eds_health(bench)[dead.name] == health)

        wait_until(reached, 20.0)

    until("UNHEALTHY")
    dead.start()
    until("HEALTHY")
    wait_until(lambda: dead.name in load(bench.envoy.url, 60).served_by, 20.0)


def test_a_retry_finds_another_backend_while_the_dead_one_has_the_most_weight(start: Start) -> None:
    bench = start("weights", update_s=0.2, change=never_eject)
    bench.policy.favourite = 0
    wait_until(lambda: load(bench.envoy.url, 20) is not None and _weights(bench)[0] == 3000)
    for backend in bench.backends[1:]:
        backend.delay_s = 0.05
    bench.backends[0].stop()

    answers = load(bench.envoy.url, 60, at_once=16)

    assert answers.statuses == {200: 60}


def test_without_its_picker_envoy_goes_on(start: Start) -> None:
    bench = start("weights", update_s=0.2)
    bench.policy.favourite = 1
    wait_until(lambda: load(bench.envoy.url, 20) is not None and _weights(bench)[1] > 2500)

    bench.loop.run(bench.server.close())

    wait_until(lambda: _weights(bench) == [1000, 1000, 1000])
    assert load(bench.envoy.url, 60).statuses == {200: 60}


def _read(path: Path) -> dict[str, Any]:
    """The rows of a file of weights by endpoint."""
    (resource,) = json.loads(path.read_text())["resources"]
    rows = resource["endpoints"][0]["lb_endpoints"]
    addresses = [row["endpoint"]["address"]["socket_address"] for row in rows]
    names = [f"{each['address']}:{each['port_value']}" for each in addresses]
    return dict(zip(names, rows, strict=True))


def _weights(bench: Bench) -> list[int]:
    """The weights that Envoy uses."""
    return [int(host["weight"]) for host in bench.envoy.clusters()["pool"]]


def _eds_health(bench: Bench) -> dict[str, str]:
    hosts = bench.envoy.clusters()["pool"]
    addresses = [host["address"]["socket_address"] for host in hosts]
    names = [f"{each['address']}:{each['port_value']}" for each in addresses]
    health = [host["health_status"]["eds_health_status"] for host in hosts]
    return dict(zip(names, health, strict=True))
