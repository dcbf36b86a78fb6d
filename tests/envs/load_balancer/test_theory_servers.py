"""Servers as they are against queueing theory: workers, limits, time-outs, several balancers.

As in `test_theory.py`, with which this file shares its rule for what is close.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

Settings = dict[str, Any]


def measure(
    name: str, policy: str = "random", num_envs: int = 500, length: int = 4_500, **settings: Any
) -> np.ndarray:
    """Mean of a field of the outcomes in each environment over the last two thirds of an episode.

    Sizes are exponential with mean 1, and servers have rate 1.
    """
    settings = {"preset": "mm4", **settings}
    env = LoadBalancerVectorEnv(
        num_envs, episode_length=length, autoreset_mode="Disabled", **settings
    )
    observation, _ = env.reset(seed=0)
    predict, state = make_baseline(policy, env).predict, None
    total = np.zeros(num_envs)
    for step in range(length):
        actions, state = predict(observation, state)
        observation, *_ = env.step(actions)
        if step >= length // 3:
            total += env.simulator.outcomes[name]
    return total / (length - length // 3)


def assert_close(samples: np.ndarray, exact: float, least_error: float = 0.01) -> None:
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error < least_error * exact, f"standard error {error} is too large to test {exact}"
    assert abs(samples.mean() - exact) < 4 * error, (samples.mean(), exact, error)


def erlang_b(workers: int, load: float) -> float:
    """Loss of M/G/c/c."""
    terms = [load**k / math.factorial(k) for k in range(workers + 1)]
    return terms[-1] / sum(terms)


def erlang_c_wait(workers: int, rho: float) -> float:
    """Mean wait in M/M/c at rate 1 per worker."""
    blocked = erlang_b(workers, workers * rho)
    waits = blocked / (1 - rho * (1 - blocked))
    return waits / (workers * (1 - rho))


@pytest.mark.parametrize(
    ("servers", "workers", "rho"), [(1, 2, 0.7), (1, 8, 0.9), (3, 2, 0.8), (5, 4, 0.6)]
)
def test_workers_are_erlang_c_per_server(servers: int, workers: int, rho: float) -> None:
    settings: Settings = {"num_servers": servers, "workers": workers, "utilisation": rho}
    waits = measure("wait_ms", length=12_000 if servers > 1 else 6_000, **settings)
    assert_close(waits, erlang_c_wait(workers, rho), least_error=0.03)


def test_servers_of_different_workers_keep_their_own() -> None:
    """Split in proportion to the weights, each has the utilisation of the whole."""
    workers, rho = (1, 2, 6), 0.75
    exact = sum(c / 9 * (1 + erlang_c_wait(c, rho)) for c in workers)
    samples = measure(
        "response_time_ms",
        policy="weighted_random",
        length=12_000,
        num_servers=3,
        workers=workers,
        utilisation=rho,
    )
    assert_close(samples, exact)


def deterministic_response(workers: int, rho: float, size: int = 400) -> float:
    """Mean response of M/D/c with service time 1, by Crommelin's argument (1932).

    A service time later, whoever is in service now has left, and whoever came since has not.
    """
    rate = workers * rho
    arrivals = [math.exp(-rate)]
    for k in range(1, size):
        arrivals.append(arrivals[-1] * rate / k)
    moves = np.zeros((size, size))
    for now in range(size):
        left = max(now - workers, 0)
        moves[now, left:] = arrivals[: size - left]
    moves[:, -1] += 1.0 - moves.sum(axis=1)
    system = np.vstack([moves.T - np.eye(size), np.ones(size)])
    stationary = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return float(stationary @ np.arange(size) / rate)


@pytest.mark.parametrize(("workers", "rho"), [(1, 0.7), (2, 0.8), (5, 0.9)])
def test_constant_sizes_are_crommelins_m_d_c(workers: int, rho: float) -> None:
    exact = deterministic_response(workers, rho)
    if workers == 1:
        assert exact == pytest.approx(1 + rho / (2 * (1 - rho)))
    samples = measure(
        "response_time_ms",
        length=9_000,
        num_servers=1,
        workers=workers,
        utilisation=rho,
        size_distribution="deterministic",
    )
    assert_close(samples, exact)


def hyperexponential_response(workers: int, rho: float, scv: float, size: int = 300) -> float:
    """Mean response of M/H2/c with balanced means, from its balance equations."""
    branch = 0.5 * (1 + math.sqrt((scv - 1) / (scv + 1)))
    shares, rates = (branch, 1 - branch), (2 * branch, 2 * (1 - branch))
    states = [(i, j, 0) for i in range(workers + 1) for j in range(workers + 1 - i)]
    states += [(i, workers - i, q) for i in range(workers + 1) for q in range(1, size)]
    index = {state: k for k, state in enumerate(states)}
    flow = lil_matrix((len(states), len(states)))

    def move(source: tuple[int, int, int], target: tuple[int, int, int], rate: float) -> None:
        if target in index and rate > 0.0:
            flow[index[target], index[source]] += rate
            flow[index[source], index[source]] -= rate

    for i, j, q in states:
        for kind, share in enumerate(shares):
            more = (i + (kind == 0), j + (kind == 1), 0)
            busy = i + j == workers
            move((i, j, q), (i, j, q + 1) if busy else more, share * workers * rho)
        for kind, count in enumerate((i, j)):
            left = (i - (kind == 0), j - (kind == 1))
            if q == 0:
                move((i, j, q), (*left, 0), count * rates[kind])
                continue
            for following, share in enumerate(shares):
                after = (left[0] + (following == 0), left[1] + (following == 1), q - 1)
                move((i, j, q), after, count * rates[kind] * share)
    flow[0, :] = 1.0
    right = np.zeros(len(states))
    right[0] = 1.0
    stationary = spsolve(flow.tocsc(), right)
    counts = np.array([i + j + q for i, j, q in states])
    return float(stationary @ counts / (workers * rho))


@pytest.mark.parametrize(("workers", "rho"), [(1, 0.6), (3, 0.7)])
def test_hyperexponential_sizes_by_balance_equations(workers: int, rho: float) -> None:
    exact = hyperexponential_response(workers, rho, 4.0)
    if workers == 1:
        assert exact == pytest.approx(1 + rho * 5 / (2 * (1 - rho)), rel=1e-6)
    samples = measure(
        "response_time_ms",
        length=9_000,
        num_servers=1,
        workers=workers,
        utilisation=rho,
        size_distribution="hyperexponential",
        size_scv=4.0,
    )
    assert_close(samples, exact)


def test_pareto_sizes_are_near_lee_and_longton() -> None:
    """Lee and Longton (1959): (1 + scv) / 2 times the wait of M/M/c; off by a few per cent here."""
    settings: Settings = {"size_distribution": "pareto", "size_shape": 6.0, "utilisation": 0.8}
    scv = 1 / 24
    one = measure("wait_ms", num_servers=1, **settings)
    assert_close(one, (1 + scv) / 2 * 0.8 / 0.2, least_error=0.02)
    four = measure("wait_ms", num_servers=1, workers=4, length=9_000, **settings)
    assert four.mean() == pytest.approx((1 + scv) / 2 * erlang_c_wait(4, 0.8), rel=0.06)
    # Kingman's bound for many servers holds for certain: that of one as fast as all of them.
    assert four.mean() < (0.8 * scv + 1 / 0.8) / (2 * 4 * 0.2) + (1 - 1 / 4) * (1 + scv) / 2


@pytest.mark.parametrize("rho", [0.7, 1.0, 1.6])
def test_time_outs_of_one_worker_are_a_finite_dam(rho: float) -> None:
    """A request leaves tau after its arrival at the latest, so the work left is that of a dam.

    Its content below tau is distributed as in M/M/1, renormalised (Takacs, 1967). A request fails
    if content and size exceed tau: with d = 1 - rho, d exp(-d tau) / (1 - rho exp(-d tau)).
    """
    tau, less = 3.0, 1 - rho
    decay = math.exp(-less * tau)
    exact = 1 / (1 + tau) if rho == 1.0 else less * decay / (1 - rho * decay)
    settings: Settings = {"num_servers": 1, "utilisation": rho, "timeout_ms": tau}
    assert_close(measure("timed_out", **settings), exact)
    assert_close(measure("error", error_rates=0.0, **settings), exact)


@pytest.mark.parametrize("rho", [0.7, 1.5])
@pytest.mark.parametrize("most", [1, 4])
def test_limits_of_one_worker_are_m_m_1_k(rho: float, most: int) -> None:
    exact = rho**most * (1 - rho) / (1 - rho ** (most + 1))
    samples = measure("rejected", num_servers=1, utilisation=rho, connection_limit=most)
    assert_close(samples, exact, least_error=0.02)


@pytest.mark.parametrize("sizes", ["exponential", "lognormal", "deterministic", "pareto"])
def test_limits_without_a_queue_are_erlang_b(sizes: str) -> None:
    """The loss of M/G/c/c depends on the mean size alone."""
    samples = measure(
        "rejected",
        length=6_000,
        num_servers=1,
        workers=5,
        connection_limit=5,
        utilisation=0.8,
        size_distribution=sizes,
        size_shape=3.0,
    )
    assert_close(samples, erlang_b(5, 4.0))


def test_each_server_has_its_own_limit() -> None:
    workers = (1, 4)
    load = 0.9 * 5 / 2
    exact = (erlang_b(1, load) + erlang_b(4, load)) / 2
    samples = measure(
        "rejected", num_servers=2, workers=workers, connection_limit=workers, utilisation=0.9
    )
    assert_close(samples, exact)


def test_many_balancers_tend_to_random_splitting() -> None:
    """Least connections where each of M balancers knows its own requests only, at a load of .7.

    The more balancers, the less each knows: from joining the shortest queue (M = 1: 1.513,
    simulated elsewhere) to M/M/1.
    """
    means = []
    for balancers in (1, 4, 16, 64, 1_000):
        samples = measure(
            "response_time_ms",
            policy="least_connections",
            num_envs=200,
            length=4_000,
            num_balancers=balancers,
        )
        means.append(samples.mean())
    assert means[0] == pytest.approx(1.513, rel=0.01)
    assert all(more > 1.02 * fewer for fewer, more in pairwise(means))
    assert means[-1] == pytest.approx(1 / 0.3, rel=0.03)


def test_requests_come_to_balancers_at_random() -> None:
    env = LoadBalancerVectorEnv(50, num_balancers=5, episode_length=400, autoreset_mode="Disabled")
    env.reset(seed=0)
    comers = [env.simulator.episodes["balancer"].copy()]
    for _ in range(399):
        env.step(np.zeros(50, np.int64))
        comers.append(env.simulator.episodes["balancer"].copy())
    sequence = np.array(comers)
    counts = np.bincount(sequence.ravel(), minlength=5)
    assert len(counts) == 5
    assert np.abs(counts / 20_000 - 0.2).max() < 4 * math.sqrt(0.2 * 0.8 / 20_000)
    again = (sequence[1:] == sequence[:-1]).mean()
    assert abs(again - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 19_950)


EVERYTHING: Settings = {
    "preset": "flaky",
    "workers": (1, 2, 3, 1),
    "weights": (1.0, 2.0, 1.5, 1.0),
    "connection_limit": (3, 6, 9, 4),
    "timeout_ms": 80.0,
    "retry": True,
    "num_balancers": 3,
    "utilisation": 0.9,
    "error_rates": 0.05,
    "mean_time_to_failure_ms": 400.0,
    "mean_time_to_recovery_ms": 100.0,
    "fault_mix": {"degraded": 1.0, "down": 1.0},
    "recovery_ramp_ms": 50.0,
}


def play_everything(num_envs: int, length: int) -> tuple[LoadBalancerVectorEnv, np.ndarray]:
    """The environments after an episode, and the mean number of requests that arrivals saw."""
    env = LoadBalancerVectorEnv(
        num_envs, episode_length=length, autoreset_mode="Disabled", **EVERYTHING
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    seen = np.zeros(num_envs)
    for _ in range(length):
        seen += env.simulator.servers["in_flight"].sum(axis=1)
        env.step(rng.integers(0, 4, num_envs))
    return env, seen / length


def test_littles_law_with_everything_on() -> None:
    """Poisson arrivals see time averages: requests in the system = rate * mean time in it."""
    env, seen = play_everything(500, 2_000)
    requests = env.simulator.requests
    sent = requests["server"] >= 0
    sent[:, 2_000] = False  # the request that waits
    end = env.simulator.arrivals["arrival_ms"][:, [1_999]]
    times = np.minimum(requests["departure_ms"], end) - requests["arrival_ms"]
    rate_times = np.where(sent, times.clip(0.0), 0.0).sum(axis=1)
    rate_times /= 2_000 * env.config.mean_gap_ms
    assert env.simulator.episodes["retries"].min() > 0
    differences = seen - rate_times
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    assert error < 0.01 * seen.mean()
    assert abs(differences.mean()) < 4 * error, (seen.mean(), rate_times.mean(), error)


def test_nothing_is_lost_or_served_twice() -> None:
    """Every request is answered or refused, and retried exactly once if it failed."""
    env, _ = play_everything(50, 300)
    simulator = env.simulator
    episodes, servers = simulator.episodes, simulator.servers
    first, again = simulator.requests[:, :300], simulator.requests[:, 301:601]
    failed = first["error"] == 1
    np.testing.assert_array_equal(again["server"] >= 0, failed)
    retries = failed.sum(axis=1)
    np.testing.assert_array_equal(episodes["retries"], retries)
    np.testing.assert_array_equal(servers["routed"].sum(axis=1), 300 + retries)
    assert (again["server"] != first["server"])[failed].all()
    assert (again["balancer"] == first["balancer"])[failed].all()
    np.testing.assert_array_equal(again["size"][failed], first["size"][failed])
    for sent, each in ((np.ones_like(failed), first), (failed, again)):
        late = sent & (each["response_ms"] > 80.0)
        assert not late.any()
    timed_out = (first["timed_out"] == 1).sum(axis=1) + ((again["timed_out"] == 1) & failed).sum(1)
    np.testing.assert_array_equal(episodes["timeouts"], timed_out)
    errors = ((again["error"] == 1) & failed).sum(axis=1)
    np.testing.assert_array_equal(episodes["errors"], errors)
    # Whoever was let in has left, or is still there.
    inside = np.zeros(50, np.int64)
    accepted = np.zeros(50, np.int64)
    for sent, each in ((np.ones_like(failed), first), (failed, again)):
        took = sent & (each["departure_ms"] > each["arrival_ms"])
        accepted += took.sum(axis=1)
        inside += (took & (each["departure_ms"] > episodes["now_ms"][:, None])).sum(axis=1)
    np.testing.assert_array_equal(servers["in_flight"].sum(axis=1), inside)
    refused = 300 + retries - accepted
    assert (refused >= episodes["rejections"]).all()
    assert episodes["rejections"].min() > 0
    assert episodes["timeouts"].min() > 0
    assert retries.min() > 0
