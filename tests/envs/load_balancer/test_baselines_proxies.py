"""Smooth weighted round robin, NGINX, HAProxy and Envoy: sequences computed by hand."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.settings import ConfigError


class Bench:
    """One environment whose metrics are set by hand; servers are a, b, c, ..."""

    def __init__(self, name: str, weights: tuple[float, ...], **settings: Any) -> None:
        self.env = LoadBalancerVectorEnv(1, service_rates=weights)
        self.env.reset(seed=0)
        self.seen = self.env.simulator.seen[0]
        self.baseline = make_baseline(name, self.env, **settings)
        self.state: Any = None

    def choose(self, *in_flight: int, now: float = 0.0) -> str:
        self.seen["in_flight"] = in_flight
        self.env.simulator.episodes["now_ms"] = now
        actions, self.state = self.baseline.predict(self.env.observe(), self.state)
        return "abcdefgh"[actions[0]]


def turns(weights: tuple[float, ...], count: int) -> str:
    bench = Bench("weighted_round_robin", weights)
    return "".join(bench.choose(*[0] * len(weights)) for _ in range(count))


def test_weighted_round_robin_is_nginx_sequence() -> None:
    assert turns((5.0, 1.0, 1.0), 14) == 2 * "aabacaa"


def test_weighted_round_robin_is_exact_for_fractions() -> None:
    # With sums of floats, 3 x 0.1 serves one server twice in a row.
    assert turns((0.1, 0.1, 0.1), 300) == 100 * "abc"
    assert turns((1 / 3, 1 / 3), 50) == 25 * "ab"
    for fractions, whole in (((0.1, 0.2, 0.3), (1, 2, 3)), ((0.05, 0.7, 0.25), (1, 14, 5))):
        assert turns(fractions, 120) == turns(tuple(map(float, whole)), 120)


def test_nginx_least_connections() -> None:
    bench = Bench("nginx_least_conn", (2.0, 1.0, 1.0))
    # Idle: all tie. Balances (2, 1, 1) a, (0, 2, 2) b, (2, -1, 3) c, (4, 0, 0) a.
    assert "".join(bench.choose(0, 0, 0) for _ in range(4)) == "abca"
    assert bench.choose(2, 0, 1) == "b"  # loads 1, 0, 1: alone, and no turn is taken
    # Loads 2, 1, 1: only b and c earn. Balances (0, 1, 1) b, (0, 0, 2) c.
    assert "".join(bench.choose(4, 1, 1) for _ in range(4)) == "bcbc"
    assert bench.choose(2, 1, 1) == "a"  # equal loads


def test_haproxy_takes_the_server_unchanged_for_longest() -> None:
    bench = Bench("haproxy_leastconn", (1.0, 1.0, 1.0))
    answered = bench.seen["observed_at_ms"]
    assert bench.choose(0, 0, 0, now=1.0) == "a"  # as configured
    assert bench.choose(1, 0, 0, now=2.0) == "b"
    answered[0] = 2.5
    assert bench.choose(0, 1, 0, now=3.0) == "c"  # a is behind it since 2.5
    answered[1:] = 3.2, 3.1
    assert bench.choose(0, 0, 0, now=4.0) == "a"
    answered[0] = 4.5  # taken and answered in between: a moved although it is idle again
    assert bench.choose(0, 0, 0, now=5.0) == "c"
    assert bench.choose(0, 0, 1, now=6.0) == "b"
    answered[0] = 6.5
    assert bench.choose(0, 1, 1, now=7.0) == "a"
    answered[:2] = 7.5, 7.2  # b answers before a does
    assert bench.choose(0, 0, 1, now=8.0) == "b"


def test_haproxy_keys_count_the_new_request_and_put_idle_servers_first() -> None:
    # Weights 256, 128, 64.
    assert Bench("haproxy_leastconn", (1.0, 0.5, 0.25)).choose(1, 1, 0) == "c"
    bench = Bench("haproxy_leastconn", (1.0, 0.5, 0.25))
    assert bench.choose(3, 1, 1) == "a"  # keys 4, 4, 8: a and b tie
    assert bench.choose(4, 1, 1) == "b"  # 5, 4, 8
    assert bench.choose(4, 2, 1) == "a"  # 5, 6, 8
    # Keys are whole: 2 * 256 / 154 = 3.3 and 3 * 256 / 256 = 3 tie.
    assert Bench("haproxy_leastconn", (0.6, 1.0)).choose(1, 2) == "a"


def test_envoy_draws_two_with_replacement_if_weights_are_equal() -> None:
    env = LoadBalancerVectorEnv(20_000, service_rates=(0.7,) * 4)
    env.reset(seed=0)
    env.simulator.seen["in_flight"] = [0, 1, 2, 3]
    actions, _ = make_baseline("envoy_least_request", env).predict(env.observe())
    # Of 16 pairs, 7 have the first, 5 the second but not the first, and so on.
    expected = 20_000 * np.array([7, 5, 3, 1]) / 16
    assert stats.chisquare(np.bincount(actions, minlength=4), expected).pvalue > 1e-3


def test_envoy_schedules_by_weight() -> None:
    bench = Bench("envoy_least_request", (2.0, 1.0))
    # Deadlines: a .5, b 1; a 1 (after b); b 2; a 1.5; a 2 (after b); b 3; ...
    assert "".join(bench.choose(0, 0) for _ in range(7)) == "abaabaa"


def test_envoy_weighs_by_requests_in_flight() -> None:
    bench = Bench("envoy_least_request", (2.0, 1.0))
    # a comes back 1 / (2 / 2) later: .5, 1.5, 2.5; b: 1, 2, 3.
    assert "".join(bench.choose(1, 0) for _ in range(6)) == "ababab"
    bench = Bench("envoy_least_request", (2.0, 1.0), active_request_bias=2.0)
    # a comes back 1 / (2 / 4) later: .5, 2.5, 4.5; b: 1, 2, 3, 4.
    assert "".join(bench.choose(1, 0) for _ in range(6)) == "abbabb"
    bench = Bench("envoy_least_request", (2.0, 1.0), active_request_bias=0.0)
    assert "".join(bench.choose(9, 0) for _ in range(7)) == "abaabaa"
    with pytest.raises(ConfigError, match="active_request_bias must be >= 0"):
        Bench("envoy_least_request", (1.0,), active_request_bias=-1)


def test_envoy_slow_start_after_errors() -> None:
    bench = Bench("envoy_least_request", (1.0, 1.0), slow_start_ms=100.0, active_request_bias=0)
    errors = bench.seen["consecutive_errors"]
    errors[1] = 5
    bench.choose(0, 0, now=1.0)
    errors[1] = 2  # still failing
    bench.choose(0, 0, now=2.0)
    errors[1] = 0
    # Back now with 10 %: b has deadlines 1, 11, 21, 31 and a has 1, 2, 3, ..., behind b's.
    chosen = "".join(bench.choose(0, 0, now=10.0) for _ in range(44))
    assert chosen == "ab" + 9 * "a" + 3 * ("b" + 10 * "a")
    # Half way with 50 %: b has 41, 43, 45, ...
    assert "".join(bench.choose(0, 0, now=60.0) for _ in range(60)) == 20 * "baa"
    # Over: equal weights, so two are drawn, and the schedule stands still.
    time = bench.state[2].copy()
    bench.choose(0, 0, now=110.0)
    assert bench.state[2] == time


def test_slow_start_share() -> None:
    bench = Bench("envoy_least_request", (1.0,), slow_start_ms=100.0, aggression=2.0)
    baseline: Any = bench.baseline
    for since_ms, share in ((0.0, 0.1), (4.0, 0.2), (25.0, 0.5), (100.0, 1.0), (500.0, 1.0)):
        bench.env.simulator.episodes["now_ms"] = 50.0 + since_ms
        assert baseline._slow_start(np.array([[50.0]])) == pytest.approx(share)
