"""The queueing dynamics against queueing theory.

Seeds are fixed. Each simulated figure must lie within four of its own standard errors (from
independent environments) of the exact one, and the standard error must be small enough for that
to mean something: below 1 %.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

Chooser = Callable[[LoadBalancerVectorEnv, int], np.ndarray]


def responses(
    policy: str | Chooser,
    num_envs: int = 1_000,
    length: int = 3_000,
    seed: int = 0,
    **settings: Any,
) -> np.ndarray:
    """Mean response time of each environment over the last two thirds of an episode."""
    env = LoadBalancerVectorEnv(
        num_envs, episode_length=length, autoreset_mode="Disabled", **settings
    )
    observation, _ = env.reset(seed=seed)
    if isinstance(policy, str):
        predict = make_baseline(policy, env).predict
    total = np.zeros(num_envs)
    state = None
    for step in range(length):
        if isinstance(policy, str):
            actions, state = predict(observation, state)
        else:
            actions = policy(env, step)
        observation, _, _, _, infos = env.step(actions)
        if step >= length // 3:
            total += infos["response_time_ms"]
    return total / (length - length // 3)


def assert_close(samples: np.ndarray, exact: float) -> None:
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error < 0.01 * exact, f"standard error {error} is too large to test {exact}"
    assert abs(samples.mean() - exact) < 4 * error, (samples.mean(), exact, error)


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/N, offered load in Erlang."""
    top = load**servers / math.factorial(servers) * servers / (servers - load)
    return top / (sum(load**k / math.factorial(k) for k in range(servers)) + top)


def erlang_arrivals(servers: int, rho: float) -> float:
    """Mean response of E_N/M/1 at rate 1: what each server sees under round robin."""
    rate = servers * rho
    root = brentq(lambda s: (rate / (rate + 1 - s)) ** servers - s, 0.0, 1.0 - 1e-9)
    return 1 / (1 - root)


def exact_two_servers(
    rates: tuple[float, float], rho: float, choose: Callable[[int, int], float], size: int = 70
) -> float:
    """Mean response of two exponential servers, from the balance equations of their lengths.

    `choose(i, j)` is the probability of the first server; lengths are cut off at `size`.
    """
    arrival = rho * sum(rates)
    index = np.arange(size * size).reshape(size, size)
    flow = lil_matrix((size * size, size * size))

    def move(source: int, target: int, rate: float) -> None:
        flow[target, source] += rate
        flow[source, source] -= rate

    for i in range(size):
        for j in range(size):
            first = choose(i, j)
            if i + 1 < size:
                move(index[i, j], index[i + 1, j], arrival * first)
            if j + 1 < size:
                move(index[i, j], index[i, j + 1], arrival * (1 - first))
            if i:
                move(index[i, j], index[i - 1, j], rates[0])
            if j:
                move(index[i, j], index[i, j - 1], rates[1])
    flow[0, :] = 1.0
    right = np.zeros(size * size)
    right[0] = 1.0
    stationary = spsolve(flow.tocsc(), right).reshape(size, size)
    lengths = np.add.outer(np.arange(size), np.arange(size))
    return float((stationary * lengths).sum() / arrival)


@pytest.mark.parametrize("rho", [0.3, 0.7, 0.85])
def test_random_split_is_mm1(rho: float) -> None:
    samples = responses("random", length=4_500, preset="mm4", utilisation=rho)
    assert_close(samples, 1 / (1 - rho))


@pytest.mark.parametrize(("servers", "rho"), [(4, 0.7), (4, 0.9), (7, 0.5)])
def test_round_robin_is_erlang_arrivals(servers: int, rho: float) -> None:
    samples = responses(
        "round_robin", length=6_000, preset="mm4", num_servers=servers, utilisation=rho
    )
    assert_close(samples, erlang_arrivals(servers, rho))


@pytest.mark.parametrize(("servers", "rho"), [(4, 0.7), (4, 0.9), (10, 0.8)])
def test_least_work_is_erlang_c(servers: int, rho: float) -> None:
    samples = responses(
        "least_work", length=4_500, preset="mm4", num_servers=servers, utilisation=rho
    )
    exact = 1 + erlang_c(servers, servers * rho) / (servers * (1 - rho))
    assert_close(samples, exact)


@pytest.mark.parametrize(
    ("settings", "scv"),
    [
        ({"size_distribution": "deterministic"}, 0.0),
        ({"size_distribution": "exponential"}, 1.0),
        ({"size_distribution": "hyperexponential", "size_scv": 4.0}, 4.0),
        ({"size_distribution": "lognormal", "size_scv": 4.0}, 4.0),
        ({"size_distribution": "lognormal", "size_scv": 0.25}, 0.25),
    ],
)
def test_random_split_is_pollaczek_khinchine(settings: dict[str, Any], scv: float) -> None:
    samples = responses("random", length=6_000, preset="mm4", utilisation=0.7, **settings)
    assert_close(samples, 1 + 0.7 * (1 + scv) / (2 * 0.3))


