"""Traces: rates, sizes and faults as configured, one per seed, independent of actions."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator


def simulate(num_envs: int, seed: int = 0, **settings: Any) -> LoadBalancerSimulator:
    """A simulator after reset, environment b with seed + b."""
    simulator = LoadBalancerSimulator(make_config(**settings), num_envs)
    simulator.seed(np.arange(seed, seed + num_envs, dtype=np.uint64))
    simulator.reset()
    return simulator


def gaps(simulator: LoadBalancerSimulator) -> np.ndarray:
    return np.diff(simulator.arrivals["arrival_ms"], axis=1, prepend=0.0)


def assert_mean(samples: np.ndarray, expected: float, z: float = 4.0) -> None:
    """The mean of independent samples lies within z standard errors of the expected value."""
    error = samples.std(ddof=1) / math.sqrt(samples.size)
    assert abs(samples.mean() - expected) < z * error, (samples.mean(), expected, error)


ARRIVALS: dict[str, dict[str, Any]] = {
    "poisson": {},
    "diurnal": {"diurnal_amplitude": 0.9, "diurnal_period_ms": 700.0},
    "markov_modulated": {"burst_ratio": 6.0, "mean_calm_ms": 300.0, "mean_burst_ms": 100.0},
}


@pytest.mark.parametrize("process", ARRIVALS)
def test_long_run_rate_is_set_by_utilisation(process: str) -> None:
    simulator = simulate(
        200, arrival_process=process, episode_length=4_000, utilisation=0.8, **ARRIVALS[process]
    )
    config = simulator.config
    assert config.mean_gap_ms == pytest.approx(20.0 / (0.8 * 3.4))
    # Arrivals in a fixed window, as the last gap of a fixed number of arrivals is biased.
    window = 0.7 * config.episode_length * config.mean_gap_ms
    counts = (simulator.arrivals["arrival_ms"] <= window).sum(axis=1)
    assert counts.max() <= config.episode_length
    assert_mean(counts.astype(float), window / config.mean_gap_ms)


def test_poisson_gaps_are_exponential_and_deterministic_ones_equal() -> None:
    poisson = gaps(simulate(20, episode_length=2_000))
    mean = make_config().mean_gap_ms
    assert stats.kstest(poisson.ravel(), stats.expon(scale=mean).cdf).pvalue > 1e-3
    lagged = np.corrcoef(poisson[:, :-1].ravel(), poisson[:, 1:].ravel())[0, 1]
    assert abs(lagged) < 4 / math.sqrt(poisson.size)
    np.testing.assert_allclose(gaps(simulate(2, arrival_process="deterministic")), mean)


def test_diurnal_rate_swings_by_the_amplitude() -> None:
    # The number of arrivals in the n-th tenth of each cycle against the sine's own mean there.
    simulator = simulate(
        400,
        arrival_process="diurnal",
        diurnal_amplitude=0.6,
        diurnal_period_ms=2_000.0,
        utilisation=1.0,
        episode_length=340,
    )
    first = simulator.arrivals["arrival_ms"]
    angles = np.exp(2j * np.pi * first / 2_000.0)
    # Over one whole cycle the first Fourier coefficient of the counts is amplitude / 2 of them.
    inside = first < 2_000.0
    assert inside[:, -1].mean() < 0.75, "episodes must cover a cycle for this test"
    complete = ~inside[:, -1]
    strength = 2 * np.abs((angles * inside).sum(axis=1)[complete]) / inside.sum(axis=1)[complete]
    # |.| of a noisy coefficient: the noise adds 1 / (2 count amplitude) on average.
    assert strength.mean() == pytest.approx(0.6, abs=0.02)
    phases = np.angle((angles * inside).sum(axis=1))
    assert stats.kstest(phases, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_bursts_make_counts_overdispersed() -> None:
    settings: dict[str, Any] = {"burst_ratio": 8.0, "mean_calm_ms": 400.0, "mean_burst_ms": 100.0}
    simulator = simulate(300, arrival_process="markov_modulated", episode_length=3_000, **settings)
    edges = np.arange(0.0, 12_000.0, 50.0)
    counts = np.array([np.histogram(a, edges)[0] for a in simulator.arrivals["arrival_ms"]])
    # Fischer and Meier-Hellstern (1993): the variance of the counts of a two-state process.
    share, change = 0.2, 1 / 400.0 + 1 / 100.0
    calm = 1 / simulator.config.mean_gap_ms / (1 - share + share * 8.0)
    spread = share * (1 - share) * (7.0 * calm) ** 2
    extra = 2 * spread * (50.0 / change - (1 - math.exp(-change * 50.0)) / change**2)
    expected = 1.0 + extra / (50.0 / simulator.config.mean_gap_ms)
    assert counts.var() / counts.mean() == pytest.approx(expected, rel=0.03)
    assert expected > 2.0


@pytest.mark.parametrize(
    ("distribution", "settings", "scv"),
    [
        ("exponential", {}, 1.0),
        ("deterministic", {}, 0.0),
        ("lognormal", {"size_scv": 0.25}, 0.25),
        ("lognormal", {"size_scv": 4.0}, 4.0),
        ("lognormal", {"size_scv": 0.0}, 0.0),
        ("hyperexponential", {"size_scv": 1.0}, 1.0),
        ("hyperexponential", {"size_scv": 4.0}, 4.0),
        ("pareto", {"size_shape": 6.0}, 1 / 24),
    ],
)
def test_size_moments(distribution: str, settings: dict[str, Any], scv: float) -> None:
    simulator = simulate(
        300, size_distribution=distribution, size_mean=5.0, episode_length=5_000, **settings
    )
    sizes = simulator.arrivals["size"]
    if scv == 0.0:
        np.testing.assert_allclose(sizes, 5.0)
        return
    assert_mean(sizes, 5.0)
    assert_mean((sizes / 5.0 - 1.0).ravel() ** 2, scv)
    assert sizes.min() > 0.0


def test_size_shapes() -> None:
    def sizes(distribution: str, **settings: Any) -> np.ndarray:
        found: np.ndarray = simulate(
            10, size_distribution=distribution, size_mean=3.0, episode_length=5_000, **settings
        ).arrivals["size"]
        return found.ravel()

    pareto = sizes("pareto", size_shape=1.5)
    assert stats.kstest(pareto, stats.pareto(1.5, scale=1.0).cdf).pvalue > 1e-3
    # Hill's estimator of the tail index, standard error shape / sqrt(k).
    tail = np.sort(pareto)[-2_000:]
    assert 1 / np.log(tail / tail[0]).mean() == pytest.approx(1.5, abs=4 * 1.5 / math.sqrt(2_000))
    lognormal = sizes("lognormal", size_scv=4.0)
    sigma = math.sqrt(math.log(5.0))
    law = stats.lognorm(sigma, scale=3.0 * math.exp(-(sigma**2) / 2))
    assert stats.kstest(lognormal, law.cdf).pvalue > 1e-3
    exponential = sizes("exponential")
    assert stats.kstest(exponential, stats.expon(scale=3.0).cdf).pvalue > 1e-3


def test_integer_times() -> None:
    simulator = simulate(50, preset="park")
    assert simulator.config.mean_gap_ms == pytest.approx(55.0)
    arrivals, sizes = simulator.arrivals["arrival_ms"], simulator.arrivals["size"]
    assert (arrivals == np.floor(arrivals)).all()
    assert (sizes == np.floor(sizes)).all()
    assert sizes.min() >= 100.0
    # The floor of an exponential is geometric: mean 1 / (e^(1/55) - 1).
    assert_mean(gaps(simulator), 1 / math.expm1(1 / 55.0))


def test_error_coins_are_uniform() -> None:
    coins = simulate(20, episode_length=5_000).arrivals["error_coin"].ravel()
    assert stats.kstest(coins, stats.uniform.cdf).pvalue > 1e-3
    assert coins.min() > 0.0
    assert coins.max() <= 1.0


FAULTS: dict[str, Any] = {
    "mean_time_to_failure_ms": 900.0,
    "mean_time_to_recovery_ms": 300.0,
    "fault_mix": {"degraded": 1.0, "slow": 2.0, "down": 1.0},
}


@pytest.mark.parametrize(
    "arrivals",
    [
        {},
        {"arrival_process": "diurnal", "diurnal_amplitude": 1.0, "diurnal_period_ms": 30_000.0},
        {"arrival_process": "markov_modulated", "burst_ratio": 50.0, "mean_calm_ms": 20_000.0,
         "mean_burst_ms": 5_000.0},
    ],
)  # fmt: skip
def test_share_of_time_in_faults(arrivals: dict[str, Any]) -> None:
    simulator = simulate(300, episode_length=1_500, **FAULTS, **arrivals)
    faults = simulator.faults
    # No trace runs out of slots while it lasts.
    assert np.isinf(faults["start_ms"][:, :, -1]).all()
    ends = simulator.arrivals["arrival_ms"][:, -1]
    start = np.minimum(faults["start_ms"], ends[:, None, None])
    end = np.minimum(faults["end_ms"], ends[:, None, None])
    # From 3,000 ms (ten relaxation times) on, the share is stationary.
    long = ends > 4_000.0
    inside = np.clip(end, 3_000.0, None) - np.clip(start, 3_000.0, None)
    shares = (inside.sum(axis=2) / (ends[:, None] - 3_000.0))[long]
    weights = np.broadcast_to((ends[long] - 3_000.0)[:, None], shares.shape)
    mean = np.average(shares, weights=weights)
    # Variance of the share over a time t: 2 q (1 - q) tau / t, with tau = 225 ms.
    error = math.sqrt(2 * 0.25 * 0.75 * 225.0 / weights.sum())
    assert abs(mean - 0.25) < 4 * error
    kinds = faults["kind"][np.isfinite(faults["start_ms"])]
    counts = np.bincount(kinds, minlength=4)
    assert counts[trace.ERRORING] == 0
    assert (
        stats.chisquare(counts[[0, 1, 3]], counts.sum() * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3
    )


def test_first_fault_and_its_length_are_exponential() -> None:
    faults = simulate(500, episode_length=2_000, **FAULTS).faults
    first = faults["start_ms"][:, :, 0].ravel()
    assert stats.kstest(first, stats.expon(scale=900.0).cdf).pvalue > 1e-3
    lengths = (faults["end_ms"][:, :, 0] - faults["start_ms"][:, :, 0]).ravel()
    assert stats.kstest(lengths, stats.expon(scale=300.0).cdf).pvalue > 1e-3
    across = np.corrcoef(first.reshape(500, 4).T)[np.triu_indices(4, 1)]
    assert np.abs(across).max() < 4 / math.sqrt(500)


def test_scheduled_faults_begin_and_end_with_requests() -> None:
    schedule = ((1, "slow", 3, 9), (1, "down", 9, 10_000), (2, "erroring", 0, 10_000))
    simulator = simulate(3, episode_length=40, fault_schedule=schedule, **FAULTS)
    times = simulator.arrivals["arrival_ms"]
    faults = simulator.faults
    np.testing.assert_array_equal(faults["start_ms"][:, 1, :2], times[:, [3, 9]])
    # What is down comes back with the last arrival; other faults may stay for good.
    np.testing.assert_array_equal(faults["end_ms"][:, 1, :2], times[:, [9, 40]])
    assert np.isinf(faults["end_ms"][:, 2, 0]).all()
    assert np.isinf(faults["start_ms"][:, 2, 1]).all(), "no random faults beside scheduled ones"


def test_actions_change_no_trace() -> None:
    settings = {**FAULTS, "episode_length": 60}
    idle, busy = simulate(4, 3, **settings), simulate(4, 3, **settings)
    rng = np.random.default_rng(0)
    before = busy.arrivals.copy(), busy.faults.copy()
    for step in range(200):
        if step and step % 60 == 0:
            idle.reset()
            busy.reset()
            before = busy.arrivals.copy(), busy.faults.copy()
        busy.step(rng.integers(0, 4, 4))
        idle.step(np.zeros(4, np.int64))
        assert idle.arrivals.tobytes() == busy.arrivals.tobytes() == before[0].tobytes()
        assert idle.faults.tobytes() == busy.faults.tobytes() == before[1].tobytes()


def test_one_setting_leaves_the_other_streams_alone() -> None:
    plain, faulty = simulate(3), simulate(3, **FAULTS, size_distribution="pareto")
    np.testing.assert_array_equal(plain.arrivals["arrival_ms"], faulty.arrivals["arrival_ms"])
    np.testing.assert_array_equal(plain.arrivals["error_coin"], faulty.arrivals["error_coin"])
    assert (plain.arrivals["size"] != faulty.arrivals["size"]).all()


def test_equal_seeds_share_a_trace_and_others_differ() -> None:
    simulator = LoadBalancerSimulator(make_config(**FAULTS), 6)
    simulator.seed(np.array([7, 8, 7, 9, 8, 7], np.uint64))
    seen = []
    for _ in range(3):
        simulator.reset()
        rows = simulator.episodes["trace_row"]
        assert rows[0] == rows[2] == rows[5]
        assert rows[1] == rows[4]
        assert len(set(rows.tolist())) == 3
        seen += [simulator.arrivals[row].tobytes() for row in {*rows.tolist()}]
    assert len(set(seen)) == 9, "each seed's next episode is another one"


def test_seeds_near_each_other_are_unrelated() -> None:
    first = simulate(2_000, episode_length=2).arrivals["arrival_ms"][:, 0]
    mean = make_config().mean_gap_ms
    assert stats.kstest(first, stats.expon(scale=mean).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / math.sqrt(2_000)
