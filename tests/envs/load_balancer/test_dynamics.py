"""The compiled simulator against the plain one of `load_balancer_reference.py`."""

from math import isclose
from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from load_balancer_reference import Reference

CLOSE = {"rel_tol": 1e-9, "abs_tol": 1e-9}
"""`pytest.approx` would take half of the time of these tests."""
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


SHARED: dict[str, Any] = {"num_balancers": 3, "utilisation": 0.9, "observe_size": True}
SERVERS: dict[str, dict[str, Any]] = {
    "workers": {**FAULTY, "workers": (1, 2, 3, 8), "utilisation": 1.0, "observe_size": True},
    "many workers": {**LATENCIES, "workers": 5, "utilisation": 0.95, "recovery_ramp_ms": 60.0},
    "limits": {**FAULTY, "connection_limit": (1, 2, 3, 4), "utilisation": 1.3},
    "limits of decaying load": {
        "preset": "tiny-grpo",
        "fault_schedule": (),
        "load_decay": 0.98,
        "connection_limit": 7,
    },
    "time-outs": {**FAULTY, **LATENCIES, "timeout_ms": 40.0, "observe_size": True},
    "time-outs of several workers": {
        **FAULTY,
        "workers": (2, 1, 4, 3),
        "timeout_ms": 30.0,
        "utilisation": 1.5,
        "observe_size": True,
    },
    "refusals that time out": {"mean_time_to_failure_ms": 100.0, "fault_mix": {"down": 1.0},
                               "timeout_ms": 0.5, "size_mean": 0.2},
    "weights": {"weights": (0.1, 2.0, 1.0, 0.5), "observe_weights": True, "workers": 2},
    "retries": {**FAULTY, **LATENCIES, "retry": True, "weights": (3.0, 1.0, 1.0, 2.0)},
    "retries of one server": {**FAULTY, "num_servers": 1, "retry": True, "error_rates": 0.3},
    "retries and time-outs": {**FAULTY, "retry": True, "timeout_ms": 35.0, "utilisation": 1.2},
    "retries of decaying load": {
        "preset": "tiny-grpo",
        "fault_schedule": ((1, "down", 20, 90),),
        "load_decay": 0.95,
        "error_rates": 0.3,
        "retry": True,
    },
    "stale retries": {**FAULTY, "retry": True, "staleness_ms": 50.0, "reward": "demo"},
    "balancers": {**SHARED, **FAULTY, **LATENCIES},
    "balancers and workers": {**SHARED, "workers": (1, 2, 3, 1), "observation": "aggregate"},
    "balancers, limits, retries": {
        **SHARED, **FAULTY, "workers": 2, "connection_limit": 3, "timeout_ms": 50.0, "retry": True,
    },
    "park with balancers and workers": {
        "preset": "park", "num_servers": 3, "num_balancers": 2, "workers": 2, "timeout_ms": 900.0,
        "connection_limit": 5, "utilisation": 1.4,
    },
    "fleets": {"preset": "fleets", "max_servers": 7},
    "fleets of everything": {
        "preset": "fleets",
        **FAULTY,
        "max_servers": 6,
        "num_balancers": 2,
        "retry": True,
        "workers": "choice 1 2 3",
        "connection_limit": {"one_of": [None, "uniform 2 5"]},
        "weights": {"one_of": [None, "loguniform 0.5 2"]},
        "timeout_ms": {"one_of": [None, "uniform 30 90"]},
        "error_rates": "uniform 0 0.2",
        "fault_mix": {"one_of": [{"down": 1.0}, {"slow": 1.0, "erroring": 1.0}]},
        "recovery_ramp_ms": "uniform 0 80",
    },
    "one fleet": {"preset": "fleets", "fleet_seed": 4, "workers": "uniform 1 3"},
    "room for more": {"max_servers": 6, "observation": "aggregate", "observe_size": True, **FAULTY},
}  # fmt: skip


