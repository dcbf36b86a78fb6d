"""Settings, spaces, observations, and Gymnasium's demands."""

import copy
import math
import pickle
import warnings
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.cli.tables import closing_table
from grpo_gym.envs.autoscaler.descriptor import DESCRIPTOR
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.observation import feature_names
from grpo_gym.envs.autoscaler.presets import PRESETS, AutoScalerConfig, make_config
from grpo_gym.envs.autoscaler.records import METRIC_RANGES, METRICS
from grpo_gym.envs.autoscaler.rewards import (
    cost_component,
    efficiency_component,
    performance_component,
    potential,
    reliability_component,
)
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.settings import ConfigError, from_mapping, to_mapping

VARIANTS: dict[str, dict[str, Any]] = {
    **{preset: {"preset": preset, "episode_steps": 50} for preset in PRESETS},
    **{
        kind: {"action": kind, "history": 5, "episode_steps": 50}
        for kind in ("scaling_config", "flat", "multi", "replicas")
    },
    "nothing but metrics": {"observe_pending": False, "observe_time": False, "constraints": False},
    "dollars": {"reward": "dollars", "start_up_steps": 0},
}
NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in PRESETS])
def test_check_env(variant: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("AutoScaler-v0", **VARIANTS[variant])
        check_env(env.unwrapped, skip_render_check=True)
        env.close()


def test_the_kind_of_actions_decides_their_space() -> None:
    assert AutoScalerEnv("bursty", action="flat").action_space == gym.spaces.Discrete(539)
    multi = AutoScalerVectorEnv(3, action="multi", history=60)
    assert multi.single_action_space == gym.spaces.MultiDiscrete([7, 7, 11])
    assert multi.action_space.shape == (3, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset: str) -> None:
    config = make_config(preset)
    assert from_mapping(AutoScalerConfig, to_mapping(config), "test") == config
    AutoScalerEnv(preset)
    known = {field.name for field in fields(AutoScalerConfig)}
    assert set(PRESETS[preset]) <= known


@pytest.mark.parametrize("variant", VARIANTS)
def test_observations_lie_in_their_space_and_episodes_end(variant: str) -> None:
    env = AutoScalerEnv(**{**VARIANTS[variant], "episode_steps": 50})
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for step in range(1, 51):
        assert observation in env.observation_space
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert type(reward) is float
        assert math.isfinite(reward)
        assert (terminated, truncated) == (False, step == 50)
    # Beyond its end nothing happens.
    state = pickle.dumps(env.simulator.clusters)
    _, reward, _, truncated, _ = env.step(env.action_space.sample())
    assert (reward, truncated) == (0.0, True)
    assert pickle.dumps(env.simulator.clusters) == state


@pytest.mark.parametrize("preset", ["diurnal", "weekly"])
def test_what_is_observed(preset: str) -> None:
    env = AutoScalerEnv(preset, action="multi", max_replicas=60, start_up_steps=4)
    env.action_space.seed(1)
    env.reset(seed=0)
    names = feature_names(env.config)
    for step in range(1, 200):
        action = env.action_space.sample()
        observation, _, _, _, info = env.step(action)
        seen = dict(zip(names, observation.tolist(), strict=True))
        metrics = env.simulator.metrics[0]
        for name in METRICS:
            low, high = METRIC_RANGES[name]
            value = min(max(float(metrics[name]), low), high)
            assert seen[name] == pytest.approx(2 * (value - low) / (high - low) - 1, abs=1e-6)
            assert name not in info or info[name] == metrics[name]
        pending = env.simulator.clusters["pending"][0]
        assert seen["pending"] == pytest.approx(2 * pending / 100 - 1)
        for name, period in (("day", 1_440), ("week", 7 * 1_440)):
            if f"sin_{name}" in seen:
                angle = 2 * math.pi * step / period
                assert seen[f"sin_{name}"] == pytest.approx(math.sin(angle), abs=1e-6)
                assert seen[f"cos_{name}"] == pytest.approx(math.cos(angle), abs=1e-6)
        cluster = env.simulator.clusters[0]
        for name, field, top in (
            ("batch_size", "batch", 5), ("timeout", "timeout", 4),
            ("concurrency", "concurrency", 6), ("share", "share", 10),
        ):  # fmt: skip
            assert seen[name] == pytest.approx(2 * cluster[field] / top - 1, abs=1e-6)
    assert ("sin_week" in seen) == (preset == "weekly")


def test_the_history_is_what_was_current() -> None:
    env = AutoScalerEnv(history=6, episode_steps=25)
    for episode in range(2):  # the second one knows nothing of the first
        observation, _ = env.reset(seed=3 if episode == 0 else None)
        rows = [observation["current_metrics"][:10]]
        np.testing.assert_array_equal(observation["metrics_history"], np.stack(rows * 6))
        for step in range(25):
            observation = env.step((step * 5) % 7)[0]
            rows.append(observation["current_metrics"][:10])
            padded = [rows[0]] * 6 + rows
            np.testing.assert_array_equal(observation["metrics_history"], np.stack(padded[-6:]))


def test_observations_are_the_callers_own() -> None:
    env = AutoScalerEnv(history=3)
    observation, _ = env.reset(seed=0)
    kept = copy.deepcopy(observation)
    for array in env.step(6)[0].values():
        array[:] = 9.0
    after, _, _, _, _ = env.step(3)
    for name, array in kept.items():
        np.testing.assert_array_equal(observation[name], array)
        assert after[name].max() <= 1.0


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (cost_component(1_250.0, 1_000.0, 1_000.0), 0.25),
        (cost_component(500.0, 799.0, 1_000.0), -0.199),
        (cost_component(9_000.0, 700.0, 1_000.0), 1.0),
        (cost_component(800.0, 800.0, 1_000.0), 0.0),
        (performance_component(200.0, 0.9), 0.0),
        (performance_component(400.0, 0.5), -0.45),
        (performance_component(50.0, 1.0), 0.3),
        (reliability_component(0.1), 0.5),
        (reliability_component(0.2), 0.5 * (1.0 - math.exp(0.1) - 0.01)),
        (reliability_component(1.5), 0.5 * (1.0 - math.exp(1.4) - 0.14)),
        (reliability_component(1.8), -2.0),
        (reliability_component(100.0), -2.0),
        (efficiency_component(80.0, 60.0), 1.0),
        (efficiency_component(100.0, 80.0), math.exp(-0.5)),
        (efficiency_component(100.0, 90.0), math.exp(-0.5 * 1.25**2) - 0.5),
        (efficiency_component(20.0, 36.0), math.exp(-0.5 * 2.1**2) - 0.3),
    ],
)
def test_components_of_the_reward_by_hand(part: float, expected: float) -> None:
    assert part == pytest.approx(expected, abs=1e-12)


