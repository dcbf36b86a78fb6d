"""Prequal: its pool, its probes and its choices, computed by hand."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.routers.prequal import reuse_budget
from grpo_gym.envs.load_balancer.routers.probes import (
    FREE,
    PROBE,
    SAMPLES,
    Scratch,
    best_probe,
    find_answers,
    hot_limit,
    oldest_probe,
    place_for,
    similar_latency,
    worst_probe,
)
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.settings import ConfigError

QUANTILE = 2.0**-0.25


def pool_of(*probes: tuple[int, int, float, float], places: int = 16) -> np.ndarray:
    """A pool of (server, in flight, latency, time)."""
    pool = np.zeros((1, places), PROBE)
    pool["server"] = FREE
    for i, (server, in_flight, latency_ms, probed_ms) in enumerate(probes):
        pool[0, i] = latency_ms, probed_ms, server, in_flight, 9, 0
    return pool


def test_the_hot_limit_is_a_quantile_of_the_pool() -> None:
    pool = pool_of(*[(n, in_flight, 0.0, 0.0) for n, in_flight in enumerate([7, 2, 5, 3])])
    numbers = np.empty(16)
    # In order 2, 3, 5, 7; number floor(3 q).
    for quantile, limit in ((0.0, 2), (0.3, 2), (0.34, 3), (QUANTILE, 5), (1.0, 7)):
        assert hot_limit(pool, 0, quantile, numbers) == limit


def test_best_is_the_fastest_cold_server_or_the_least_loaded_hot_one() -> None:
    pool = pool_of((0, 10, 1.0, 0.0), (1, 2, 50.0, 0.0), (2, 3, 20.0, 0.0), (3, 1, 20.0, 0.0))
    assert pool[0, best_probe(pool, 0, 5.0)]["server"] == 3  # of equal latency the less loaded
    assert pool[0, best_probe(pool, 0, 0.0)]["server"] == 3  # all hot
    assert pool[0, best_probe(pool, 0, 10.0)]["server"] == 0  # all cold
    assert best_probe(pool_of(), 0, 0.0) == FREE


def test_worst_and_oldest() -> None:
    pool = pool_of((0, 9, 1.0, 300.0), (1, 7, 5.0, 100.0), (2, 1, 99.0, 200.0))
    assert pool[0, worst_probe(pool, 0, 5.0)]["server"] == 0  # the most loaded hot one
    assert pool[0, worst_probe(pool, 0, 9.0)]["server"] == 2  # the slowest cold one
    assert pool[0, oldest_probe(pool, 0)]["server"] == 1
    assert worst_probe(pool_of(), 0, 0.0) == oldest_probe(pool_of(), 0) == FREE


def test_a_probe_replaces_that_of_its_server_or_the_oldest() -> None:
    pool = pool_of((4, 1, 1.0, 3.0), (5, 1, 1.0, 2.0), places=3)
    assert place_for(pool, 0, 5) == 1
    assert place_for(pool, 0, 6) == 2
    pool[0, 2] = 1.0, 4.0, 6, 1, 9, 0
    assert place_for(pool, 0, 7) == 1


def test_reuse_budget() -> None:
    env = LoadBalancerVectorEnv(1)
    baseline: Any = make_baseline("prequal", env, few_servers_reuses=5)
    p = baseline._settings[0]
    # 2 / ((1 - 16 / N) * 3 - 1)
    for servers, budget in (
        (10_000, 1.0024),
        (64, 1.6),
        (32, 4.0),
        (25, 25.0),
        (24, 5.0),
        (4, 5.0),
    ):
        assert reuse_budget(servers, p) == pytest.approx(budget, abs=1e-4)
    many_probes: Any = make_baseline("prequal", env, probes=9, pool=2)
    assert reuse_budget(10_000, many_probes._settings[0]) == 1.0, "at least once"


def test_latency_is_the_median_at_a_similar_number_in_flight() -> None:
    env = LoadBalancerVectorEnv(1, num_servers=2)
    env.reset(seed=0)
    log = env.simulator.requests
    rows = [  # server, in flight, arrival, departure, response
        (1, 3, 10.0, 20.0, 999.0),  # too old
        (1, 1, 100.0, 110.0, 10.0),
        (1, 2, 101.0, 121.0, 20.0),
        (0, 2, 102.0, 120.0, 888.0),  # another server
        (1, 3, 103.0, 133.0, 30.0),
        (1, 3, 104.0, 134.0, 40.0),
        (1, 6, 105.0, 205.0, 777.0),  # not yet answered
    ]
    for slot, row in enumerate(rows):
        for name, value in zip(
            ("server", "in_flight", "arrival_ms", "departure_ms", "response_ms"), row, strict=True
        ):
            log[name][0, slot] = value
    scratch = Scratch(
        order=np.array([1, 0]),
        responses_ms=np.empty((1, SAMPLES)),
        in_flight=np.empty((1, SAMPLES), np.int64),
        counts=np.empty(1, np.int64),
        numbers=np.empty(SAMPLES),
    )
    episode = env.simulator.episodes[0]
    episode["now_ms"], episode["step"] = 200.0, len(rows)
    find_answers(log[:, None], 0, episode, 150.0, scratch)
    assert scratch.responses_ms[0, : scratch.counts[0]].tolist() == [40, 30, 20, 10]
    # 1: 10 and 20, the upper one. 2: all four. 3: 20, 30, 40. 9: the nearest, 30 and 40.
    for in_flight, median in ((1, 20.0), (2, 30.0), (3, 30.0), (9, 40.0)):
        assert similar_latency(0, in_flight, scratch) == median
    find_answers(log[:, None], 0, episode, 50.0, scratch)
    assert similar_latency(0, 2, scratch) == 0.0, "no answer: worth a try"


class Bench:
    """One environment whose pool is set by hand."""

    def __init__(self, *probes: tuple[int, int, float, float], **settings: Any) -> None:
        self.env = LoadBalancerVectorEnv(1, num_servers=8)
        self.env.reset(seed=0)
        self.env.simulator.episodes["now_ms"] = 1_000.0
        self.env.simulator.servers["in_flight"] = 5
        self.baseline = make_baseline("prequal", self.env, **settings)
        pool, removed = self.baseline.initial_state()
        pool[:, 0] = pool_of(*probes, places=pool.shape[2])
        self.state: Any = (pool, removed)

    def choose(self) -> int:
        actions, self.state = self.baseline.predict(self.env.observe(), self.state)
        return int(actions[0])

    def pooled(self) -> dict[int, Any]:
        return {
            int(probe["server"]): probe for probe in self.state[0][0, 0] if probe["server"] >= 0
        }


def test_a_request_uses_the_best_probe_removes_one_and_sends_three() -> None:
    probes = [(n, n + 1, 10.0 * n + 10.0, 900.0 + n) for n in range(6)]
    bench = Bench(*probes, hot_quantile=0.5)
    assert bench.choose() == 0
    asked = {n for n, probe in bench.pooled().items() if probe["probed_ms"] == 1_000.0}
    assert len(asked) == 3
    for n, probe in bench.pooled().items():
        if n in asked:
            assert probe["in_flight"] == 5 + (n == 0), "the truth, with the request just routed"
            assert probe["uses_left"] == 1
    # The oldest was that of server 0, which was also used.
    assert set(bench.pooled()) == {1, 2, 3, 4, 5} | asked


def test_removals_take_turns_and_a_used_probe_counts_one_more() -> None:
    probes = [(n, 2, 10.0 * n + 10.0, 900.0 - n) for n in range(5)]
    bench = Bench(*probes, probes=1)
    for removals, gone in ((1, {4}), (2, {4, 3})):  # the oldest is 4; the slowest then 3
        assert bench.choose() == 0
        asked = {n for n, probe in bench.pooled().items() if probe["probed_ms"] == 1_000.0}
        assert not (set(bench.pooled()) - asked) & gone
        bench.state[0]["in_flight"][bench.state[0]["server"] > 4] = 99
        assert bench.state[1][0, 0] == removals
        if 0 not in asked:
            assert bench.pooled()[0]["in_flight"] == 2 + removals


def test_old_probes_are_dropped_and_a_pool_of_one_is_no_choice() -> None:
    env = LoadBalancerVectorEnv(4_000, num_servers=4)
    observations, _ = env.reset(seed=0)
    env.simulator.episodes["now_ms"] = 2_000.0
    baseline = make_baseline("prequal", env)
    pool, removed = baseline.initial_state()
    pool[:, 0] = pool_of((0, 1, 1.0, 999.0), (1, 1, 1.0, 1_000.0))
    actions, _ = baseline.predict(observations, (pool, removed))
    assert stats.chisquare(np.bincount(actions, minlength=4)).pvalue > 1e-3
    pool[:, 0] = pool_of((0, 1, 1.0, 1_000.0), (1, 1, 2.0, 1_000.0))
    assert (baseline.predict(observations, (pool, removed))[0] == 0).all()


def test_probes_go_to_distinct_servers_at_random() -> None:
    env = LoadBalancerVectorEnv(8_000, num_servers=5)
    observations, _ = env.reset(seed=0)
    _, state = make_baseline("prequal", env).predict(observations)
    assert state is not None
    servers = state[0][:, 0]["server"]
    assert ((servers >= 0).sum(axis=1) == 3).all()
    assert stats.chisquare(np.bincount(servers[servers >= 0])).pvalue > 1e-3
    few = LoadBalancerVectorEnv(5, num_servers=2)
    observations, _ = few.reset(seed=0)
    _, state = make_baseline("prequal", few).predict(observations)
    assert state is not None
    assert ((state[0]["server"] >= 0).sum(axis=2) == 2).all(), "both, once"


def test_fractions_of_reuses_are_rounded_at_random() -> None:
    env = LoadBalancerVectorEnv(4_000, num_servers=64)
    observations, _ = env.reset(seed=0)
    _, state = make_baseline("prequal", env).predict(observations)
    assert state is not None
    uses = state[0]["uses_left"][state[0]["server"] >= 0]
    assert set(uses) == {1, 2}
    assert uses.mean() == pytest.approx(1.6, abs=0.02)


def test_probes_see_the_truth_where_metrics_are_stale() -> None:
    env = LoadBalancerVectorEnv(1, num_servers=3, staleness_ms=1e6)
    env.reset(seed=0)
    baseline, state = make_baseline("prequal", env), None
    for _ in range(30):
        actions, state = baseline.predict(env.observe(), state)
        assert state is not None
        truth = env.simulator.servers["in_flight"][0]
        fresh = state[0][0, 0]
        fresh = fresh[(fresh["server"] >= 0)]
        fresh = fresh[fresh["probed_ms"] == env.simulator.episodes["now_ms"][0]]
        assert len(fresh) == 3
        routed = fresh["server"] == actions[0]
        assert (fresh["in_flight"] == truth[fresh["server"]] + routed).all()
        env.step(actions)
    assert truth.sum() > 0


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"pool": 1}, "pool must be >= 2"),
        ({"probes": 0}, "probes must be >= 1"),
        ({"hot_quantile": 1.5}, "hot_quantile must be"),
        ({"age": 1.0}, "has no setting 'age'.*age_ms"),
    ):
        with pytest.raises(ConfigError, match=message):
            Bench(**settings)
