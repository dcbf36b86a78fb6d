"""The compiled simulator against the plain one of `load_balancer_reference.py`."""

from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from load_balancer_reference import Reference

FAULTY: dict[str, Any] = {
    "mean_time_to_failure_ms": 300.0,
    "mean_time_to_recovery_ms": 150.0,
    "fault_mix": {"degraded": 1.0, "slow": 1.0, "erroring": 2.0, "down": 2.0},
    "fault_error_rate": 0.5,
}
LATENCIES: dict[str, Any] = {
    "base_latency_ms": (1.0, 2.0, 3.0, 4.0),
    "latency_per_request_ms": (0.5, 0.0, 1.0, 2.0),
    "error_rates": (0.0, 0.1, 0.2, 0.05),
    "error_per_request": 0.02,
}
SCHEDULE = (
    (0, "down", 0, 20),
    (0, "down", 20, 60),
    (0, "slow", 60, 80),
    (1, "degraded", 10, 40),
    (1, "down", 40, 90),
    (1, "erroring", 100, 150),
    (2, "down", 100, 1_000_000),
    (3, "slow", 0, 1_000_000),
)
CASES: dict[str, dict[str, Any]] = {
    "flaky": {"preset": "flaky"},
    "every fault": {**FAULTY, **LATENCIES},
    "ramp": {**FAULTY, **LATENCIES, "recovery_ramp_ms": 80.0},
    "long ramp, stale": {**FAULTY, "recovery_ramp_ms": 400.0, "staleness_ms": 70.0},
    "stale by less than a gap": {**FAULTY, "staleness_ms": 3.0, "observe_size": True},
    "schedule": {"fault_schedule": SCHEDULE, "utilisation": 0.9},
    "schedule with ramp": {
        "fault_schedule": SCHEDULE,
        "recovery_ramp_ms": 60.0,
        "utilisation": 0.9,
        "infos": "full",
    },
    "demo reward, overload": {
        **FAULTY,
        "reward": "demo",
        "utilisation": 3.0,
        "observation": "aggregate",
    },
    "bursts": {
        **FAULTY,
        "arrival_process": "markov_modulated",
        "size_distribution": "lognormal",
        "metrics_weight": 1.0,
    },
    "park": {"preset": "park", "utilisation": 1.5},
    "park, five servers, faults": {"preset": "park", "num_servers": 5, **FAULTY},
    "tiny-grpo": {"preset": "tiny-grpo", "fault_schedule": ((0, "degraded", 100, 200),)},
    "tiny-grpo with load": {
        "preset": "tiny-grpo",
        "load_decay": (1.0, 0.99, 0.9, 0.5),
        "fault_schedule": ((0, "slow", 9, 50), (1, "down", 20, 90), (2, "erroring", 0, 70)),
        "recovery_ramp_ms": 100.0,
        "observation": "per_server",
        "staleness_ms": 40.0,
    },
    "one server": {"num_servers": 1, **FAULTY},
    "two servers": {"preset": "hetero2", "utilisation": 0.95},
}


def play(settings: dict[str, Any], seed: int) -> None:
    """Run both simulators side by side and compare all there is after each step."""
    settings = {"episode_length": 250, "infos": "full", **settings}
    simulator = LoadBalancerSimulator(make_config(**settings), num_envs=2)
    simulator.seed(np.array([seed, seed + 1], np.uint64))
    simulator.reset()
    references = [Reference(simulator, b) for b in range(2)]
    rng = np.random.default_rng(seed)
    observations = simulator.observe()
    for step in range(simulator.config.episode_length):
        expected = np.array([reference.observation() for reference in references])
        np.testing.assert_allclose(observations, expected, atol=3e-6, err_msg=f"step {step}")
        looked_at = simulator.counterfactuals()["reward"]
        estimates = [reference.estimates() for reference in references]
        actions = rng.integers(0, simulator.config.num_servers, 2)
        observations = simulator.step(actions)
        np.testing.assert_allclose(simulator.estimates["reward"], estimates, rtol=1e-9)
        np.testing.assert_array_equal(simulator.estimates["reward"], looked_at)
        for b, reference in enumerate(references):
            for name, value in reference.step(int(actions[b])).items():
                found = simulator.outcomes[name][b]
                assert found == pytest.approx(value, rel=1e-9, abs=1e-9), (step, b, name)
            for n, server in enumerate(reference.servers):
                for name, value in vars(server.seen).items():
                    if name == "oldest_arrival_ms" and server.seen.in_flight == 0:
                        continue
                    found = simulator.metrics[name][b, n]
                    assert found == pytest.approx(value, rel=1e-9, abs=1e-9), (step, b, n, name)
                degraded = reference.fault_visible(server, reference.now)
                assert simulator.servers["degraded"][b, n] == degraded, (step, b, n)
    assert simulator.outcomes["done"].all()


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_plain_simulator(case: str) -> None:
    for seed in (11, 12, 13):
        play(CASES[case], 100 * seed)


def test_finished_environments_stay_as_they_are() -> None:
    simulator = LoadBalancerSimulator(make_config(episode_length=3), num_envs=1)
    simulator.seed(np.array([5], np.uint64))
    simulator.reset()
    for _ in range(3):
        observation = simulator.step(np.zeros(1, np.int64))
    before = simulator.get_state()
    again = simulator.step(np.zeros(1, np.int64))
    np.testing.assert_array_equal(again, observation)
    assert simulator.outcomes["reward"][0] == 0.0
    after = simulator.get_state()
    assert all(
        before[name].tobytes() == after[name].tobytes() for name in before if name != "outcomes"
    )


def test_skipped_environments_stay_as_they_are() -> None:
    simulator = LoadBalancerSimulator(make_config(), num_envs=3)
    simulator.seed(np.arange(3, dtype=np.uint64))
    simulator.reset()
    simulator.step(np.array([0, 1, 2]))
    before = simulator.get_state(np.array([1]))
    simulator.step(np.array([3, 3, 3]), skip=np.array([False, True, False]))
    after = simulator.get_state(np.array([1]))
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert simulator.episodes["step"].tolist() == [2, 1, 2]


def test_nothing_is_infinite_when_a_server_never_comes_back() -> None:
    schedule = ((0, "down", 50, 10**9),)
    config = make_config(preset="mm4", num_servers=1, utilisation=3.0, fault_schedule=schedule)
    simulator = LoadBalancerSimulator(config, num_envs=1)
    simulator.seed(np.array([1], np.uint64))
    simulator.reset()
    for _ in range(100):
        simulator.step(np.zeros(1, np.int64))
        assert np.isfinite(simulator.outcomes["response_time_ms"]).all()
