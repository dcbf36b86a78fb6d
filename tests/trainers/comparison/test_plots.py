"""Pictures of a comparison: sizes, common points, limits, labels that do not overlap."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison_files import curve, task, training, write

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from grpo_gym.trainers.comparison import plots, statistics
from grpo_gym.trainers.comparison.plot_style import COLOURS, colour_of, short_number
from grpo_gym.trainers.comparison.plots import (
    band,
    common_grid,
    draw_overview,
    draw_task,
    shown_baselines,
    spread,
    vertical_limits,
)
from grpo_gym.trainers.comparison.records import TrainingResult
from grpo_gym.trainers.comparison.task_results import TITLES, read_task


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)


def runs_of(tmp_path: Path, *runs: dict[str, Any]) -> list[TrainingResult]:
    return read_task(write(tmp_path / "runs.json", {"grpo": runs})).trainings["grpo"]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def has_colour(picture: np.ndarray, algorithm: str) -> bool:
    wanted = [int(COLOURS[algorithm][i : i + 2], 16) for i in (1, 3, 5)]
    return bool((picture == wanted).all(axis=-1).sum() > 100)


def test_every_algorithm_has_a_colour_of_its_own() -> None:
    assert COLOURS.keys() == TITLES.keys()
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colour_of("own_one") not in COLOURS.values()


def test_a_task_shows_its_algorithms(tmp_path: Path) -> None:
    runs = {"grpo": [training(2.0), training(2.1)], "ppo": [training(1.0, steps_per_second=1.0)]}
    picture = pixels(draw_task(read_task(write(tmp_path / "a.json", runs, {"random": 0.0})), 0.9))
    assert picture.shape[1] == 1600
    assert has_colour(picture, "grpo") and has_colour(picture, "ppo")
    assert not has_colour(picture, "trpo")


def test_an_overview_has_a_row_for_each_task(tmp_path: Path) -> None:
    one = read_task(write(tmp_path / "a.json", {"grpo": [training(2.0), training(2.1)]}))
    two = read_task(write(tmp_path / "b.json", {"ppo": [training(1e6)]}, head=task(preset="x")))
    single, double = pixels(draw_overview([one])), pixels(draw_overview([one, two]))
    assert double.shape[1] == 1600 and len(double) > len(single)
    assert has_colour(double, "ppo") and not has_colour(single, "ppo")


def test_runs_with_other_steps_meet_on_common_points(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path,
        training(0.0, curve=curve([0, 100, 200], [0.0, 10.0, 20.0], 10.0)),
        training(0.0, curve=curve([0, 90, 210], [3.0, 12.0, 24.0], 10.0)),
    )
    grid = common_grid(runs, "steps", False)
    assert grid[0] == 0.0 and grid[-1] == 200.0
    middle, low, high = band(runs, "steps", np.array([0.0, 50.0, 150.0]))
    np.testing.assert_allclose(middle, [1.5, (5.0 + 8.0) / 2, (15.0 + 18.0) / 2])
    np.testing.assert_allclose(low, [0.0, 5.0, 15.0])
    np.testing.assert_allclose(high, [3.0, 8.0, 18.0])


def test_a_logarithmic_axis_begins_at_the_first_point_after_zero(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path, training(1.0, steps_per_second=10.0), training(1.0, steps_per_second=8.0)
    )
    grid = common_grid(runs, "cpu_seconds", True)
    assert grid[0] == pytest.approx(10.0) and grid[-1] == pytest.approx(100.0)
    np.testing.assert_allclose(np.diff(np.log(grid)), np.log(10.0) / 100)


def test_a_terrible_start_does_not_squeeze_the_rest(tmp_path: Path) -> None:
    returns = [-1e6, -1e5, *np.linspace(-10.0, -5.0, 9)]
    steps = list(range(0, 1100, 100))
    results = read_task(
        write(tmp_path / "a.json", {"grpo": [training(-5.0, curve=curve(steps, returns, 1.0))]})
    )
    low, high = vertical_limits(results, {"random": -2e5, "good": -4.0, "near": -11.0})
    assert (low, high) == pytest.approx((-11.0 - 0.35, -4.0 + 0.35))
    low, _ = vertical_limits(results, {"random": -12.0})
    assert low == pytest.approx(-12.0 - 0.35)


def test_limits_of_returns_that_are_all_equal(tmp_path: Path) -> None:
    for value in (0.0, 7.0):
        results = read_task(write(tmp_path / "a.json", {"grpo": [training(value, start=value)]}))
        low, high = vertical_limits(results, {})
        assert low < value < high
        draw_task(results, None)


def test_the_best_baselines_without_privileges_are_shown(tmp_path: Path) -> None:
    means = {"random": 0.0, "oracle": 9.0, "peak_ewma": 5.0, "round_robin": 1.0}
    means |= {"least_connections": 4.0, "power_of_two": 3.0}
    head = task("LoadBalancer-v0")
    results = read_task(write(tmp_path / "a.json", {"grpo": [training(1.0)]}, means, head))
    assert list(shown_baselines(results)) == [
        "peak_ewma",
        "least_connections",
        "power_of_two",
        "random",
    ]


def test_labels_keep_their_distance_and_their_order() -> None:
    places = spread({"c": 0.5, "a": 0.49, "b": 0.495, "top": 0.99, "next": 0.98}, 0.05)
    assert list(places) == ["a", "b", "c", "next", "top"]
    heights = list(places.values())
    assert min(np.diff(heights)) >= 0.05 - 1e-9
    assert heights[0] == 0.49 and heights[-1] <= 1.0


def test_short_numbers() -> None:
    assert [short_number(value) for value in (0.21, -15.4e6, 250.0)] == ["0.21", "−15.4 M", "250"]


def test_an_overview_promises_no_returns_beyond_the_best_and_names_its_axis_below_its_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr(plots, "as_png", keep)
    runs = {"grpo": [training(500.0), training(500.0)], "ppo": [training(500.0)]}
    draw_overview([read_task(write(tmp_path / "a.json", runs))])
    axes = drawn[0].axes[0]
    FigureCanvasAgg(drawn[0]).draw()
    ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert max(ticks) <= 500.0 <= axes.get_xlim()[1] < 505.0
    label = axes.xaxis.label.get_window_extent()
    assert not any(label.overlaps(tick.get_window_extent()) for tick in axes.get_xticklabels())
    assert label.y0 > drawn[0].texts[-1].get_window_extent().y1  # the caption
