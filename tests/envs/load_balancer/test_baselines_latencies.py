"""Peak EWMA and C3: estimates from a log of answers, computed by hand."""

import math
from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.settings import ConfigError


class Log:
    """One environment with a log of requests that is written by hand."""

    def __init__(self, name: str, servers: int = 2, **settings: Any) -> None:
        self.env = LoadBalancerVectorEnv(1, num_servers=servers)
        self.env.reset(seed=0)
        self.seen = self.env.simulator.seen[0]
        self.baseline = make_baseline(name, self.env, **settings)
        self.state: Any = None
        self.slots = 0

    def add(self, server: int, arrival: float, departure: float, balancer: int = 0) -> None:
        request = self.env.simulator.requests[0, self.slots]
        request["server"], request["balancer"] = server, balancer
        request["arrival_ms"], request["departure_ms"] = arrival, departure
        request["response_ms"] = departure - arrival
        self.slots += 1
        self.env.simulator.episodes["step"] = self.slots

    def choose(self, now: float, known: list[float], in_flight: list[int]) -> int:
        """`known`: until when each server's answers are known."""
        self.env.simulator.episodes["now_ms"] = now
        self.seen["observed_at_ms"], self.seen["in_flight"] = known, in_flight
        actions, self.state = self.baseline.predict(self.env.observe(), self.state)
        return int(actions[0])

    @property
    def estimates(self) -> np.ndarray:
        """Latencies, shape (N,)."""
        latencies: np.ndarray = self.state[0][0, 0]
        return latencies


def test_peak_ewma_jumps_up_and_decays_with_time() -> None:
    log = Log("peak_ewma", decay_ms=10.0)
    log.choose(0.0, [-1, -1], [0, 0])
    assert log.estimates.tolist() == [0, 0]
    log.add(0, arrival=0.0, departure=5.0)
    log.choose(10.0, [5, -1], [0, 0])
    first = 5.0 * math.exp(-0.5)
    assert log.estimates[0] == pytest.approx(first)
    log.add(0, arrival=11.0, departure=12.0)  # a smaller sample; the last look was at 10
    log.choose(15.0, [12, -1], [0, 0])
    mixed = math.exp(-0.2) * first + (1.0 - math.exp(-0.2)) * 1.0
    assert log.estimates[0] == pytest.approx(mixed * math.exp(-0.3))
    log.add(0, arrival=11.0, departure=16.0)  # a larger one
    log.choose(16.0, [16, -1], [0, 0])
    assert log.estimates[0] == pytest.approx(5.0)
    log.choose(116.0, [16, -1], [0, 0])
    assert log.estimates[0] == pytest.approx(5.0 * math.exp(-10.0)), "without answers towards 0"


def test_answers_are_heard_once_and_in_order_of_departure() -> None:
    log = Log("peak_ewma", decay_ms=10.0)
    log.add(0, arrival=0.0, departure=19.0)
    log.add(0, arrival=8.0, departure=18.0)  # 10 ms, then 19 ms: a peak
    log.add(1, arrival=0.0, departure=14.0)
    log.add(1, arrival=0.0, departure=4.0)  # 4 ms, then 14 ms
    log.choose(19.0, [19, 14], [0, 0])
    assert log.estimates == pytest.approx([19.0, 14.0 * math.exp(-0.5)])
    log.add(0, arrival=26.0, departure=29.0)
    log.add(0, arrival=18.0, departure=28.0)  # 10 ms, then 3 ms
    log.choose(29.0, [29, 14], [0, 0])
    ten = math.exp(-0.9) * 19.0 + (1.0 - math.exp(-0.9)) * 10.0
    three = math.exp(-0.1) * ten + (1.0 - math.exp(-0.1)) * 3.0
    assert log.estimates[0] == pytest.approx(three)


def test_answers_that_are_not_published_or_anothers_are_unknown() -> None:
    log = Log("peak_ewma", decay_ms=10.0)
    log.add(0, arrival=0.0, departure=5.0)
    log.add(1, arrival=0.0, departure=5.0, balancer=1)
    log.choose(9.0, [4, 5], [0, 0])
    assert log.estimates.tolist() == [0, 0]
    log.add(1, arrival=9.0, departure=10.0)
    log.choose(10.0, [4, 10], [0, 0])
    assert log.estimates == pytest.approx([0.0, 1.0])
    log.choose(15.0, [5, 10], [0, 0])
    assert log.estimates == pytest.approx([5.0 * math.exp(-1.0), math.exp(-0.5)])


