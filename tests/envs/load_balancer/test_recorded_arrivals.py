"""`arrivals_csv`: what episodes replay of a recording, and which recordings are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.settings import ConfigError

GAPS = np.array([4.0, 0.0, 1.0, 7.5, 2.5, 3.0, 30.0, 0.5, 1.5, 2.0])
SIZES = np.array([9.0, 1.0, 3.0, 0.0, 2.0, 5.0, 40.0, 1.0, 2.0, 6.0, 4.0])
"""The first arrival has no gap before it."""


@pytest.fixture
def recording(tmp_path: Path) -> str:
    times = np.concatenate([[100.0], 100.0 + np.cumsum(GAPS)])
    path = tmp_path / "arrivals.csv"
    rows = [f"{time},{size}" for time, size in zip(times.tolist(), SIZES.tolist(), strict=True)]
    path.write_text("\n".join(["time_ms,size", *rows]))
    return str(path)


def simulate(num_envs: int, first_seed: int = 0, **settings: Any) -> LoadBalancerSimulator:
    simulator = LoadBalancerSimulator(make_config(**settings), num_envs)
    simulator.seed(np.arange(first_seed, first_seed + num_envs, dtype=np.uint64))
    simulator.reset()
    return simulator


def test_an_episode_replays_consecutive_requests_scaled(recording: str) -> None:
    settings: dict[str, Any] = {"arrivals_csv": recording, "episode_length": 4, "utilisation": 0.5}
    simulator = simulate(300, **settings, size_mean=20.0)
    assert simulator.config.mean_gap_ms == pytest.approx(20.0 / (0.5 * 3.4))
    gaps = np.diff(simulator.arrivals["arrival_ms"], axis=1, prepend=0.0)
    scaled = GAPS / GAPS.mean() * simulator.config.mean_gap_ms
    sizes = SIZES[1:] / SIZES[1:].mean() * 20.0
    starts = []
    for b in range(300):
        fits = [
            start
            for start in range(6)
            if np.allclose(gaps[b], scaled[start : start + 5], rtol=1e-9, atol=1e-9)
        ]
        assert len(fits) == 1
        starts += fits
        own = simulator.arrivals["size"][b]
        np.testing.assert_allclose(own, sizes[fits[0] : fits[0] + 5], rtol=1e-6)
    counts = np.bincount(starts)
    assert len(counts) == 6, "every part is reached, the first and the last too"
    assert np.abs(counts - 50).max() < 4 * np.sqrt(50)


def test_the_whole_file_has_the_utilisation(recording: str) -> None:
    simulator = simulate(3, arrivals_csv=recording, episode_length=9, utilisation=0.8)
    arrivals = simulator.arrivals[0]
    np.testing.assert_array_equal(simulator.arrivals[1:]["size"], simulator.arrivals[:2]["size"])
    offered = arrivals["size"].sum() / arrivals["arrival_ms"][-1]
    assert offered == pytest.approx(0.8 * sum(simulator.config.service_rates), rel=1e-6)


def test_seeds_choose_the_part(recording: str) -> None:
    settings: dict[str, Any] = {"arrivals_csv": recording, "episode_length": 4}
    simulator, again = simulate(40, **settings), simulate(40, **settings)
    assert simulator.arrivals.tobytes() == again.arrivals.tobytes()
    before = simulator.arrivals.copy()
    simulator.reset()
    assert simulator.arrivals.tobytes() != before.tobytes(), "the next episodes are others"
    single = LoadBalancerEnv(**settings)
    single.reset(seed=7)
    np.testing.assert_array_equal(single.simulator.arrivals[0], before[7])
    # Faults, coins and what else is drawn do not depend on the recording.
    drawn = simulate(40, episode_length=4)
    np.testing.assert_array_equal(drawn.arrivals["error_coin"], before["error_coin"])


def test_sizes_are_drawn_where_none_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("time_ms\n" + "\n".join(str(time) for time in range(40)))
    simulator = simulate(4, arrivals_csv=str(path), episode_length=20)
    drawn = simulate(4, episode_length=20)
    np.testing.assert_array_equal(simulator.arrivals["size"], drawn.arrivals["size"])
    gaps = np.diff(simulator.arrivals["arrival_ms"], axis=1)
    np.testing.assert_allclose(gaps, simulator.config.mean_gap_ms)


def test_integer_times_round_down(recording: str) -> None:
    settings: dict[str, Any] = {"arrivals_csv": recording, "episode_length": 9, "utilisation": 0.37}
    plain, whole = simulate(1, **settings), simulate(1, **settings, integer_times=True)
    gaps = np.diff(plain.arrivals["arrival_ms"][0], prepend=0.0)
    rounded = np.diff(whole.arrivals["arrival_ms"][0], prepend=0.0)
    np.testing.assert_array_equal(rounded, np.floor(gaps))
    np.testing.assert_array_equal(whole.arrivals["size"], np.floor(plain.arrivals["size"]))


def test_fleets_replay_too(recording: str) -> None:
    simulator = simulate(50, preset="fleets", arrivals_csv=recording, episode_length=9)
    for b in range(50):
        fleet = simulator.fleet(b)
        arrivals = simulator.arrivals[simulator.episodes["trace_row"][b]]
        gaps = np.diff(arrivals["arrival_ms"], prepend=0.0)
        np.testing.assert_allclose(gaps, GAPS / GAPS.mean() * fleet.mean_gap_ms)
        np.testing.assert_allclose(arrivals["size"].mean(), fleet.size_mean, rtol=1e-6)


def test_fault_slots_last_through_the_longest_part(tmp_path: Path) -> None:
    """Half of the file is dense; the other half has nearly all of its time."""
    path = tmp_path / "bursts.csv"
    gaps = [1.0] * 100 + [400.0] * 100
    path.write_text("time_ms\n" + "\n".join(map(str, np.cumsum([0.0, *gaps]).tolist())))
    simulator = simulate(
        500,
        arrivals_csv=str(path),
        episode_length=50,
        mean_time_to_failure_ms=20.0,
        mean_time_to_recovery_ms=20.0,
    )
    faults = simulator.faults["start_ms"]
    assert np.isinf(faults[:, :, -1]).all()
    ends = simulator.arrivals["arrival_ms"][:, -1]
    begun = np.isfinite(faults).sum(axis=2)
    assert ends.max() > 100 * ends.min()
    assert begun.max() > 10 * begun[ends == ends.min()].max()
    last = np.where(np.isfinite(faults), simulator.faults["end_ms"], 0.0).max(axis=2)
    assert (last[ends == ends.max()] > 0.7 * ends.max()).mean() > 0.9


def test_the_recording_is_known_by_its_numbers_not_its_path(recording: str, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.csv", tmp_path / "other.csv"
    copy.write_text(Path(recording).read_text())
    other.write_text(Path(recording).read_text().replace(",40.0", ",41.0"))
    a, b, c = (
        LoadBalancerEnv(arrivals_csv=str(path), episode_length=9)
        for path in (recording, copy, other)
    )
    a.reset(seed=0)
    np.testing.assert_array_equal(b.set_state(a.get_state()), a.simulator.observe()[0])
    with pytest.raises(ValueError, match="environment with the same settings"):
        c.set_state(a.get_state())


def test_what_cannot_be_replayed_is_refused(recording: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at least episode_length \+ 2 = 12 arrivals, got 11"):
        LoadBalancerEnv(arrivals_csv=recording, episode_length=10)
    with pytest.raises(ConfigError, match=r"arrivals_csv.*missing\.csv"):
        LoadBalancerEnv(arrivals_csv=str(tmp_path / "missing.csv"))
    zeros = tmp_path / "zeros.csv"
    zeros.write_text("time_ms,size\n0,3\n1,0\n2,0\n3,0\n")
    with pytest.raises(ConfigError, match="arrivals_csv must have a size above 0 after its first"):
        LoadBalancerEnv(arrivals_csv=str(zeros), episode_length=2)
    zeros.write_text("time_ms,size\n0,0\n1,0\n2,0\n3,0\n")
    with pytest.raises(ConfigError, match="arrivals_csv must have a size above 0, got 4 of 0"):
        LoadBalancerEnv(arrivals_csv=str(zeros), episode_length=2)
    columns: dict[str, Any] = {
        "arrivals_time_column": "time",
        "arrivals_size_column": 2,
        "arrivals_time_unit": "ms",
    }
    for name, value in columns.items():
        with pytest.raises(ConfigError, match=f"{name} must come with arrivals_csv, got {value!r}"):
            LoadBalancerEnv(**{name: value})
