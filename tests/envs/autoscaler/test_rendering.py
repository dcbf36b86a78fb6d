"""Pictures show the simulator's measurements; `evaluate --plot` refuses early."""

import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.cli import evaluate, plotting
from grpo_gym.envs.autoscaler import figures
from grpo_gym.envs.autoscaler.charts import linear_ticks, logarithmic_ticks
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.presets import make_config
from grpo_gym.envs.autoscaler.rendering import (
    COLUMNS,
    HEIGHT,
    LEFT,
    RED,
    RIGHT,
    WIDTH,
    Frame,
    clock_text,
    current_frame,
    facts,
    latency_text,
    render_ansi,
    render_rgb,
)
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator

HOLD = 3
"""The action that changes nothing."""


def simulator_of(**settings: Any) -> AutoScalerSimulator:
    simulator = AutoScalerSimulator(make_config(**settings), 1)
    simulator.seed(np.zeros(1, np.uint64))
    simulator.reset()
    return simulator


def step_of(step: int, **changes: Any) -> Frame:
    """A made-up step."""
    usual = Frame(
        step=step,
        clock=step,
        demand=1_000.0,
        capacity=2_000.0,
        p50_latency_ms=30.0,
        p99_latency_ms=150.0,
        violation=False,
        error_percent=0.02,
        replicas=20,
        pending=0,
        cost_dollars=4.0,
    )
    return usual._replace(**changes)


