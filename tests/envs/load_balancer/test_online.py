"""Learning from single requests: features of servers, and rewards of servers not chosen."""

from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.online import (
    count_server_features,
    estimated_reward,
    write_features,
)
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator


def start(preset: str, **changes: Any) -> LoadBalancerSimulator:
    simulator = LoadBalancerSimulator(make_config(preset, **changes), num_envs=1)
    simulator.seed(np.array([1], np.uint64))
    simulator.reset()
    return simulator


def estimates(simulator: LoadBalancerSimulator) -> list[float]:
    return [estimated_reward(simulator.memory, n) for n in range(simulator.config.num_servers)]


def test_in_the_demonstration_estimates_are_the_truth() -> None:
    simulator = start("tiny-grpo")
    for action in np.random.default_rng(0).integers(4, size=2_500):
        simulator.step(np.array([action]))
        truth = simulator.counterfactuals()["reward"][0]
        np.testing.assert_allclose(estimates(simulator), truth, rtol=1e-12)


def test_in_a_queue_estimates_follow_from_metrics_alone() -> None:
    simulator = start("flaky")
    servers, size = simulator.servers[0], simulator.arrivals["size"][0, 0]
    now = simulator.episodes["now_ms"][0]
    # Idle and not observed yet: the nominal rate. Otherwise: pace, work ahead, errors.
    servers["in_flight"] = [0, 2, 2, 0]
    servers["work"] = [0.0, 30.0, 30.0, 0.0]
    servers["pace"] = [0.0, 2.0, 2.0, 4.0]
    servers["observed_at_ms"] = [-1.0, now, now - 120.0, now]
    servers["oldest_arrival_ms"] = [0.0, now - 500.0, now - 500.0, 0.0]
    servers["error_rate"] = [0.0, 0.1, 0.0, 0.0]
    times = [size, 2.0 * (30.0 + size), 4.0 * (30.0 + size), 4.0 * size]
    expected = -np.array(times) / 100.0 - [0.0, 0.15, 0.0, 0.0]
    np.testing.assert_allclose(estimates(simulator), expected, rtol=1e-6)
    for hidden in ("free_at_ms", "next_departure_ms"):
        servers[hidden] += 1e6
    servers["degraded"] = True
    np.testing.assert_allclose(estimates(simulator), expected, rtol=1e-6)


@pytest.mark.parametrize("observation", ["per_server", "aggregate"])
def test_features_are_the_servers_own_or_blocks_of_the_whole_observation(observation: str) -> None:
    config = make_config("flaky", observation=observation)
    simulator = LoadBalancerSimulator(config, num_envs=1)
    rows = np.random.default_rng(0).random((3, simulator.num_features)).astype(np.float32)
    features = np.zeros((3, 4, count_server_features(config)))
    write_features(rows, simulator.parameters, features)
    if observation == "per_server":
        own = rows[:, : 4 * features.shape[2]].reshape(3, 4, -1).astype(np.float64)
        np.testing.assert_allclose(features, own * np.log2(10_001.0), rtol=1e-12)
    else:
        np.testing.assert_array_equal(features, [np.kron(np.eye(4), row) for row in rows])


def test_estimates_are_those_of_the_balancer_that_has_the_request() -> None:
    simulator = start("flaky", num_balancers=3)
    metrics, episode = simulator.metrics[0], simulator.episodes[0]
    size, now = simulator.arrivals["size"][0, 0], episode["now_ms"]
    for balancer in range(3):
        own = slice(4 * balancer, 4 * balancer + 4)
        metrics["pace"][own] = [balancer + 1.0, 2.0, 3.0, 4.0]
        metrics["observed_at_ms"][own] = now
    for balancer in range(3):
        simulator.episodes["balancer"] = balancer
        expected = -size * np.array([balancer + 1.0, 2.0, 3.0, 4.0]) / 100.0
        np.testing.assert_allclose(estimates(simulator), expected, rtol=1e-6)
