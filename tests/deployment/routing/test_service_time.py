"""The mean service time, estimated from answers."""

import numpy as np
import pytest

from grpo_gym.deployment.routing import Endpoint
from grpo_gym.deployment.routing.service_time import RunningMean, ServiceTime, mean_service_ms
from routing_bench import Script, bench


def queue(
    estimates: list[ServiceTime], workers: int, utilisation: float, count: int, seed: int
) -> None:
    """Answers of endpoints whose mean service times are 10, 20 and so on, in ms."""
    generator = np.random.default_rng(seed)
    for number, estimate in enumerate(estimates, start=1):
        mean_ms = 10.0 * number
        free_ms, departures, now_ms = np.zeros(workers), [0.0], 0.0
        for _ in range(count):
            now_ms += generator.exponential(mean_ms / workers / utilisation)
            worker = free_ms.argmin()
            start_ms = max(now_ms, free_ms[worker])
            free_ms[worker] = start_ms + generator.exponential(mean_ms)
            in_flight = 1 + sum(each > now_ms for each in departures)
            departures.append(free_ms[worker])
            estimate.observe(free_ms[worker] - now_ms, in_flight, workers)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_estimate_is_the_harmonic_mean_of_service_times(workers: int) -> None:
    true_ms = 4.0 / (1 / 10 + 1 / 20 + 1 / 30 + 1 / 40)
    errors = []
    for seed in range(10):
        estimates = [ServiceTime() for _ in range(4)]
        queue(estimates, workers, 0.6, 1_000, seed)
        estimated_ms = mean_service_ms(estimates)
        assert estimated_ms is not None
        errors.append(estimated_ms / true_ms - 1.0)
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.05


def test_ten_answers_are_enough() -> None:
    estimates = [ServiceTime(), ServiceTime()]
    for number in range(10):
        assert mean_service_ms(estimates) is None
        estimates[number % 2].observe(20.0, 1, 1)
    assert mean_service_ms(estimates) == pytest.approx(20.0)


def test_answers_that_waited_count_only_where_nobody_found_a_free_worker() -> None:
    estimates = [ServiceTime(), ServiceTime()]
    for number in range(99):
        estimates[number % 2].observe(80.0, 8, 2)
        assert mean_service_ms(estimates) is None
    estimates[0].observe(80.0, 8, 2)
    assert mean_service_ms(estimates) == pytest.approx(20.0)
    for _ in range(10):
        estimates[0].observe(30.0, 2, 2)
    assert mean_service_ms(estimates) == pytest.approx(30.0)


def test_one_slow_endpoint_hardly_changes_it() -> None:
    estimates = [ServiceTime() for _ in range(4)]
    for estimate in estimates:
        for _ in range(100):
            estimate.observe(20.0, 1, 1)
    for _ in range(20):
        estimates[0].observe(200.0, 1, 1)
    estimated_ms = mean_service_ms(estimates)
    assert estimated_ms is not None and 20.0 < estimated_ms < 24.0


def test_outliers_are_bounded_and_lasting_changes_followed() -> None:
    mean = RunningMean()
    for _ in range(100):
        mean.observe(20.0)
    mean.observe(30_000.0)
    assert mean.mean < 22.0
    for _ in range(5_000):
        mean.observe(5.0)
    assert mean.mean == pytest.approx(5.0, rel=0.1)


def test_the_fallback_acts_until_it_is_known() -> None:
    script = Script(3)
    script.needs_service_time = True
    world = bench(script)
    assert world.core.status().service_ms is None
    picks = [world.one(latency_ms=20.0) for _ in range(10)]
    assert picks == list("abcdabcdab") and not script.observations
    assert world.core.status().service_ms == pytest.approx(20.0)
    assert world.one() == "d"
    assert world.core.status().guard.decisions == 1


def test_times_are_observed_in_its_unit() -> None:
    script = Script(0)
    script.needs_service_time = True
    world = bench(script)
    for _ in range(10):
        world.one(latency_ms=20.0)
    world.pick(among=["a"])
    # Feature 1 is log1p(latency / (service time / 10)) / log1p(10,000).
    expected = np.log1p(10.0) / np.log1p(10_000.0)
    assert script.observations[0][1] == pytest.approx(expected, abs=1e-6)


def test_failures_and_probes_of_others_say_nothing() -> None:
    world = bench(Script(0))
    for _ in range(20):
        world.one(ok=False, latency_ms=500.0)
    assert world.core.status().service_ms is None


def test_a_given_service_time_stays() -> None:
    world = bench(Script(0), service_ms=7.0, endpoints=[Endpoint("a", "http://a")])
    for _ in range(50):
        world.one(latency_ms=90.0)
    assert world.core.status().service_ms == 7.0