def test_a_static_cluster_has_the_published_reward() -> None:
    """Static 100 on the day without bursts: 0.147 a step, 30,000 $, 0.02 % errors."""
    env = AutoScalerVectorEnv(8, initial_replicas=100)
    env.reset(seed=0)
    total, cost, errors = 0.0, 0.0, 0.0
    for _ in range(1_440):
        _, rewards, _, _, infos = env.step(np.full(8, 3))
        total += rewards.mean() / 1_440
        cost += infos["cost_dollars"].mean()
        errors += infos["error_percent"].mean() / 1_440
    assert total == pytest.approx(0.147, abs=0.004)
    assert cost == pytest.approx(30_000.0)
    assert errors == pytest.approx(0.020, abs=0.001)


def test_dollars_are_what_was_paid_and_lost() -> None:
    env = AutoScalerEnv(
        "flash-crowd", action="scaling", reward="dollars", initial_replicas=9, bursts_per_day=60,
        sla_p99_ms=150.0, sla_dollars_per_step=7.0, lost_request_dollars=0.01,
    )  # fmt: skip
    env.reset(seed=0)
    for action in (3, 6, 3, 3):
        _, reward, _, _, info = env.step(action)
        paid = (info["replicas"] + info["pending"]) * 12.5 / 60
        assert info["violation"]
        assert reward == pytest.approx(-paid - 7.0 - 0.01 * info["lost"])


