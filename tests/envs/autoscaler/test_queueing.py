"""M/M/c against published figures, factorials, numerical integrals and a simulation."""

import heapq
import math

import numpy as np
import pytest
from scipy import integrate

from autoscaler_reference import invert
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.queueing import (
    erlang_c,
    sojourn_percentile,
    sojourn_tail,
)
from grpo_gym.envs.autoscaler.service import queue_of, replica_capacity

ORACLE = [
    (1, 0.5, 0.5, 2.0, 1.3863, 9.2103),
    (4, 0.9, 0.787753, 2.969383, 2.2545, 12.1932),
    (10, 0.8, 0.409180, 1.204590, 0.9121, 4.9461),
]
POINTS = [(c, rho) for c in (1, 2, 3, 10, 40, 160) for rho in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99)]


def textbook_c(servers: int, load: float) -> float:
    """Erlang's second formula with factorials."""
    top = load**servers / math.factorial(servers) * servers / (servers - load)
    return top / (math.fsum(load**k / math.factorial(k) for k in range(servers)) + top)


def integrated_tail(time: float, waiting: float, drain: float) -> float:
    """P(wait + service > time), summed over the length of the wait."""
    density = lambda wait: drain * math.exp(-drain * wait) * math.exp(-(time - wait))  # noqa: E731
    within, _ = integrate.quad(density, 0.0, time, epsabs=1e-12, epsrel=1e-12)
    longer = math.exp(-drain * time)
    return (1.0 - waiting) * math.exp(-time) + waiting * (within + longer)


@pytest.mark.parametrize(("servers", "rho", "waiting", "mean", "p50", "p99"), ORACLE)
def test_published_figures(
    servers: int, rho: float, waiting: float, mean: float, p50: float, p99: float
) -> None:
    c = erlang_c(servers, servers * rho)
    drain = servers * (1.0 - rho)
    assert c == pytest.approx(waiting, abs=6e-7)
    assert 1.0 + c / drain == pytest.approx(mean, abs=6e-7)
    assert sojourn_percentile(0.5, c, drain) == pytest.approx(p50, abs=6e-5)
    assert sojourn_percentile(0.01, c, drain) == pytest.approx(p99, abs=6e-5)


@pytest.mark.parametrize(("servers", "rho"), POINTS)
def test_against_factorials_and_integrals(servers: int, rho: float) -> None:
    load, drain = servers * rho, servers * (1.0 - rho)
    if servers < 140:  # larger factorials overflow a float
        assert erlang_c(servers, load) == pytest.approx(textbook_c(servers, load), rel=1e-9)
    waiting = erlang_c(servers, load)
    for time in (0.1, 1.0, 3.0, 8.0):
        expected = integrated_tail(time, waiting, drain)
        assert sojourn_tail(time, waiting, drain) == pytest.approx(expected, rel=1e-7, abs=1e-13)
    for exceeded in (0.9, 0.5, 0.1, 0.01, 1e-6):
        time = sojourn_percentile(exceeded, waiting, drain)
        assert integrated_tail(time, waiting, drain) == pytest.approx(exceeded, rel=1e-6)
        assert time >= -math.log(exceeded), "never faster than service alone"


@pytest.mark.parametrize("gap", [0.0, 1e-15, -1e-15, 1e-13, -1e-11, 1e-8, -1e-8, 1e-5])
def test_the_limit_of_equal_rates(gap: float) -> None:
    """In the limit c - 1 = a the tail is e^-t (1 + C t)."""
    waiting, drain = 0.4, 1.0 + gap
    for time in (0.5, 2.0, 10.0):
        expected = math.exp(-time) * (1.0 + waiting * time)
        assert sojourn_tail(time, waiting, drain) == pytest.approx(
            expected, rel=1e-4 * (gap != 0) + 1e-12
        )
    root = invert(lambda t: math.exp(-t) * (1.0 + waiting * t), 0.01)
    assert sojourn_percentile(0.01, waiting, drain) == pytest.approx(root, rel=1e-5)


def test_edge_cases_of_the_load() -> None:
    assert erlang_c(7, 0.0) == 0.0
    assert erlang_c(7, 7.0) == erlang_c(7, 70.0) == 1.0
    assert erlang_c(1_200, 10.0) == 0.0
    assert 0.9 < erlang_c(1_200, 1_199.0) < 1.0
    assert sojourn_percentile(0.5, 0.0, 3.0) == pytest.approx(math.log(2.0))
    assert sojourn_tail(-0.1, 0.5, 1.0) == sojourn_tail(0.0, 0.5, 1.0) == 1.0
    assert math.isfinite(sojourn_percentile(1e-9, 1.0, 1e-6))


