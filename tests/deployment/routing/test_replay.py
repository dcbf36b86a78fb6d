"""Replayed episodes: real requests are observed as `LoadBalancer-v0` observes its own."""

from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment.routing import Endpoint
from grpo_gym.deployment.routing.fleet import Fleet, Layout
from grpo_gym.deployment.routing.kernels import ANSWERED, FAILED, REFUSED, TIMED_OUT
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from routing_bench import Request, Script, bench, episode

WORLDS: dict[str, dict[str, Any]] = {
    "faults": {"observe_size": False, "mean_time_to_failure_ms": 400.0, "fault_mix": {
        "degraded": 1.0, "slow": 1.0, "erroring": 1.0, "down": 2.0}, "fault_error_rate": 0.5},
    "workers and weights": {"service_rates": (1.0, 0.5, 0.25), "workers": (1, 4, 3),
        "weights": (3.0, 1.0, 2.0), "observe_weights": True, "observe_size": False},
    "time-outs and limits": {"timeout_ms": 60.0, "connection_limit": 3, "utilisation": 1.2,
        "workers": (2, 1, 1, 2), "error_rates": 0.2, "observe_size": False,
        "base_latency_ms": 3.0},
    "sizes": {"service_rates": (1.0, 0.5, 1.7, 0.8), "observe_size": True, "observe_weights": True,
        "mean_time_to_failure_ms": 400.0, "fault_mix": {"slow": 1.0, "down": 1.0}},
    "sizes and workers": {"service_rates": (1.0, 0.5, 1.5), "workers": (1, 2, 5),
        "observe_size": True, "size_distribution": "pareto"},
    "aggregate": {"observation": "aggregate", "observe_size": False},
}  # fmt: skip


def end_of(request: Request) -> int:
    if request.refused:
        return REFUSED
    if request.timed_out:
        return TIMED_OUT
    return FAILED if request.error else ANSWERED


def in_order(waiting: list[tuple[Request, Any]], until_ms: float) -> list[tuple[Request, Any]]:
    """Take the requests that have left by a time, as they left."""
    left = [each for each in waiting if each[0].departure_ms <= until_ms]
    waiting[:] = [each for each in waiting if each[0].departure_ms > until_ms]
    return sorted(left, key=lambda each: each[0].departure_ms)


@pytest.mark.parametrize("log_size", [1_000, 300])
@pytest.mark.parametrize("world", WORLDS)
def test_fleet_observes_as_the_simulator_does(world: str, log_size: int) -> None:
    config = make_config(episode_length=600, **WORLDS[world])
    simulator = LoadBalancerSimulator(config, 1)
    constants = simulator.constants[0]
    endpoints = [
        Endpoint(str(n), "http://x", float(each["weight"]), int(each["workers"]))
        for n, each in enumerate(constants)
    ]
    layout = Layout(config.observation, config.observe_size, config.observe_weights)
    fleet = Fleet(endpoints, layout, log_size)
    p = simulator.parameters[0]
    fleet.set_scale(10.0 * float(p["feature_time_ms"]), float(p["size_mean"]))
    waiting: list[tuple[Request, Any]] = []
    kinds = set()
    for observation, request in episode(simulator, seed=3):
        for left, slot in in_order(waiting, request.arrival_ms):
            fleet.answer(slot[0], left.departure_ms, left.response_ms, end_of(left))
            kinds.add(end_of(left))
        if fleet.is_full:
            moves = fleet.compact()
            for _, slot in waiting:
                slot[0] = moves[slot[0]]
        fleet.arrive(request.arrival_ms, request.size)
        assert fleet.observe().tobytes() == observation.tobytes()
        waiting.append((request, [fleet.send(request.server)]))
        for left, slot in in_order(waiting, request.arrival_ms):  # refused at once
            fleet.answer(slot[0], left.departure_ms, left.response_ms, end_of(left))
            kinds.add(end_of(left))
    if world == "faults":
        assert kinds == {ANSWERED, FAILED, REFUSED}
    if world == "time-outs and limits":
        assert kinds == {ANSWERED, FAILED, REFUSED, TIMED_OUT}


def test_core_observes_as_the_simulator_does() -> None:
    # All times are multiples of 125 / 8 ms, which are exact in seconds too.
    config = make_config(
        service_rates=(1.0, 0.5, 0.25, 0.25), size_mean=31.25, size_distribution="deterministic",
        arrival_process="deterministic", utilisation=0.5, observe_size=False, error_rates=0.1,
        mean_time_to_failure_ms=None, slow_factor=8.0, timeout_ms=1_000.0, workers=(1, 1, 2, 4),
        observe_weights=True, episode_length=500,
        fault_schedule=((0, "slow", 50, 90), (1, "down", 120, 180), (2, "degraded", 200, 260)),
    )  # fmt: skip
    simulator = LoadBalancerSimulator(config, 1)
    weights, workers = simulator.constants["weight"][0], simulator.constants["workers"][0]
    endpoints = [Endpoint(str(n), "http://x", float(weights[n]), int(workers[n])) for n in range(4)]
    script = Script(layout=Layout(weights=True))
    world = bench(
        script,
        endpoints=endpoints,
        service_ms=10.0 * float(simulator.parameters["feature_time_ms"][0]),
        # Nobody is ejected: the simulator's balancer only observes.
        consecutive_errors=100_000,
        error_period_requests=100_000,
    )
    failures = {FAILED: "error", REFUSED: "refused", TIMED_OUT: "timeout", ANSWERED: None}
    waiting: list[tuple[Request, Any]] = []

    def answer(until_ms: float) -> None:
        for left, token in in_order(waiting, until_ms):
            world.now_s = left.departure_ms / 1_000.0
            failure: Any = failures[end_of(left)]
            assert world.core.finish(token, not left.error, left.response_ms, failure=failure)

    expected = []
    for observation, request in episode(simulator, seed=5):
        answer(request.arrival_ms)
        world.now_s = request.arrival_ms / 1_000.0
        script.wanted = [request.server]
        pick = world.pick()
        assert pick.endpoints[0] == str(request.server)
        waiting.append((request, pick.token))
        answer(request.arrival_ms)
        expected.append(observation)
    assert np.array(script.observations).tobytes() == np.array(expected).tobytes()
    assert world.core.status().errors > 20
