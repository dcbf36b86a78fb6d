"""Demand: its shape over the day, noise, bursts, recorded files; independent of actions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.presets import PRESETS
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.settings import ConfigError

CALM: dict[str, Any] = {"noise_sigma": 0.0, "bursts_per_day": 0.0}


def demands(num_envs: int = 1, seed: int = 0, **settings: Any) -> np.ndarray:
    """Whole traces, shape (B, T + 1)."""
    env = AutoScalerVectorEnv(num_envs, **settings)
    env.reset(seed=seed)
    return env.simulator.demand[env.simulator.episodes["trace_row"]]


def test_a_calm_day() -> None:
    [day] = demands(**CALM)
    angle = 2.0 * np.pi * np.arange(1_441) / 1_440
    swing = 0.6 * np.sin(angle - np.pi / 2) + 0.15 * np.sin(2 * angle)
    np.testing.assert_allclose(day, 2_000 * (1 + swing), rtol=1e-6)
    assert day[:-1].mean() == pytest.approx(2_000, rel=1e-6)
    assert day[0] == day[-1] == 800.0


@pytest.mark.parametrize("seconds", [30.0, 120.0, 300.0])
def test_a_day_has_24_hours_at_any_step_length(seconds: float) -> None:
    steps = int(86_400 / seconds)
    [day] = demands(step_seconds=seconds, episode_steps=steps, **CALM)
    assert day[steps // 2] == pytest.approx(3_200.0)
    assert day[:-1].mean() == pytest.approx(2_000, rel=1e-6)


def test_noise_is_an_autoregression_of_the_logarithm() -> None:
    settings: dict[str, Any] = {**CALM, "noise_correlation": 0.9, "noise_sigma": 0.05}
    quiet = demands(**CALM)
    noise = np.log(demands(400, **settings) / quiet)
    innovations = noise[:, 1:] - 0.9 * noise[:, :-1]
    assert innovations.std() == pytest.approx(0.05, rel=0.01)
    assert innovations.mean() == pytest.approx(0.0, abs=2e-4)
    stationary = 0.05 / math.sqrt(1.0 - 0.81)
    for at in (0, 700, 1_440):  # from the first step on
        assert noise[:, at].std() == pytest.approx(stationary, rel=0.12)
    lagged = [np.mean(noise[:, k:] * noise[:, : 1_441 - k]) for k in (0, 1, 10)]
    np.testing.assert_allclose(np.array(lagged[1:]) / lagged[0], [0.9, 0.9**10], rtol=0.05)
    independent = np.corrcoef(innovations[:, 5], innovations[:, 6])[0, 1]
    assert abs(independent) < 4 / math.sqrt(400)


def test_bursts_are_a_poisson_process() -> None:
    settings: dict[str, Any] = {
        **CALM, "bursts_per_day": 6.0, "burst_rise_minutes": (0.0, 0.0),
        "burst_hold_minutes": (2.0, 2.0), "burst_decay_minutes": (0.0, 0.0),
        "burst_size": (1.0, 1.0),
    }  # fmt: skip
    factor = demands(600, **settings) / demands(**CALM)
    height = np.round(factor - 1.0, 4)
    assert set(np.unique(height)) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    # Each burst of two minutes is at its height at two whole minutes.
    counts = height[:, :-1].sum(axis=1) / 2.0
    assert counts.mean() == pytest.approx(6.0, abs=4 * math.sqrt(6.0 / 600))
    assert counts.var() == pytest.approx(6.0, rel=0.25)
    by_hour = height[:, :1_440].reshape(600, 24, 60).sum(axis=(0, 2)) / 2.0
    assert np.abs(by_hour - 150).max() < 4.5 * math.sqrt(150)


def test_a_burst_rises_holds_and_decays() -> None:
    settings: dict[str, Any] = {
        **CALM, "bursts_per_day": 0.7, "burst_rise_minutes": (4.0, 4.0),
        "burst_hold_minutes": (10.0, 10.0), "burst_decay_minutes": (30.0, 30.0),
        "burst_size": (0.8, 0.8),
    }  # fmt: skip
    height = demands(300, **settings) / demands(**CALM) - 1.0
    begins = [np.flatnonzero(row > 1e-6) for row in height]
    alone = [
        (row, first[0] - 1)
        for row, first in zip(height, begins, strict=True)
        if len(first) and first[0] < 1_200 and row.max() < 0.801
        and (np.diff(row[first[0] + 16 :]) <= 1e-6).all()
    ]  # fmt: skip
    assert len(alone) > 50
    for row, before in alone:
        # It begins between two steps.
        offset = row[before + 1] / 0.2
        assert 0.0 < offset <= 1.0 + 1e-4
        np.testing.assert_allclose(
            row[before + 1 : before + 5], 0.2 * (np.arange(4) + offset), atol=1e-5
        )
        np.testing.assert_allclose(row[before + 5 : before + 14], 0.8, atol=1e-5)
        late = np.arange(15, 100)
        decayed = 0.8 * np.exp(-(late - 15 + offset) / 30.0)
        np.testing.assert_allclose(row[before + late], decayed, atol=1e-4)


def test_sizes_of_bursts_are_drawn_between_their_limits() -> None:
    settings: dict[str, Any] = {
        **CALM, "bursts_per_day": 1.0, "burst_rise_minutes": (0.0, 0.0),
        "burst_hold_minutes": (1.0, 1.0), "burst_decay_minutes": (0.0, 0.0),
    }  # fmt: skip
    height = (demands(2_000, **settings) / demands(**CALM) - 1.0).round(5)
    sizes = height[height > 0.0]
    assert 0.3 <= sizes.min() < 0.31
    assert np.mean(sizes) == pytest.approx(0.9, abs=0.03)
    assert np.quantile(sizes, 0.25) == pytest.approx(0.6, abs=0.05)


def test_a_week() -> None:
    [week] = demands(preset="weekly", **CALM)
    days = week[:-1].reshape(7, 1_440)
    for day in range(1, 5):
        np.testing.assert_array_equal(days[day], days[0])
    np.testing.assert_allclose(days[5], 0.6 * days[0], rtol=1e-6)
    np.testing.assert_array_equal(days[6], days[5])


def test_a_random_start() -> None:
    env = AutoScalerVectorEnv(500, random_start=True, episode_steps=100, **CALM)
    env.reset(seed=0)
    starts = env.simulator.starts[env.simulator.episodes["trace_row"]]
    assert 0 <= starts.min() < 20
    assert 1_420 < starts.max() < 1_440
    assert starts.mean() == pytest.approx(719.5, abs=4 * 1_440 / math.sqrt(12 * 500))
    [day] = demands(**CALM)
    traces = env.simulator.demand[env.simulator.episodes["trace_row"]]
    for start, trace in zip(starts, traces, strict=True):
        np.testing.assert_allclose(trace, day[(start + np.arange(101)) % 1_440], rtol=1e-6)
    week = AutoScalerVectorEnv(200, "weekly", random_start=True, episode_steps=10)
    week.reset(seed=0)
    assert week.simulator.starts.max() > 6 * 1_440


@pytest.mark.parametrize("preset", PRESETS)
def test_demand_does_not_depend_on_actions(preset: str) -> None:
    """Common random numbers, in the current and in later episodes."""
    env = AutoScalerVectorEnv(3, preset, episode_steps=40, random_start=True)
    env.reset(seed=[5, 5, 5])
    rng = np.random.default_rng(0)
    for _ in range(130):
        infos = env.step(rng.integers(0, 7, env.action_space.shape))[4]
        assert len(set(infos["demand"])) == 1
    assert len(set(infos["replicas"])) > 1 or len(set(infos["pending"])) > 1


@given(st.integers(0, 2**40), st.sampled_from(["bursts_per_day", "noise_sigma"]))
def test_streams_do_not_disturb_each_other(seed: int, off: str) -> None:
    """Noise does not change without bursts, nor bursts without noise."""
    both, quiet = demands(seed=seed), demands(seed=seed, **CALM)
    without: dict[str, Any] = {off: 0.0}
    one = demands(seed=seed, **without)
    with_it: dict[str, Any] = {name: 0.0 for name in CALM if name != off}
    other = demands(seed=seed, **with_it)
    np.testing.assert_allclose(one / quiet * (other / quiet), both / quiet, rtol=1e-5)


def test_seeds_and_episodes_differ_in_demand() -> None:
    first = demands(4, seed=0)
    assert len({row.tobytes() for row in first}) == 4
    np.testing.assert_array_equal(demands(2, seed=1), first[1:3])
    env = AutoScalerEnv(episode_steps=20)
    env.reset(seed=0)
    before = env.simulator.demand_ahead(20)
    env.reset()
    assert (env.simulator.demand_ahead(20) != before).all()


def test_demand_ahead() -> None:
    env = AutoScalerVectorEnv(2, episode_steps=10)
    env.reset(seed=[1, 2])
    ahead = env.simulator.demand_ahead(12)
    np.testing.assert_array_equal(ahead[:, 9:], ahead[:, 9:10].repeat(3, axis=1))
    for step in range(10):
        np.testing.assert_array_equal(env.simulator.demand_ahead(3)[:, 0], ahead[:, step])
        np.testing.assert_array_equal(
            env.step(np.full(2, 3))[4]["demand"].astype(np.float32), ahead[:, step]
        )


def write(folder: Path, text: str) -> str:
    path = folder / "demand.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("header", ["", "requests_per_s\n", "\N{BYTE ORDER MARK}", "# comment\n"])
def test_a_recorded_demand(tmp_path: Path, header: str) -> None:
    recorded = 500.0 + np.arange(3_000)
    path = write(tmp_path, header + "\n".join(map(str, recorded)) + "\n")
    env = AutoScalerVectorEnv(300, demand_csv=path, episode_steps=100)
    env.reset(seed=0)
    rows = env.simulator.episodes["trace_row"]
    starts, traces = env.simulator.starts[rows], env.simulator.demand[rows]
    for start, trace in zip(starts, traces, strict=True):
        np.testing.assert_array_equal(trace, recorded[start : start + 101])
    assert 0 <= starts.min() < 60
    assert 2_840 < starts.max() <= 2_899
    # The time of day is that of the row.
    angle = 2.0 * np.pi * starts / 1_440
    np.testing.assert_allclose(env.observe()[:, 11], np.sin(angle), atol=1e-5)


def test_the_column_of_a_recording(tmp_path: Path) -> None:
    path = write(tmp_path, "time,value,p99\n" + "".join(f"{t},{t + 5},{t + 7}\n" for t in range(3)))
    settings: dict[str, Any] = {"demand_csv": path, "episode_steps": 2}
    np.testing.assert_array_equal(demands(**settings), [[5.0, 6.0, 7.0]])
    for column in ("p99", 3):
        np.testing.assert_array_equal(demands(**settings, demand_column=column), [[7.0, 8.0, 9.0]])
    with pytest.raises(
        ConfigError, match=r"demand_column must be a column of .* from 1 to 3, got 4"
    ):
        AutoScalerEnv(**settings, demand_column=4)


def test_a_recording_just_long_enough_with_noise_if_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "100\n" * 11)
    np.testing.assert_array_equal(demands(3, demand_csv=path, episode_steps=10), 100.0)
    noisy = demands(3, demand_csv=path, episode_steps=10, noise_sigma=0.1)
    assert (noisy != 100.0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("100\n" * 10, r"at least episode_steps \+ 1 = 11 rows, got 10 in .*shorten episode_steps"),
        ("", "at least one row of numbers, got 0"),
        ("requests\n", "at least one row of numbers, got 0"),
        ("100\n" * 5 + "-1\n" + "100\n" * 9, r"a number from 0 to 1e\+30 .* got '-1' in line 6"),
        ("rate\n" + "100\n" * 5 + "nan\n" + "1\n" * 9, "got 'nan' in line 7"),
        ("nan\n" + "1\n" * 12, "got 'nan' in line 1"),
        ("100\ninf\n" + "1\n" * 9, "got 'inf' in line 2"),
        ("100\nmany\n" + "1\n" * 9, "got 'many' in line 2"),
        ("100,5\n" + "1,5\n" * 11, "one column, or one named demand or value, got 2"),
        ("100\n" * 5 + "\n" + "100\n" * 9, "line 6 is blank: remove it, or fill it in"),
    ],
)
def test_invalid_recordings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"demand_csv must .*{message}"):
        AutoScalerEnv(demand_csv=path, episode_steps=10)


def test_unreadable_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"demand_csv must be a readable CSV file, got '.*none"):
        AutoScalerEnv(demand_csv=str(tmp_path / "none.csv"))
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="demand_csv must be a readable CSV file"):
        AutoScalerEnv(demand_csv=str(binary))