def test_the_potential() -> None:
    infos = {"p99_latency_ms": 200.0, "error_percent": 0.5, "cpu_percent": 80, "memory_percent": 50}
    assert potential(None, infos) == pytest.approx(-0.2 - 5.0 - 0.05)
    many = {name: np.array([value, 0.0]) for name, value in infos.items()}
    np.testing.assert_allclose(potential(None, many), [-5.25, -0.7])


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"base_demnd": 1}, r"'base_demnd' is not a setting.*Did you mean 'base_demand'\?"),
    ({"preset": "dirnal"}, r"preset must be .*'dirnal'.*Did you mean 'diurnal'\?"),
    ({"preset": None}, "preset must be a known name, got None"),
    ({"action": "scale"}, "action must be one of .*got 'scale'"),
    ({"reward": "euros"}, "reward must be one of .*got 'euros'"),
    ({"base_demand": 0}, "base_demand must be > 0.*got 0"),
    ({"base_demand": NAN}, "base_demand must be a finite number, got nan"),
    ({"episode_steps": 0}, "episode_steps must be >= 1, got 0"),
    ({"step_seconds": -1.0}, "step_seconds must be >= 1"),
    ({"daily_amplitude": 0.9}, r"daily_amplitude \+ half_daily_amplitude must be <= 1, got 1.05"),
    ({"noise_correlation": 1.0}, "noise_correlation must be .*< 1"),
    ({"noise_sigma": -0.1}, "noise_sigma must be >= 0"),
    ({"bursts_per_day": INFINITY}, "bursts_per_day must be a finite number"),
    ({"burst_size": (2.0, 1.0)}, "burst_size must be from low to high, got"),
    ({"burst_rise_minutes": (2.0, 1.0)}, "burst_rise_minutes must be from low to high"),
    ({"burst_decay_minutes": 3.0}, "burst_decay_minutes must be a list, got 3.0"),
    ({"min_replicas": 0}, "min_replicas must be >= 1, got 0"),
    ({"min_replicas": 9, "max_replicas": 8}, "min_replicas must be <= max_replicas = 8, got 9"),
    ({"max_replicas": 10_000}, "max_replicas must be .*<= 1000"),
    ({"initial_replicas": 1}, "initial_replicas must be from 2 to 100, got 1"),
    ({"initial_replicas": 101}, "initial_replicas must be from 2 to 100, got 101"),
    ({"initial_utilisation": 0.0}, "initial_utilisation must be > 0"),
    ({"start_up_steps": -1}, "start_up_steps must be >= 0"),
    ({"batch_size": 3}, "batch_size must be one of .*got 3"),
    ({"timeout_s": 3.0}, r"timeout_s must be one of \(0.25, 0.5, 1.0, 2.0, 4.0\), got 3.0"),
    ({"concurrency": 5}, "concurrency must be one of .*got 5"),
    ({"max_utilisation": 1.0}, "max_utilisation must be .*< 1"),
    ({"retry_share": 1.5}, "retry_share must be .*<= 1"),
    ({"largest_change_replicas": 0}, "largest_change_replicas must be >= 1"),
    ({"cooldown_steps": -1}, "cooldown_steps must be >= 0"),
    ({"history": -1}, "history must be >= 0"),
    ({"constraints": 1}, "constraints must be true or false, got 1"),
    ({"reward_weights": (1.0, 1.0, 1.0)}, "reward_weights must be a list of 4 values"),
    ({"reward_weights": (1.0, 1.0, 1.0, -1.0)}, r"reward_weights\[3\] must be >= 0"),
    ({"demand_csv": 3}, "demand_csv must be .*got 3"),
    ({"demand_csv": "x", "demand_column": 0}, "demand_column must be >= 1 or a string, got 0"),
    ({"demand_csv": "x", "demand_column": True}, "demand_column must be an integer, got True"),
    ({"demand_column": "x"}, "demand_column must be None without demand_csv, got 'x'"),
]


@pytest.mark.parametrize(
    ("settings", "message"), NONSENSE, ids=[str(settings) for settings, _ in NONSENSE]
)
def test_nonsense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        gym.make("AutoScaler-v0", **settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        AutoScalerVectorEnv(2, **settings)


def test_the_closing_table_tells_what_was_promised_and_paid() -> None:
    def played(violations: list[float], dollars: list[float]) -> Evaluation:
        metrics = {"violation": np.array(violations), "cost_dollars": np.array(dollars)}
        return Evaluation(0, -np.array(dollars), np.array([10, 10]), metrics)

    table = closing_table(
        {"dear": played([0.0, 0.01], [8.0, 9.0]), "cheap": played([0.02, 0.03], [5.0, 6.0])},
        set(),
        DESCRIPTOR.table_columns,
    )
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["policy"] == ["  cheap", "  dear"]
    assert [float(str(cell)) for cell in cells["late %"]] == [2.5, 0.5]
    assert [float(str(cell)) for cell in cells["$/step"]] == [5.5, 8.5]