def some_settings(seed: int) -> dict[str, Any]:
    """Settings of all kinds that are allowed together."""
    rng = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    def each(*choices: Any) -> tuple[Any, ...]:
        return tuple(pick(*choices) for _ in range(servers))

    servers = int(rng.integers(1, 5))
    settings: dict[str, Any] = {
        "service_rates": each(0.5, 1.0, 1.7),
        "workers": pick(1, 2, each(1, 2, 5)),
        "weights": pick(None, each(0.5, 1.0, 3.0)),
        "connection_limit": pick(None, None, each(1, 3, 9)),
        "timeout_ms": pick(None, 15.0, 60.0),
        "retry": pick(False, True),
        "num_balancers": pick(1, 1, 2, 9),
        "observe_size": pick(False, True),
        "observe_weights": pick(False, True),
        "observation": pick("per_server", "per_server", "aggregate"),
        "reward": pick("latency", "demo", "park"),
        "utilisation": pick(0.5, 0.9, 1.6),
        "size_distribution": pick("exponential", "deterministic", "pareto"),
        "arrival_process": pick("poisson", "deterministic", "markov_modulated"),
        "error_rates": pick(0.0, each(0.0, 0.05, 0.5)),
        "error_per_request": pick(0.0, 0.02),
        "latency_per_request_ms": pick(0.0, each(0.0, 0.7)),
        "base_latency_ms": pick(0.0, each(0.0, 4.0)),
        "metrics_weight": pick(0.2, 0.7),
        "recovery_ramp_ms": pick(0.0, 70.0),
        "staleness_ms": pick(0.0, 0.0, 25.0),
        "max_servers": pick(None, servers + 2),
        **pick({}, FAULTY),
    }
    if settings["retry"] and settings["reward"] == "park":
        settings["reward"] = "demo"
    if settings["num_balancers"] > 1:
        settings["staleness_ms"] = 0.0
    return settings


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
        actions = rng.integers(0, simulator.config.server_slots, 2)
        observations = simulator.step(actions)
        np.testing.assert_allclose(simulator.estimates["reward"], estimates, rtol=1e-9)
        np.testing.assert_array_equal(simulator.estimates["reward"], looked_at)
        for b, reference in enumerate(references):
            for name, value in reference.step(int(actions[b])).items():
                found = simulator.outcomes[name][b]
                assert isclose(found, value, **CLOSE), (found, value, step, b, name)
            assert isclose(simulator.episodes["now_ms"][b], reference.now, rel_tol=1e-12)
            compare_seen(simulator, b, reference, reference.balancer, step)
            for n, server in enumerate(reference.present):
                degraded = reference.fault_visible(server, reference.now)
                assert simulator.servers["degraded"][b, n] == degraded, (step, b, n)
                assert simulator.servers["in_flight"][b, n] == server.count, (step, b, n)
        if step % 50 == 7:
            simulator.set_state(simulator.get_state())
    expected = np.array([reference.observation() for reference in references])
    np.testing.assert_allclose(observations, expected, atol=3e-6)
    assert simulator.outcomes["done"].all()
    for b, reference in enumerate(references):
        for balancer in range(simulator.num_balancers):
            compare_seen(simulator, b, reference, balancer, step)
        for name, value in reference.totals.items():
            assert simulator.episodes[name][b] == value, (b, name)
        total = simulator.episodes["response_total_ms"][b]
        assert total == pytest.approx(reference.response_total_ms)


def compare_seen(
    simulator: LoadBalancerSimulator, b: int, reference: Reference, balancer: int, step: int
) -> None:
    """What a balancer sees of the servers."""
    first = balancer * simulator.config.server_slots
    for n, seen in enumerate(reference.seen(balancer)):
        for name, value in vars(seen).items():
            if name == "oldest_arrival_ms" and seen.in_flight == 0:
                continue
            found = simulator.metrics[name][b, first + n]
            assert isclose(found, value, **CLOSE), (found, value, step, b, n, name)


@pytest.mark.parametrize("case", CASES | SERVERS)
def test_same_numbers_as_the_plain_simulator(case: str) -> None:
    for seed in (11, 12, 13):
        play((CASES | SERVERS)[case], 100 * seed)


@pytest.mark.parametrize("seed", range(60))
def test_same_numbers_in_all_combinations(seed: int) -> None:
    play({**some_settings(seed), "episode_length": 120}, 7 * seed)


def test_limits_that_never_bind_change_nothing() -> None:
    """Bit for bit, also where other kernels compute the same."""
    settings: dict[str, Any] = {**FAULTY, **LATENCIES, "observe_size": True, "utilisation": 1.0}
    never: dict[str, Any] = {
        "workers": (1,) * 4,
        "weights": (1.0, 0.8, 0.5, 1.1),
        "connection_limit": 10**9,
        "timeout_ms": 1e12,
        "num_balancers": 1,
        "max_servers": 4,
    }
    plain = LoadBalancerSimulator(make_config(**settings), num_envs=8)
    bound = LoadBalancerSimulator(make_config(**settings, **never), num_envs=8)
    rng = np.random.default_rng(0)
    for simulator in (plain, bound):
        simulator.seed(np.arange(8, dtype=np.uint64))
        simulator.reset()
    for _ in range(400):
        actions = rng.integers(0, 4, 8)
        assert plain.step(actions).tobytes() == bound.step(actions).tobytes()
        for name in ("servers", "requests", "outcomes", "episodes", "estimates"):
            assert getattr(plain, name).tobytes() == getattr(bound, name).tobytes(), name


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