def test_peak_ewma_choices() -> None:
    log = Log("peak_ewma", servers=4)
    for server, response in ((0, 10.0), (1, 30.0), (2, 25.0)):
        log.add(server, arrival=100.0 - response, departure=100.0)
    known = [100.0, 100.0, 100.0, -1.0]
    assert log.choose(100.0, known, [3, 0, 1, 0]) == 3  # never heard of: free once
    assert log.choose(100.0, known, [3, 0, 1, 1]) == 1  # 40, 30, 50, and one to be avoided
    assert log.choose(100.0, known, [9, 4, 5, 1]) == 0  # 100, 150, 150
    assert Log("peak_ewma", servers=2).choose(9.0, [-1, -1], [2, 1]) == 1  # both to be avoided
    with pytest.raises(ConfigError, match="decay_ms must be > 0"):
        Log("peak_ewma", decay_ms=0.0)


def test_two_choices_look_at_two_servers() -> None:
    log = Log("peak_ewma_p2c", servers=5)
    for server in range(5):
        log.add(server, arrival=0.0, departure=10.0)
    chosen = log.choose(50.0, [10.0] * 5, [0, 1, 2, 3, 4])
    updated_ms = log.state[1][0, 0]
    looked_at = np.flatnonzero(updated_ms == 50.0)
    assert len(looked_at) == 2
    assert chosen == looked_at[0], "the one with fewer requests in flight"
    assert (updated_ms[np.setdiff1d(np.arange(5), looked_at)] == 10.0).all()


def test_peak_ewma_without_a_log_samples_the_latency_at_each_request() -> None:
    env = LoadBalancerVectorEnv(1, preset="tiny-grpo")
    env.reset(seed=0)
    baseline = make_baseline("peak_ewma", env, decay_ms=10.0)
    latencies = env.simulator.seen["latency_ms"][0]
    env.simulator.episodes["now_ms"] = 5.0
    latencies[:] = [20.0, 40.0, 80.0, 25.0]
    actions, state = baseline.predict(env.observe())
    assert actions[0] == 0
    latencies[:2] = [180.0, 10.0]
    env.simulator.episodes["now_ms"] = 15.0
    actions, state = baseline.predict(env.observe(), state)
    mixed = math.exp(-1.0) * 40.0 + (1.0 - math.exp(-1.0)) * 10.0
    assert state is not None
    assert state[0][0, 0] == pytest.approx([180.0, mixed, 80.0, 25.0])
    assert actions[0] == 1


def test_c3_ranks() -> None:
    log = Log("c3")
    assert log.choose(0.0, [-1, -1], [1, 0]) == 1  # no answer yet: the one not asked
    log.add(1, arrival=8.0, departure=99.0)  # not answered
    log.add(0, arrival=0.0, departure=5.0)  # leaves one behind
    log.add(0, arrival=1.0, departure=9.0)
    log.add(1, arrival=2.0, departure=6.0)
    log.seen["service_ms"] = [4.0, 2.0]
    # Queues .7 and 0, responses 5.9 and 4: ranks 1.9 + 1.7^3 * 4 = 21.6 and 2 + q^3 * 2.
    assert log.choose(9.0, [9, 6], [0, 0]) == 1
    queues, responses_ms, services_ms = (each[0, 0] for each in log.state[:3])
    # Server 0 was not chosen: half way towards server 1, weighted by .3.
    assert queues == pytest.approx([0.7 - 0.15 * 0.7, 0.0])
    assert responses_ms == pytest.approx([5.9 - 0.15 * 1.9, 4.0])
    assert services_ms == pytest.approx([4.0 - 0.15 * 2.0, 2.0])
    # Ranks: 1.915 + 1.595^3 * 3.7 = 16.9, and 2 + 2^3 * 2 = 18 with one in flight.
    assert log.choose(10.0, [9, 6], [0, 1]) == 0
    # Nothing is heard twice: only server 1 has moved.
    for averages, pair in zip(log.state[:3], ((0.595, 0.0), (5.615, 4.0), (3.7, 2.0)), strict=True):
        assert averages[0, 0] == pytest.approx([pair[0], pair[1] + 0.15 * (pair[0] - pair[1])])