@pytest.mark.parametrize("servers", [1, 8, 100])
def test_more_load_more_waiting(servers: int) -> None:
    loads = np.linspace(0.01, 0.999, 60) * servers
    chances = [erlang_c(servers, load) for load in loads]
    assert chances == sorted(chances)
    drains = servers - loads
    slow = [sojourn_percentile(0.01, c, d) for c, d in zip(chances, drains, strict=True)]
    assert slow == sorted(slow)


def test_variable_services_wait_longer() -> None:
    """M/G/1 exactly: Pollaczek and Khinchine's mean wait is rho (1 + scv) / 2 / (1 - rho)."""
    rho = 0.7
    for scv in (0.0, 0.5, 1.0, 4.0):
        env = AutoScalerEnv(service_scv=scv, concurrency=1, initial_replicas=1, min_replicas=1)
        env.reset(seed=0)
        cluster, p = env.simulator.clusters[0], env.simulator.parameters[0]
        queue = queue_of(rho * replica_capacity(cluster, p), cluster, p)
        wait = rho * (1.0 + scv) / 2.0 / (1.0 - rho)
        assert queue.waiting / queue.drain == pytest.approx(wait)


def simulate(servers: int, rho: float, customers: int, seed: int) -> np.ndarray:
    """Sojourns in an M/M/c queue, one customer after the other."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1.0 / (servers * rho), customers)).tolist()
    services = rng.exponential(1.0, customers).tolist()
    free = [0.0] * servers
    sojourns = np.empty(customers)
    for i, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        end = max(arrival, free[0]) + service
        heapq.heapreplace(free, end)
        sojourns[i] = end - arrival
    return sojourns[customers // 10 :]


@pytest.mark.parametrize(("servers", "rho"), [(1, 0.5), (5, 0.8), (24, 0.9)])
def test_against_a_simulation(servers: int, rho: float) -> None:
    runs = [simulate(servers, rho, 60_000, seed) for seed in range(4)]
    waiting, drain = erlang_c(servers, servers * rho), servers * (1.0 - rho)
    assert_within([float(run.mean()) for run in runs], 1.0 + waiting / drain)
    for exceeded in (0.5, 0.01):
        exact = sojourn_percentile(exceeded, waiting, drain)
        found = [float(np.quantile(run, 1.0 - exceeded)) for run in runs]
        assert_within(found, exact)


def assert_within(found: list[float], exact: float) -> None:
    """Assert that the mean of independent estimates is within their own error."""
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    assert error < 0.04 * exact
    assert abs(np.mean(found) - exact) < max(5.0 * error, 0.01 * exact)


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "rho"), [(4, 0.9), (10, 0.8)])
def test_within_one_per_cent_of_a_long_simulation(servers: int, rho: float) -> None:
    runs = [simulate(servers, rho, 2_000_000, seed) for seed in range(4)]
    waiting, drain = erlang_c(servers, servers * rho), servers * (1.0 - rho)
    everything = np.concatenate(runs)
    assert everything.mean() == pytest.approx(1.0 + waiting / drain, rel=0.01)
    for exceeded in (0.5, 0.01):
        exact = sojourn_percentile(exceeded, waiting, drain)
        assert np.quantile(everything, 1.0 - exceeded) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("replicas", "rho"), [(2, 0.5), (3, 0.9), (10, 0.95), (50, 0.8)])
def test_the_environment_has_these_latencies(replicas: int, rho: float) -> None:
    env = AutoScalerEnv("constant", base_demand=100.0 * replicas * rho, initial_replicas=replicas)
    env.reset(seed=0)
    info = env.step(3)[4]
    servers = 4 * replicas
    waiting = textbook_c(servers, servers * rho) if servers < 140 else erlang_c(servers, 160.0)
    drain = servers * (1.0 - rho)
    for exceeded, name in ((0.5, "p50_latency_ms"), (0.01, "p99_latency_ms")):
        time = invert(lambda t: integrated_tail(t, waiting, drain), exceeded)
        assert info[name] == pytest.approx(40.0 * time, rel=1e-6)
    too_long = waiting * math.exp(-25.0 * drain)
    assert info["error_percent"] == pytest.approx(100.0 * (0.0002 + too_long), rel=1e-6)