def coloured(frame: np.ndarray, colour: str) -> np.ndarray:
    """Where an image has exactly this colour, shape (height, width), bool."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    found: np.ndarray = (frame == wanted).all(axis=2)
    return found


@pytest.mark.parametrize(
    ("clock", "step_seconds", "text"),
    [
        (0, 60.0, "00:00"),
        (61, 60.0, "01:01"),
        (1_439, 60.0, "23:59"),
        (1_440, 60.0, "24:00"),
        (1_441, 60.0, "day 2, 00:01"),
        (2_881, 60.0, "day 3, 00:01"),
        (7, 15.0, "00:01"),
        (25, 3_600.0, "day 2, 01:00"),
    ],
)
def test_clock_text(clock: int, step_seconds: float, text: str) -> None:
    assert clock_text(clock, step_seconds) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(28.31, "28.3 ms"), (999.4, "999 ms"), (999.6, "1 s"), (1_234.0, "1.23 s")]
)
def test_latency_text(ms: float, text: str) -> None:
    assert latency_text(ms) == text


@pytest.mark.parametrize("highest", [0.7, 1.0, 3.0, 99.0, 100.0, 101.0, 3_456.0, 1e6])
def test_ticks_are_few_and_cover_the_values(highest: float) -> None:
    ticks = linear_ticks(highest, 4)
    assert ticks[0] == 0.0
    assert ticks[-2] < highest <= ticks[-1] * (1 + 1e-9)
    assert 3 <= len(ticks) <= 6
    np.testing.assert_allclose(np.diff(ticks), ticks[1])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (20.0, 2_000.0, (20, 100, 1_000, 2_000)),
        (7.0, 1_100.0, (5, 10, 100, 1_000, 2_000)),
        (10.0, 1_000.0, (10, 100, 1_000)),
    ],
)
def test_logarithmic_ticks(low: float, high: float, ticks: tuple[float, ...]) -> None:
    np.testing.assert_allclose(logarithmic_ticks(low, high), ticks)


def test_a_frame_holds_the_measurements() -> None:
    env = AutoScalerEnv(preset="bursty", action="scaling", random_start=True, concurrency=6)
    env.reset(seed=4)
    start = int(env.simulator.starts[0])
    for _ in range(30):
        _, _, _, _, info = env.step(5)
    found = current_frame(env.simulator)
    assert (found.step, found.clock) == (30, start + 30)
    for name in set(Frame._fields) - {"step", "clock", "capacity"}:
        assert getattr(found, name) == info[name]
    # By the law of scalability six servers do 6 / (1 + .25 + .3) and four 4 / (1 + .15 + .12).
    per_replica = 100.0 * (6 / 1.55) / (4 / 1.27)
    assert found.capacity == pytest.approx(info["replicas"] * per_replica)


def test_facts_summarise_the_last_step_and_the_episode() -> None:
    history = [step_of(1, violation=True), step_of(2), step_of(3), step_of(4, pending=3)]
    assert facts(make_config(), history) == {
        "time": "00:04",
        "demand": "1,000/s",
        "capacity": "2,000/s (50% used)",
        "replicas": "20 + 3 starting",
        "p99": "150 ms",
        "errors": "0.02 %",
        "p99 broken": "25.0% of steps",
        "cost so far": "$16",
    }


def test_text_of_an_episode() -> None:
    history = [step_of(t, demand=500.0 * t, violation=t == 2) for t in range(1, 5)]
    lines = render_ansi(simulator_of(), history).splitlines()
    assert lines[0] == "Autoscaler: 4 of 1,440 steps"
    assert "demand 2,000/s" in lines[1]
    assert "cost so far $16" in lines[2]
    assert lines[4] == "   demand ▂▄▆█"
    assert lines[5] == " capacity ████"
    assert lines[6] == "      p99 ▄▄▄▄"  # log10(150 / 10) = 1.18 of 3
    assert lines[7] == "   broken  x"


def test_text_never_exceeds_its_width() -> None:
    history = [step_of(t, demand=1e6, capacity=3e6, replicas=900) for t in range(1, 300)]
    assert max(map(len, render_ansi(simulator_of(), history).splitlines())) <= COLUMNS


def test_frames_have_one_size_at_any_time_of_any_episode() -> None:
    for settings in (
        {},
        {"preset": "weekly"},
        {"episode_steps": 1},
        {"episode_steps": 20, "step_seconds": 5.0},
        {"episode_steps": 50, "step_seconds": 7_200.0, "random_start": True},
    ):
        simulator = simulator_of(**settings)
        count = simulator.config.episode_steps
        for history in (
            [],
            [step_of(1)],
            [step_of(t, clock=777 + t) for t in range(1, min(count, 60) + 1)],
        ):
            frame = render_rgb(simulator, history)
            assert frame.shape == (HEIGHT, WIDTH, 3)
            assert frame.dtype == np.uint8
            assert frame.flags.owndata or frame.flags.writeable


def test_red_is_where_demand_exceeds_capacity() -> None:
    simulator, steps = simulator_of(episode_steps=100), range(1, 101)
    calm = render_rgb(simulator, [step_of(t) for t in steps])
    busy = render_rgb(
        simulator, [step_of(t, demand=3_000.0 if 40 < t <= 60 else 1_000.0) for t in steps]
    )
    chart = np.s_[122:228]  # the first one
    assert not coloured(calm[chart], RED)[4:].any()
    columns = np.flatnonzero(coloured(busy[chart], RED)[4:].any(axis=0))
    width = (RIGHT - LEFT) / 100
    assert abs(columns.min() - (LEFT + 40 * width)) <= 4
    assert abs(columns.max() - (LEFT + 60 * width)) <= 4


def test_charts_grow_to_the_right() -> None:
    simulator = simulator_of(episode_steps=100)
    half = render_rgb(simulator, [step_of(t) for t in range(1, 51)])
    # Of the replicas' chart, 20 of a scale to 20: all dark up to the middle and nothing beyond.
    row = np.asarray(coloured(half[430:500], "#465878").all(axis=0))
    assert abs(np.flatnonzero(row).max() - (LEFT + RIGHT) / 2) <= 2
    assert row[LEFT + 2 : (LEFT + RIGHT) // 2 - 8].mean() > 0.95


def test_environments_render_their_own_steps() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gym.make("AutoScaler-v0", render_mode="rgb_array", episode_steps=30)
        check_env(made.unwrapped)
    env = AutoScalerEnv(render_mode="rgb_array", episode_steps=30)
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    env.reset(seed=1)
    first = env.render()
    frames = []
    for _ in range(10):
        env.step(HOLD)
        frames.append(current_frame(env.simulator))
    np.testing.assert_array_equal(env.render(), render_rgb(env.simulator, frames))
    state = env.get_state()
    env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), first)
    env.step(HOLD)
    env.set_state(state)  # the earlier steps belong to another episode
    np.testing.assert_array_equal(env.render(), render_rgb(env.simulator, []))


def test_ansi_and_no_mode() -> None:
    env = AutoScalerEnv(render_mode="ansi")
    env.reset(seed=1)
    env.step(HOLD)
    assert env.render() == render_ansi(env.simulator, [current_frame(env.simulator)])
    silent = AutoScalerEnv()
    silent.reset(seed=1)
    silent.step(HOLD)
    assert silent._history == []
    with pytest.warns(UserWarning, match="render_mode"):
        assert silent.render() is None
    with pytest.raises(gym.error.UnsupportedMode):
        AutoScalerEnv(render_mode="human")


SHORT = ["--env", "AutoScaler-v0", "--env-kwargs", "episode_steps=40", "--policy", "hpa"]


def test_every_policy_of_a_plot_is_seen_where_curves_coincide() -> None:
    pytest.importorskip("matplotlib")
    steps = [step_of(step) for step in range(1, 61)]
    names = ("hpa", "static", "threshold", "mine")
    content = figures.draw(dict.fromkeys(names, steps), make_config(episode_steps=60), "a title")
    # The panels only: legends, to their right, show every colour anyway.
    panels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[:, :1270]
    for colour in figures.COLOURS[: len(names)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (panels == wanted).all(axis=-1).sum() > 1_000, colour


@pytest.mark.parametrize("names", [("hpa",), ("hpa", "static")])
def test_a_plot_shows_latencies_as_large_as_they_fit(
    names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    monkeypatch.setattr(matplotlib.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    steps = [step_of(step) for step in range(1, 61)]
    figures.draw(dict.fromkeys(names, steps), make_config(episode_steps=60), "a title")
    latencies = drawn[0].axes[1]
    low, high = latencies.get_ylim()
    # One policy alone shows medians, too, of 30 ms; all have a p99 of 150 ms, and 200 are promised.
    assert low == pytest.approx(24.0 if len(names) == 1 else 120.0)
    assert high == pytest.approx(260.0)
    assert 200.0 in latencies.get_yticks()


@pytest.mark.parametrize("name", ["day.png", "day.pdf", "new/day.svg"])
def test_plot_writes_a_figure(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / name
    beside = ["--plot-beside", "static", "clairvoyant"]
    assert evaluate.main([*SHORT, "--episodes", "1", "--plot", str(path), *beside]) == 0
    content = path.read_bytes()
    begins = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert content.startswith(begins[path.suffix])
    assert len(content) > 5_000


def test_a_recorded_episode_is_that_of_the_seed() -> None:
    from grpo_gym.rollouts.batches import make_batch
    from grpo_gym.rollouts.native_batch import NativeBatch
    from grpo_gym.trainers.named_policies import baseline_action_function

    batch = make_batch("AutoScaler-v0", {"episode_steps": 40}, 1)
    assert isinstance(batch, NativeBatch)
    action_function = baseline_action_function("hpa", "AutoScaler-v0", batch)
    steps = plotting.record_episode(action_function, "AutoScaler-v0", batch, seed=9)
    assert [past.step for past in steps] == list(range(1, 41))
    env = AutoScalerEnv(episode_steps=40)
    env.reset(seed=9)
    demands = [env.step(HOLD)[4]["demand"] for _ in range(40)]
    assert [past.demand for past in steps] == demands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SHORT, "--plot", "day.gif"], "--plot must be a .png, .pdf or .svg file"),
        ([*SHORT, "--plot", "file/day.png"], "--plot must be a file that can be written"),
        ([*SHORT, "--plot", "folder.png"], "--plot must be a file that can be written"),
        ([*SHORT, "--plot-beside", "static"], "--plot-beside must be left out unless --plot FILE"),
        ([*SHORT, "--plot", "day.png", "--plot-beside", "hpaa"], "Did you mean 'hpa'"),
        (
            ["--env", "LoadBalancer-v0", "--policy", "random", "--plot", "day.png"],
            "--plot must come with one of AutoScaler-v0, got LoadBalancer-v0",
        ),
    ],
)
def test_impossible_plots_are_refused_before_any_episode(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    Path("folder.png").mkdir()
    for module, name in ((evaluate, "evaluate"), (plotting, "record_episode")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("played"))
    assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_plots_without_matplotlib_are_refused_before_any_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("played"))
    assert evaluate.main([*SHORT, "--plot", str(tmp_path / "day.png")]) == 2
    error = capsys.readouterr().err
    assert "--plot must come with matplotlib" in error
    assert 'pip install "grpo-gym[compare]"' in error
