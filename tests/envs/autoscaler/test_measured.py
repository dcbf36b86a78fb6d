"""A measured cluster shows what the environment shows: a replayed episode, bit for bit."""

import math
from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.autoscaler.baselines import BASELINES
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.measured import MEASUREMENTS, MeasuredCluster
from grpo_gym.settings import ConfigError
from sensors import measurements

SETTINGS: dict[str, dict[str, Any]] = {
    "scaling": {},
    "history": {"history": 7, "random_start": True},
    "week": {"weekend_factor": 0.6, "random_start": True, "observe_pending": False},
    "target": {"preset": "bursty", "random_start": True},
    "replicas": {"action": "replicas", "start_up_steps": 3, "constraints": False},
}


def replay(env: AutoScalerEnv, cluster: MeasuredCluster, step: int) -> float:
    """Measure the environment as it is now."""
    simulator = env.simulator
    now = int(simulator.starts[simulator.episodes["trace_row"][0]]) + step
    return cluster.measure(measurements(env), now, int(simulator.clusters["cooldown"][0]))


def assert_same(found: Any, expected: Any) -> None:
    parts = ("current_metrics", "metrics_history") if isinstance(expected, dict) else (None,)
    for part in parts:
        one, other = (found, expected) if part is None else (found[part], expected[part])
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_replayed_episode_gives_the_same_observations_masks_and_changes(name: str) -> None:
    env = AutoScalerEnv(**SETTINGS[name])
    cluster = MeasuredCluster(env.config)
    generator = np.random.default_rng(0)
    observation, _ = env.reset(seed=5)
    for step in range(300):
        replay(env, cluster, step)
        assert_same(cluster.observation(), observation)
        np.testing.assert_array_equal(cluster.action_mask(), env.action_masks())
        action = int(generator.integers(len(env.action_masks())))
        if step % 60 > 30:  # also some that the rules forbid
            action = int(np.flatnonzero(env.action_masks())[-1])
        before, change = cluster.total, cluster.change(action)
        observation, _, _, _, info = env.step(action)
        assert before + change == info["replicas"] + info["pending"]


@pytest.mark.parametrize("name", [name for name, each in BASELINES.items() if not each.privileged])
def test_a_baseline_decides_as_in_the_environment(name: str) -> None:
    env = AutoScalerEnv(preset="bursty", random_start=True)
    cluster = MeasuredCluster(env.config)
    there, here = BASELINES[name](env), BASELINES[name](cluster)
    observation, _ = env.reset(seed=6)
    memory_there = memory_here = None
    for step in range(200):
        replay(env, cluster, step)
        expected, memory_there = there.predict(observation, memory_there)
        found, memory_here = here.predict(cluster.observation(), memory_here)
        if name != "random":  # whose numbers depend on the episode's seed
            assert found == expected
        observation, *_ = env.step(int(expected))


@pytest.mark.parametrize("reward", ["chapter", "dollars"])
def test_rewards_are_those_of_the_environment(reward: str) -> None:
    """Where errors are the only losses, which measurements can tell."""
    env = AutoScalerEnv(reward=reward, bursts_per_day=0.0, action="replicas", constraints=False)
    cluster = MeasuredCluster(env.config)
    env.reset(seed=7)
    replay(env, cluster, 0)
    for step in range(1, 200):
        _, expected, *_ = env.step(60 + step % 7)
        # What starts up in a step is paid in it, and serves at its end.
        outcome = env.simulator.outcomes[0]
        values = {
            **measurements(env),
            "running": outcome["replicas"],
            "pending": outcome["pending"],
        }
        assert cluster.measure(values, step) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_load_is_that_of_one_replica() -> None:
    """25 requests/s a server, of which a replica has four."""
    assert MeasuredCluster(AutoScalerEnv().config).load(250.0) == pytest.approx(2.5)


def test_a_history_that_is_forgotten_begins_with_the_next_measurement() -> None:
    env = AutoScalerEnv(history=4)
    env.reset(seed=9)
    values = measurements(env)
    cluster = MeasuredCluster(env.config)
    for step in range(3):
        cluster.measure({**values, "cpu_percent": 10.0 * step}, step)
    cluster.forget()
    cluster.measure({**values, "cpu_percent": 75.0}, 3)
    assert cluster.observation()["metrics_history"][:, 0].tolist() == [0.5] * 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 1e12, None])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_what_is_not_plausible_is_refused_and_changes_nothing(name: str, bad: float | None) -> None:
    env = AutoScalerEnv(history=3)
    env.reset(seed=9)
    values = measurements(env)
    cluster = MeasuredCluster(env.config)
    cluster.measure(values, 0)
    before = cluster.observation()
    broken = {**values, name: bad}
    if bad is None:
        del broken[name]
    with pytest.raises(ValueError, match=rf"^{name} must be from 0 to "):
        cluster.measure(broken, 1)  # type: ignore[arg-type]
    assert_same(cluster.observation(), before)


def test_a_cluster_without_replicas_is_refused() -> None:
    env = AutoScalerEnv()
    env.reset(seed=9)
    with pytest.raises(ValueError, match="no replica is ordered"):
        MeasuredCluster(env.config).measure({**measurements(env), "running": 0.0}, 0)


@pytest.mark.parametrize("action", ["scaling_config", "flat", "multi"])
def test_actions_that_change_the_configuration_are_refused(action: str) -> None:
    with pytest.raises(ConfigError, match="action must be one of scaling, replicas, target"):
        MeasuredCluster(AutoScalerEnv(action=action).config)


def test_recordings_of_training_are_not_needed(tmp_path: Any) -> None:
    recording = tmp_path / "demand.csv"
    recording.write_text("demand\n" + "100\n" * 20)
    config = AutoScalerEnv(demand_csv=str(recording), episode_steps=10).config
    recording.unlink()
    MeasuredCluster(config)
