"""Client-side weighted round robin: weights from a log of answers, computed by hand."""

from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv


class Bench:
    """One environment whose log is written by hand."""

    def __init__(self, servers: int, **settings: Any) -> None:
        self.env = LoadBalancerVectorEnv(1, num_servers=servers)
        self.env.reset(seed=0)
        self.seen = self.env.simulator.seen[0]
        self.baseline = make_baseline("client_side_weighted_round_robin", self.env, **settings)
        self.state: Any = None
        self.slots = 0

    def answer(self, server: int, departure: float, error: int = 0) -> None:
        request = self.env.simulator.requests[0, self.slots]
        request["server"], request["departure_ms"], request["error"] = server, departure, error
        self.slots += 1
        self.env.simulator.episodes["step"] = self.slots
        self.seen["observed_at_ms"][server] = departure

    def weights(self, now: float) -> np.ndarray:
        self.env.simulator.episodes["now_ms"] = now
        _, self.state = self.baseline.predict(self.env.observe(), self.state)
        weights: np.ndarray = self.state[2][0, 0]
        return weights


def test_weights_are_answers_over_utilisation_and_errors() -> None:
    bench = Bench(3, blackout_ms=500.0)
    bench.seen["service_ms"] = [10.0, 20.0, 50.0]
    assert bench.weights(0.0).tolist() == [1, 1, 1]
    for time in range(10):
        bench.answer(0, 100.0 + time)
    for time in range(5):
        bench.answer(1, 100.0 + time, error=int(time == 0))
    assert bench.weights(900.0).tolist() == [1, 1, 1], "not yet"
    # 10 / s at 10 %: 100. 5 / s at 10 % and 20 % errors: 16.7. The median of them.
    assert bench.weights(1_000.0) == pytest.approx([100.0, 5 / 0.3, (100 + 5 / 0.3) / 2])
    bench.answer(2, 1_500.0)
    assert bench.weights(1_999.0) == pytest.approx([100.0, 5 / 0.3, (100 + 5 / 0.3) / 2])
    # Server 2 has 1 / s at 5 %; nothing new of the others.
    assert bench.weights(2_000.0) == pytest.approx([100.0, 5 / 0.3, 20.0])


def test_blackout_and_expiry() -> None:
    bench = Bench(2, blackout_ms=2_000.0, expiry_ms=5_000.0)
    bench.seen["service_ms"] = [10.0, 20.0]
    bench.weights(0.0)
    bench.answer(0, 500.0)
    bench.answer(1, 900.0)
    assert bench.weights(1_000.0).tolist() == [1, 1]
    assert bench.weights(2_600.0) == pytest.approx([100.0, 100.0]), "server 1 is too new"
    assert bench.weights(3_600.0) == pytest.approx([100.0, 50.0])
    assert bench.weights(5_800.0) == pytest.approx([50.0, 50.0]), "server 0 is silent"
    assert bench.weights(7_000.0).tolist() == [1, 1]


def test_weights_follow_speeds_and_give_turns() -> None:
    env = LoadBalancerVectorEnv(
        1, preset="mm4", service_rates=(3.0, 1.0), utilisation=0.5, episode_length=4_000
    )
    observations, _ = env.reset(seed=0)
    settings = {"blackout_ms": 100.0, "update_ms": 300.0}
    baseline = make_baseline("client_side_weighted_round_robin", env, **settings)
    state: Any = None
    shares = []
    for _ in range(3_999):
        actions, state = baseline.predict(observations, state)
        observations, *_ = env.step(actions)
        shares.append(actions[0] == 0)
    assert np.mean(shares[:100]) == 0.5, "round robin before the first report"
    assert np.mean(shares[2_000:]) == pytest.approx(0.75, abs=0.05)