def test_c3_queue_counts_what_the_server_has_left() -> None:
    log = Log("c3", weight=1.0)
    log.add(0, arrival=0.0, departure=5.0)
    log.add(1, arrival=1.0, departure=9.0)  # elsewhere
    log.add(0, arrival=1.0, departure=7.0, balancer=1)  # another balancer's counts
    log.add(0, arrival=2.0, departure=9.0)
    log.add(0, arrival=3.0, departure=4.0)  # refused
    log.add(0, arrival=6.0, departure=9.5)  # after the answer
    log.choose(6.0, [5, -1], [1, 1])
    assert log.state[0][0, 0, 0] == 2.0


@pytest.mark.parametrize("name", ["peak_ewma", "c3"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"staleness_ms": 30.0},
        {"num_balancers": 3, "workers": 2},
        {"retry": True, "error_rates": 0.3, "timeout_ms": 100.0},
        {"retry": True, "num_balancers": 2, "fault_mix": {"down": 1}, "error_rates": 0.2},
    ],
    ids=["one", "stale", "balancers", "retries", "retries of balancers"],
)
def test_the_walk_over_the_log_agrees_with_the_simulator(
    name: str, settings: dict[str, Any]
) -> None:
    """Every answer that its balancer knows has been heard, and no other."""
    faults: dict[str, Any] = {"mean_time_to_failure_ms": 200.0, "mean_time_to_recovery_ms": 50.0}
    env = LoadBalancerVectorEnv(
        3, preset="flaky", utilisation=0.9, episode_length=150, **faults, **settings
    )
    simulator = env.simulator
    heard = {name: 0 for name in ("peak_ewma", "c3")}
    for _ in range(2):  # the log of the second episode lies over that of the first
        observations, _ = env.reset(seed=0)
        baseline, state = make_baseline(name, env), None
        for step in range(149):
            now_ms, members = simulator.episodes["now_ms"], np.arange(3)
            balancers = simulator.episodes["balancer"].copy()
            known_ms = simulator.seen["observed_at_ms"].copy()
            actions, state = baseline.predict(observations, state)
            assert state is not None
            heard_ms, cursors = (each[members, balancers] for each in state[-2:])
            np.testing.assert_array_equal(heard_ms, np.maximum(known_ms, -1.0))
            log = simulator.requests.reshape(3, -1, 151)[:, :, :step]
            for b in range(3):
                own = (log["balancer"][b] == balancers[b]) & (log["server"][b] >= 0)
                sent = log["arrival_ms"][b] <= now_ms[b]
                server_ms = heard_ms[b][np.maximum(log["server"][b], 0)]
                open_ones = own & ~(sent & (log["departure_ms"][b] <= server_ms))
                others = (log["server"][b] >= 0) & ~own
                open_ones |= others & ~(sent & (log["departure_ms"][b] <= now_ms[b]))
                first = np.flatnonzero(open_ones.any(axis=0))
                assert cursors[b] == (first[0] if len(first) else step)
                heard[name] += int((own & ~open_ones).sum())
            observations, *_ = env.step(actions)
    assert heard[name] > 1_000


def recompute(log: np.ndarray, now_ms: float, decay_ms: float, reads: list[float]) -> float:
    """The peak-sensitive average of one server's answers, with looks at it at some times."""
    events = [(float(each["departure_ms"]), float(each["response_ms"])) for each in log]
    events = sorted(events + [(time, 0.0) for time in reads])
    estimate, updated = 0.0, 0.0
    for time, sample in events:
        if time > now_ms:
            break
        weight = math.exp(-(time - updated) / decay_ms)
        estimate = sample if sample > estimate else weight * estimate + (1.0 - weight) * sample
        updated = time
    return estimate


@pytest.mark.parametrize("retry", [False, True])
def test_peak_ewma_agrees_with_all_answers_at_once(retry: bool) -> None:
    env = LoadBalancerVectorEnv(1, episode_length=120, retry=retry, error_rates=0.2)
    observations, _ = env.reset(seed=1)
    baseline, simulator = make_baseline("peak_ewma", env, decay_ms=50.0), env.simulator
    state, times = None, []
    for step in range(119):
        times.append(float(simulator.episodes["now_ms"][0]))
        actions, state = baseline.predict(observations, state)
        assert state is not None
        log = simulator.requests.reshape(-1, 121)[:, :step].ravel()
        log = log[log["arrival_ms"] <= times[-1]]  # no retries to come
        for n in range(4):
            answers = log[(log["server"] == n) & (log["departure_ms"] <= times[-1])]
            expected = recompute(answers, times[-1], 50.0, times)
            assert state[0][0, 0, n] == pytest.approx(expected)
        observations, *_ = env.step(actions)
