"""The heuristics: hand-computed decisions, the same on single and vector environments."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from grpo_gym.envs.load_balancer.baselines import BASELINES, make_baseline
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

FAULTY: dict[str, Any] = {
    "mean_time_to_failure_ms": 200.0,
    "mean_time_to_recovery_ms": 100.0,
    "fault_mix": {"degraded": 1, "slow": 1, "erroring": 1, "down": 1},
    "recovery_ramp_ms": 50.0,
}


def bench(num_envs: int = 1, **settings: Any) -> LoadBalancerVectorEnv:
    env = LoadBalancerVectorEnv(num_envs, **settings)
    env.reset(seed=0)
    return env


def choices(name: str, env: LoadBalancerVectorEnv, state: Any = None) -> Any:
    return make_baseline(name, env).predict(env.observe(), state)


def test_least_connections_and_shortest_expected_delay() -> None:
    env = bench(4_000, service_rates=(1.0, 0.5, 0.25))
    env.simulator.metrics["in_flight"] = [3, 1, 1]
    # Fewest in flight: 1 and 2 tie, at random. Delays (q + 1) / rate: 4, 4, 8: 0 and 1 tie.
    for name, tied in (("least_connections", (1, 2)), ("shortest_expected_delay", (0, 1))):
        counts = np.bincount(choices(name, env)[0], minlength=3)
        assert counts[list(tied)].sum() == 4_000
        assert stats.chisquare(counts[list(tied)]).pvalue > 1e-3
    env.simulator.metrics["in_flight"] = [2, 1, 1]
    assert (choices("shortest_expected_delay", env)[0] == 0).all()


def test_round_robin_starts_over_with_an_episode() -> None:
    env = bench(2, num_servers=3)
    predict, state = make_baseline("round_robin", env).predict, None
    seen = []
    for step in range(6):
        actions, state = predict(env.observe(), state, np.array([False, step == 4]))
        seen.append(actions.tolist())
    assert seen == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 0], [2, 1]]


def test_random_choices_have_their_probabilities() -> None:
    env = bench(20_000, service_rates=(1.0, 2.0, 5.0))
    counts = np.bincount(choices("random", env)[0], minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3
    counts = np.bincount(choices("weighted_random", env)[0], minlength=3)
    assert stats.chisquare(counts, 20_000 * np.array([1, 2, 5]) / 8).pvalue > 1e-3


@pytest.mark.parametrize("name", ["power_of_two", "peak_ewma_p2c"])
def test_two_choices_are_distinct_and_uniform(name: str) -> None:
    env = bench(20_000, num_servers=5)
    seen, log = env.simulator.metrics, env.simulator.requests[:, :5]
    seen["in_flight"] = [0, 1, 2, 3, 4]
    seen["observed_at_ms"] = 0.0  # each has answered one request
    env.simulator.episodes["step"] = 5
    log["arrival_ms"], log["departure_ms"], log["response_ms"] = -1.0, 0.0, 1.0
    log["server"] = np.arange(5)
    # The cheapest of a pair: server i wins against the 4 - i behind it, of 10 pairs.
    counts = np.bincount(choices(name, env)[0], minlength=5)
    assert counts[4] == 0, "the worst server never wins a pair of distinct servers"
    assert stats.chisquare(counts[:4], 20_000 * np.array([4, 3, 2, 1]) / 10).pvalue > 1e-3
    seen["in_flight"] = 2
    assert stats.chisquare(np.bincount(choices(name, env)[0], minlength=5)).pvalue > 1e-3


def test_two_choices_of_few_servers() -> None:
    pair = bench(2_000, num_servers=2)
    pair.simulator.metrics["in_flight"] = [1, 0]
    assert (choices("power_of_two", pair)[0] == 1).all()
    assert (choices("power_of_two", bench(5, num_servers=1))[0] == 0).all()


def test_outlier_ejection_cycle() -> None:
    env = bench(1, preset="mm4", num_servers=3)
    seen, episode = env.simulator.metrics[0], env.simulator.episodes[0]
    seen["in_flight"] = [5, 0, 4]
    predict = make_baseline("outlier_ejection", env).predict
    state: Any = None

    def choose(now: float) -> int:
        nonlocal state
        episode["now_ms"] = now
        actions, state = predict(env.observe(), state)
        return int(actions[0])

    def answer(server: int, at: float, errors: int, rate: float) -> None:
        seen["observed_at_ms"][server] = at
        seen["consecutive_errors"][server] = errors
        seen["error_rate"][server] = rate

    assert choose(10.0) == 1
    answer(1, 11.0, 4, 0.5)
    assert choose(11.0) == 1
    answer(0, 12.0, 1, 0.9)  # worse on average, but not five in a row
    answer(1, 12.0, 5, 0.6)
    assert choose(12.0) == 2  # ejected for 60 mean service times
    answer(2, 13.0, 5, 0.9)
    assert choose(13.0) == 2  # at most one of three is out at a time
    answer(2, 20.0, 0, 0.7)
    assert choose(71.9) == 2
    assert choose(72.1) == 1, "back, and not ejected again for what it did before"
    answer(1, 80.0, 6, 0.7)
    assert choose(80.0) == 2  # the second time for twice as long
    assert choose(199.9) == 2
    assert choose(200.1) == 1
    answer(1, 201.0, 0, 0.1)
    assert choose(201.0) == 1


def test_outlier_ejection_by_error_rate() -> None:
    env = bench(1, preset="mm4", num_servers=10)
    seen = env.simulator.metrics[0]
    seen["observed_at_ms"], seen["in_flight"] = 0.5, 1
    seen["in_flight"][3] = 0
    env.simulator.episodes["now_ms"] = 1.0
    seen["error_rate"][3] = 0.009  # far from the others, but below 1 %
    assert choices("outlier_ejection", env)[0] == 3
    seen["error_rate"][3] = 0.02
    assert choices("outlier_ejection", env)[0] != 3
    seen["error_rate"] = 0.02  # no worse than the others
    assert choices("outlier_ejection", env)[0] == 3


def test_privileged_baselines_look_at_work() -> None:
    env = bench(1, service_rates=(1.0, 0.5, 2.0), episode_length=50)
    simulator = env.simulator
    now = simulator.episodes["now_ms"][0]
    simulator.servers["free_at_ms"] = now + np.array([10.0, 15.0, 9.0])
    simulator.servers["in_flight"] = 1
    simulator.arrivals["size"][:, 0] = 10.0
    assert choices("least_work", env)[0] == 1  # 10, 7.5, 18
    assert choices("least_time_left", env)[0] == 2
    assert choices("earliest_completion", env)[0] == 2  # 20, 35, 14
    simulator.servers["free_at_ms"][0, 0] = now
    simulator.arrivals["size"][:, 0] = 1.0
    assert choices("earliest_completion", env)[0] == 0  # 1, 17, 9.5


@pytest.mark.parametrize("reward", ["latency", "demo"])
@pytest.mark.parametrize("preset", ["flaky", "tiny-grpo"])
def test_estimates_are_what_each_choice_would_have_given(preset: str, reward: str) -> None:
    settings = {"preset": preset, "reward": reward, "utilisation": 1.5, **FAULTY}
    if preset == "tiny-grpo":
        settings["fault_schedule"] = ((0, "down", 3, 30), (1, "degraded", 5, 40))
        settings["load_decay"] = (1.0, 0.99, 0.9, 0.5)
    env, other = (LoadBalancerEnv(episode_length=120, **settings) for _ in range(2))
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(120):
        state = env.get_state()
        action = rng.integers(4)
        _, reward_found, _, _, info = env.step(action)
        assert info["estimated_rewards"][action] == reward_found
        for alternative in range(4):
            other.set_state(state)
            _, found, _, _, _ = other.step(np.int64(alternative))
            assert info["estimated_rewards"][alternative] == found
        assert info["oracle_action"] == info["estimated_rewards"].argmax()
        assert info["regret"] == info["estimated_rewards"].max() - reward_found


def test_oracle_has_no_regret() -> None:
    env = LoadBalancerVectorEnv(20, infos="full", episode_length=100, **FAULTY)
    observations, _ = env.reset(seed=0)
    oracle = make_baseline("oracle", env)
    for _ in range(100):
        observations, _, _, _, infos = env.step(oracle.predict(observations)[0])
        assert (infos["regret"] == 0.0).all()


@pytest.mark.parametrize("dynamics", ["queue", "decaying_load"])
@pytest.mark.parametrize("name", BASELINES)
def test_absent_servers_are_never_chosen(name: str, dynamics: str) -> None:
    fleets: dict[str, Any] = {"num_servers": "uniform 1 7", "service_rates": "uniform 0.5 1.5"}
    env = LoadBalancerVectorEnv(40, dynamics=dynamics, episode_length=60, **fleets, **FAULTY)
    observations, _ = env.reset(seed=0)
    baseline, state = make_baseline(name, env), None
    present = env.simulator.present
    assert present.sum(axis=1).min() == 1
    assert present.sum(axis=1).max() == 7
    chosen = np.zeros(present.shape)
    for _ in range(59):
        actions, state = baseline.predict(observations, state)
        chosen[np.arange(40), actions] += 1
        observations, *_ = env.step(actions)
    assert not chosen[~present].any()


@pytest.mark.parametrize("name", BASELINES)
def test_each_balancer_has_a_memory_of_its_own(name: str) -> None:
    """What one balancer's requests change in its memory, the others do not see."""
    env = LoadBalancerVectorEnv(6, num_balancers=3, episode_length=80, **FAULTY)
    observations, _ = env.reset(seed=0)
    baseline = make_baseline(name, env)
    state: Any = None
    for _ in range(79):
        before, balancers = state, env.simulator.episodes["balancer"].copy()
        actions, state = baseline.predict(observations, state)
        if before is not None:
            for old, new in zip(before, state, strict=True):
                others = np.ones((6, 3), np.bool_)
                others[np.arange(6), balancers] = False
                np.testing.assert_array_equal(old[others], new[others])
        observations, *_ = env.step(actions)


@pytest.mark.parametrize("name", BASELINES)
def test_looking_twice_changes_nothing(name: str) -> None:
    env = bench(3, episode_length=60, **FAULTY)
    baseline, state = make_baseline(name, env), None
    for _ in range(59):
        first, new = baseline.predict(env.observe(), state)
        again, same = baseline.predict(env.observe(), state)
        np.testing.assert_array_equal(first, again)
        for one, other in zip(new or (), same or (), strict=True):
            np.testing.assert_array_equal(one, other)
        state = new
        env.step(first)
