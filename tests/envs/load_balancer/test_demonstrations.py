"""The published systems: tiny-grpo's bandit to the digit, Park's table within its errors."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv

HEALTHY = [-39.5, -61.5, -99.0, -118.5]
DEGRADED = [-288.0, -61.5, -99.0, -118.5]


def tiny(**settings: Any) -> Any:
    return gym.make("LoadBalancer-v0", preset="tiny-grpo", **settings).unwrapped


@pytest.mark.parametrize("action", range(4))
def test_tiny_grpo_rewards_of_each_server(action: int) -> None:
    env = tiny()
    env.reset(seed=0)
    rewards = []
    for step in range(3_000):
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        expected = DEGRADED if 1_000 <= step < 2_000 else HEALTHY
        assert info["estimated_rewards"] == pytest.approx(expected)
        assert info["oracle_action"] == np.argmax(expected)
        assert info["regret"] == pytest.approx(max(expected) - expected[action])
    assert rewards[:1_000] == pytest.approx([HEALTHY[action]] * 1_000)
    assert rewards[1_000:2_000] == pytest.approx([DEGRADED[action]] * 1_000)
    assert rewards[2_000:] == pytest.approx([HEALTHY[action]] * 1_000)
    assert (terminated, truncated) == (False, True)


def test_tiny_grpo_observations() -> None:
    env = tiny()
    observation, _ = env.reset(seed=0)
    observations = [observation]
    for step in range(3_000):
        observations.append(env.step(step % 4)[0])
    healthy, degraded = [0.0, 80 / 300, 0.5, 0.0], [0.0, 0.6, 0.6, 0.0]
    # Observation k is seen before request k.
    np.testing.assert_allclose(observations[:1_000], [healthy] * 1_000, atol=1e-6)
    np.testing.assert_allclose(observations[1_000:2_000], [degraded] * 1_000, atol=1e-6)
    np.testing.assert_allclose(observations[2_000:], [healthy] * 1_001, atol=1e-6)


def test_tiny_grpo_averages_of_known_policies() -> None:
    env = LoadBalancerVectorEnv(1_000, preset="tiny-grpo", autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0)
    random, oracle = make_baseline("random", env), make_baseline("oracle", env)
    rewards = []
    for _ in range(1_200):
        rewards.append(env.step(random.predict(observation)[0])[1].mean())
    healthy, degraded = np.mean(rewards[:1_000]), np.mean(rewards[1_000:])
    # Standard errors: the spread of the four rewards over sqrt(requests).
    assert healthy == pytest.approx(-79.625, abs=4 * float(np.std(HEALTHY)) / 1_000)
    assert degraded == pytest.approx(-141.75, abs=4 * float(np.std(DEGRADED)) / math.sqrt(200_000))
    assert np.mean(HEALTHY) == -79.625
    assert np.mean(DEGRADED) == -141.75
    env.reset(seed=0)
    best = [env.step(oracle.predict(observation)[0])[1] for _ in range(1_100)]
    np.testing.assert_allclose(best[:1_000], -39.5)
    np.testing.assert_allclose(best[1_000:], -61.5)


PARK: dict[str, tuple[float, float]] = {
    "random": (15436, 171),
    "round_robin": (15005, 256),
    "weighted_random": (4835, 146),
    "power_of_two": (2653, 47),
    "least_connections": (1246, 26),
    "shortest_expected_delay": (1163, 22),
    "earliest_completion": (944, 16),
    "least_work": (907, 15),
    "least_time_left": (870, 12),
}
"""Mean time per job over 2,000 episodes and its standard error, from Park's own simulator."""


def park_times(policy: str, episodes: int) -> np.ndarray:
    """Mean time per job of each episode."""
    env = LoadBalancerVectorEnv(episodes, preset="park", autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0)
    predict, state = make_baseline(policy, env).predict, None
    returns = np.zeros(episodes)
    for _ in range(env.config.episode_length):
        actions, state = predict(observation, state)
        observation, rewards, terminated, _, _ = env.step(actions)
        returns += rewards
    assert terminated.all()
    return -returns / env.config.episode_length


def assert_park(policy: str, episodes: int) -> None:
    times = park_times(policy, episodes)
    mean, error = PARK[policy]
    combined = math.hypot(error, times.std(ddof=1) / math.sqrt(episodes))
    assert abs(times.mean() - mean) < 3 * combined, (times.mean(), combined)


@pytest.mark.parametrize("policy", ["least_connections", "least_work", "least_time_left"])
def test_park_table(policy: str) -> None:
    assert_park(policy, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("policy", PARK)
def test_whole_park_table(policy: str) -> None:
    assert_park(policy, 4_000)


def test_park_has_the_published_system() -> None:
    env = LoadBalancerVectorEnv(1, preset="park")
    np.testing.assert_allclose(env.config.service_rates, np.arange(0.15, 1.06, 0.1))
    assert env.config.mean_gap_ms == pytest.approx(55.0)
    assert env.config.utilisation == pytest.approx(0.909, abs=1e-3)
    assert env.single_observation_space.shape == (81,)