@pytest.mark.parametrize(
    ("policy", "rho", "figure"),
    [
        ("least_connections", 0.7, 1.513),
        ("least_connections", 0.9, 3.247),
        ("power_of_two", 0.7, 1.799),
        ("power_of_two", 0.9, 3.751),
    ],
)
def test_published_figures_of_four_servers(policy: str, rho: float, figure: float) -> None:
    """Simulated elsewhere, to three decimals."""
    assert_close(responses(policy, length=6_000, preset="mm4", utilisation=rho), figure)


def test_power_of_two_approaches_the_mean_field() -> None:
    samples = responses("power_of_two", 50, 12_000, preset="mm4", num_servers=200, utilisation=0.7)
    limit = sum(0.7 ** (2**i - 2) for i in range(1, 12))
    assert limit == pytest.approx(1.6145, abs=1e-4)
    assert samples.mean() == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_shortest_queue_of_two_by_balance_equations(rho: float) -> None:
    exact = exact_two_servers((1.0, 1.0), rho, lambda i, j: 0.5 if i == j else float(i < j))
    samples = responses("least_connections", preset="mm4", num_servers=2, utilisation=rho)
    assert_close(samples, exact)


@pytest.mark.parametrize(
    ("policy", "choose"),
    [
        ("least_connections", lambda i, j: 0.5 if i == j else float(i < j)),
        ("power_of_two", lambda i, j: 0.5 if i == j else float(i < j)),
        (
            "shortest_expected_delay",
            lambda i, j: 0.5 if i + 1 == 4 * (j + 1) else float(i + 1 < 4 * (j + 1)),
        ),
        ("weighted_random", lambda i, j: 0.8),
    ],
)
def test_unequal_servers_by_balance_equations(
    policy: str, choose: Callable[[int, int], float]
) -> None:
    exact = exact_two_servers((1.0, 0.25), 0.6, choose)
    samples = responses(policy, length=2_000, preset="hetero2", utilisation=0.6)
    assert_close(samples, exact)


def test_optimal_static_split() -> None:
    """Bell and Stidham (1983): the best probabilities that know nothing of the state."""
    rates = np.array([1.0, 0.25])
    arrival = 0.6 * rates.sum()
    best = rates - np.sqrt(rates) * (rates.sum() - arrival) / np.sqrt(rates).sum()

    def split(rate: np.ndarray) -> tuple[Chooser, float]:
        rng = np.random.default_rng(0)
        share = rate[0] / arrival
        time = float((rate / (rates - rate)).sum() / arrival)
        return lambda env, step: (rng.random(env.num_envs) >= share).astype(np.int64), time

    (chooser, exact), (_, proportional) = split(best), split(0.6 * rates)
    samples = responses(chooser, preset="hetero2", utilisation=0.6)
    assert_close(samples, exact)
    assert exact < 0.95 * proportional


def test_littles_law_as_arrivals_see_it() -> None:
    seen = []

    def chooser(env: LoadBalancerVectorEnv, step: int) -> np.ndarray:
        in_flight = env.simulator.metrics["in_flight"]
        if step >= 1_000:
            seen.append(in_flight.sum(axis=1))
        return in_flight.argmin(axis=1)

    samples = responses(chooser, preset="mm4", utilisation=0.8)
    # Poisson arrivals see time averages: requests in the system = rate * mean response.
    differences = np.mean(seen, axis=0) - 4 * 0.8 * samples
    assert_close(differences + 3.2 * samples.mean(), 3.2 * samples.mean())


@pytest.mark.parametrize("settings", [{}, {"utilisation": 1.5}, {"num_servers": 1}])
def test_park_rewards_sum_to_the_total_response_time(settings: dict[str, Any]) -> None:
    env = LoadBalancerVectorEnv(
        20, preset="park", episode_length=300, autoreset_mode="Disabled", **settings
    )
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    returns, total = np.zeros(20), np.zeros(20)
    for _ in range(300):
        actions = rng.integers(0, env.config.num_servers, 20)
        _, rewards, terminated, truncated, infos = env.step(actions)
        returns += rewards
        total += infos["response_time_ms"]
    assert terminated.all()
    assert not truncated.any()
    np.testing.assert_allclose(returns, -total, rtol=1e-9)


def test_a_slow_server_is_an_mm1_of_its_slowed_rate() -> None:
    samples = responses(
        "random",
        preset="mm4",
        num_servers=1,
        utilisation=0.25,
        slow_factor=2.0,
        fault_schedule=((0, "slow", 0, 10**6),),
    )
    assert_close(samples, 2 / (1 - 0.5))
