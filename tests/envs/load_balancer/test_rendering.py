"""Frames say what the simulator holds, in a size that depends only on the number of servers."""

import warnings
from typing import Any

import numpy as np
import pytest

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.load_balancer import rendering, trace
from grpo_gym.envs.load_balancer.config import FAULT_KINDS
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import PRESETS, make_config
from grpo_gym.envs.load_balancer.rendering import (
    CHART,
    COLUMNS,
    HEADER,
    HEALTH,
    render_ansi,
    render_rgb,
)
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.view import View, time_text

HISTORY = [(0, 12.0, False), (2, 40.0, False), (2, 1_500.0, True), (1, 80.0, False)]
ROW = 46
"""Height of a server's row with up to six servers."""


def simulator_of(num_envs: int = 1, **settings: Any) -> LoadBalancerSimulator:
    simulator = LoadBalancerSimulator(make_config(**settings), num_envs)
    simulator.seed(np.arange(num_envs, dtype=np.uint64))
    simulator.reset()
    return simulator


def hand_made(**settings: Any) -> LoadBalancerSimulator:
    """Four servers in a state made up for the purpose."""
    simulator = simulator_of(**{"episode_length": 1_600, "num_servers": 4, **settings})
    episode = simulator.episodes
    episode["step"], episode["now_ms"] = 1_250, 34_560.0
    episode["response_total_ms"], episode["errors"] = 1_250 * 87.25, 50
    simulator.servers["in_flight"][0] = 3, 0, 17, 1
    simulator.metrics["in_flight"][0] = 3, 0, 17, 1
    simulator.metrics["latency_ms"][0] = 21.5, 0.0, 987.0, 4_320.0
    simulator.metrics["error_rate"][0] = 0.0, 0.0, 0.125, 0.987
    simulator.metrics["observed_at_ms"][0] = 34_500.0, -1.0, 34_558.0, 30_000.0
    simulator.faults["start_ms"] = simulator.faults["end_ms"] = np.inf
    return simulator


def set_fault(
    simulator: LoadBalancerSimulator, server: int, kind: int, start_ms: float, end_ms: float
) -> None:
    simulator.faults[0, server, 0] = (start_ms, end_ms, kind)


def play(env: LoadBalancerEnv, steps: int) -> None:
    env.reset(seed=3)
    for step in range(steps):
        env.step(np.int64(step % env.config.num_servers))


def line_of(text: str, server: int) -> str:
    (line,) = (line for line in text.splitlines() if f"server {server} " in line[:12])
    return line


def rows_that_differ(before: np.ndarray, after: np.ndarray) -> set[str]:
    """The parts of a four-server frame in which two frames differ."""
    lines = np.flatnonzero((before != after).any(axis=(1, 2)))
    names = ["header", *range(4), "chart"]
    edges = [0, *range(HEADER, HEADER + 5 * ROW, ROW)]
    return {str(names[int(np.searchsorted(edges, line, side="right")) - 1]) for line in lines}


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.0, "0 ms"),
        (0.04, "0.04 ms"),
        (1.0, "1 ms"),
        (34.56, "34.6 ms"),
        (999.4, "999 ms"),
        (999.6, "1 s"),
        (12_340.0, "12.3 s"),
        (999_600.0, "1,000 s"),
        (1_234_567.0, "1,235 s"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_times_have_three_digits_and_a_unit(ms: float, text: str) -> None:
    assert time_text(ms) == text


def test_text_has_the_numbers_of_the_episode() -> None:
    text = render_ansi(hand_made(), HISTORY)
    head = text[: text.index("─")]
    for phrase in (
        "4 servers",
        "requests routed 1,250 of 1,600",
        "simulated time 34.6 s",
        "mean response 87.2 ms",
        "failed 4.0% (50)",
        "last request server 1: 80 ms, ok",
    ):
        assert phrase in head


def test_averages_are_over_the_requests_routed_so_far() -> None:
    simulator = hand_made()
    simulator.episodes["step"], simulator.episodes["errors"] = 4, 1
    simulator.episodes["response_total_ms"] = 100.0
    facts = View(simulator, []).facts
    assert (facts["mean response"], facts["failed"]) == ("25 ms", "25.0% (1)")
    assert facts["last request"] == "-"  # there was one, but the history does not know of it


def test_text_has_the_numbers_of_each_server() -> None:
    text = render_ansi(hand_made(), HISTORY)
    words = [" ".join(line_of(text, n).replace("▶", " ").split()) for n in range(4)]
    assert words == [
        "server 0 1x healthy 3 ███ 21.5 ms 0.0% 25% ████",
        "server 1 0.8x healthy 0 - - 25% ████",
        "server 2 0.5x healthy 17 ████████████+ 987 ms 12.5% 50% ████████",
        "server 3 1.1x healthy 1 █ 4.32 s 98.7% 0%",
    ]


def test_only_the_last_server_is_marked() -> None:
    lines = render_ansi(hand_made(), HISTORY[:3]).splitlines()
    assert [line for line in lines if "▶" in line] == [lines[8]]
    assert lines[8].startswith("▶ server 2 ")
    assert "last request server 2: 1.5 s, FAILED" in lines[2]


def test_share_counts_only_recent_requests() -> None:
    history = [(3, 10.0, False)] * 1_000 + [(0, 10.0, False)] * 40 + [(1, 10.0, False)] * 10
    view = View(hand_made(), history)
    assert [server.share for server in view.servers] == [0.8, 0.2, 0.0, 0.0]


def test_metrics_are_those_the_balancer_sees_and_the_queue_is_the_truth() -> None:
    simulator = hand_made(staleness_ms=500.0)
    simulator.servers["in_flight"][0, 0] = 8
    simulator.servers["latency_ms"][0, 0] = 600.0
    server = View(simulator, HISTORY).servers[0]
    assert (server.in_flight, server.seen_in_flight, server.latency) == (8, 3, "21.5 ms")


def test_a_server_that_only_refused_has_errors_but_no_latency() -> None:
    simulator = hand_made()
    simulator.metrics["latency_ms"][0, 2] = 0.0
    server = View(simulator, HISTORY).servers[2]
    assert (server.latency, server.errors, server.age) == ("-", "12.5%", "2 ms ago")


@pytest.mark.parametrize("kind", range(len(FAULT_KINDS)))
def test_health_is_the_fault_in_force_now(kind: int) -> None:
    simulator = hand_made(recovery_ramp_ms=100.0)
    now = 34_560.0
    name = FAULT_KINDS[kind]
    for start, end, health in (
        (now + 1.0, now + 50.0, "healthy"),
        (now, now + 50.0, name),
        (now - 50.0, now, "recovering"),
        (now - 50.0, now - 60.0, "recovering"),
        (now - 500.0, now - 100.0, "healthy"),
    ):
        set_fault(simulator, 2, kind, start, end)
        view = View(simulator, HISTORY)
        assert [server.health for server in view.servers] == ["healthy"] * 2 + [health, "healthy"]
        assert line_of(render_ansi(simulator, HISTORY), 2).split()[3] == health
        if end == now - 60.0:
            assert view.servers[2].effect == f"from {name}, 40% left"


def test_a_later_fault_of_the_same_server_is_found() -> None:
    simulator = hand_made()
    simulator.faults[0, 1, 0] = (0.0, 10.0, trace.SLOW)
    simulator.faults[0, 1, 1] = (34_000.0, 35_000.0, trace.DOWN)
    server = View(simulator, HISTORY).servers[1]
    assert (server.health, server.effect) == ("down", "refuses requests")


def test_effects_name_the_settings() -> None:
    simulator = hand_made(slow_factor=2.5, fault_error_rate=0.3)
    set_fault(simulator, 0, trace.DEGRADED, 0.0, 1e9)
    set_fault(simulator, 1, trace.ERRORING, 0.0, 1e9)
    effects = [server.effect for server in View(simulator, []).servers]
    assert effects == ["2.5x slower, 30.0% errors", "30.0% errors", "", ""]


def test_before_the_first_request_nothing_is_divided_by_zero() -> None:
    for preset in PRESETS:
        simulator = simulator_of(preset=preset)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = render_ansi(simulator, [])
            render_rgb(simulator, [])
        assert "mean response -" in text
        assert "failed -" in text
        assert "last request none yet" in text
        assert "nan" not in text
        assert "▶" not in text


def test_decaying_load_shows_base_latency_and_the_scheduled_fault() -> None:
    env = LoadBalancerEnv(preset="tiny-grpo", render_mode="ansi")
    play(env, 999)
    before = env.render()
    env.step(np.int64(0))
    during = env.render()
    assert "base latency" in before
    assert line_of(before, 2).replace("▶", " ").split()[2:5] == ["80", "ms", "healthy"]
    assert "healthy" in line_of(before, 0)
    assert "degraded" in line_of(during, 0)
    assert "6.0%" in line_of(during, 0)


def test_chart_has_decades_and_marks_failures() -> None:
    lines = render_ansi(hand_made(), HISTORY).splitlines()
    chart = lines[lines.index(next(line for line in lines if line.startswith("response"))) + 1 :]
    ticks = [line.split("┤")[0].strip() for line in chart if "┤" in line]
    assert ticks == ["10 s", "1 s", "100 ms", "10 ms"]
    newest = ["".join(line.ljust(COLUMNS))[9 + 84 : 9 + 88] for line in chart]
    assert "".join(newest).split() == ["x", "•", "•", "•"]
    assert newest.index("  x ") == 2  # 1.5 s: 2.18 of the 3 decades up, on 7 lines
    assert newest.index("•   ") == 6  # 12 ms: close to the bottom


def test_axis_covers_slow_requests_and_holds_the_fastest_at_its_edge() -> None:
    view = View(hand_made(), [(0, 20.0, False)] * 99 + [(0, 54_000.0, False), (0, 0.001, False)])
    assert (view.low, view.high) == (1, 5)
    assert view.height(0.001) == 0.0
    assert view.height(1_000.0) == 0.5
    assert view.height(1e9) == 1.0


@pytest.mark.parametrize("preset", PRESETS)
def test_size_is_constant_and_even_over_an_episode(preset: str) -> None:
    length = 120
    env = LoadBalancerEnv(preset=preset, render_mode="rgb_array", **short(preset, length))
    env.reset(seed=0)
    shapes = set()
    for step in range(length + 1):
        frame = env.render()
        shapes.add(frame.shape)
        assert frame.dtype == np.uint8
        if step < length:
            env.step(np.int64(0))
    (shape,) = shapes
    assert len(shape) == 3
    assert shape[2] == 3
    assert shape[0] % 2 == shape[1] % 2 == 0


def short(preset: str, length: int) -> dict[str, Any]:
    schedule = ((0, "degraded", 20, 60),) if preset == "tiny-grpo" else ()
    return {"episode_length": length, "fault_schedule": schedule}


def test_the_first_frame_of_a_long_episode_can_be_drawn() -> None:
    """One request of 5,000 is less than a pixel of progress."""
    simulator = hand_made(episode_length=5_000)
    progress = []
    for step in (0, 1, 50):
        simulator.episodes["step"] = step
        progress.append(render_rgb(simulator, HISTORY)[83])
    np.testing.assert_array_equal(progress[0], progress[1])
    assert (progress[0] != progress[2]).any()


def test_size_depends_only_on_the_number_of_servers() -> None:
    quiet, busy = hand_made(), hand_made(staleness_ms=9.0, base_latency_ms=123_456.0)
    busy.servers["in_flight"][:] = 99_999
    busy.metrics["latency_ms"][:] = 9e9
    for kind in range(4):
        set_fault(busy, kind, kind, 0.0, 1e9)
    assert render_rgb(quiet, []).shape == render_rgb(busy, HISTORY * 1_000).shape == (492, 800, 3)


@pytest.mark.parametrize("num_servers", range(1, 33))
def test_any_number_of_servers(num_servers: int) -> None:
    env = LoadBalancerEnv(num_servers=num_servers, render_mode="rgb_array")
    play(env, 40)
    frame = env.render()
    height, width, _ = frame.shape
    assert width == 800
    assert height % 2 == 0
    row = (height - HEADER - CHART) // num_servers
    for n in range(num_servers):  # every row has a name in it
        name = frame[HEADER + n * row + 2 : HEADER + (n + 1) * row, 34:90]
        assert (name.max(axis=2) < 100).any()
    text = render_ansi(env.simulator, env._history)
    assert all(f"server {n} " in text for n in range(num_servers))


def extreme(**settings: Any) -> tuple[LoadBalancerSimulator, list[Any]]:
    """Everything at its widest, as far as is reasonable."""
    simulator = simulator_of(**{"slow_factor": 12.5, "fault_error_rate": 0.125, **settings})
    config, seen = simulator.config, simulator.metrics
    simulator.servers["in_flight"][:] = 9_999
    seen["in_flight"][:] = 9_998
    seen["latency_ms"][:] = 9.9e6
    seen["error_rate"][:] = 1.0
    seen["observed_at_ms"][:] = 0.0
    for n in range(config.num_servers):
        set_fault(simulator, n, n % 4, 0.0, 1e9 if n % 8 < 4 else 9_999_999.0)
    episode = simulator.episodes
    episode["now_ms"], episode["response_total_ms"] = 1e7, 9.9e6 * config.episode_length
    episode["step"] = episode["errors"] = config.episode_length
    return simulator, [(config.num_servers - 1, 9.9e6, True)] * 1_000


@pytest.mark.parametrize("num_servers", [1, 4, 7, 12, 13, 32])
@pytest.mark.parametrize("preset", PRESETS)
def test_texts_do_not_overlap_or_leave_the_page(
    preset: str, num_servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, history = extreme(preset=preset, num_servers=num_servers, recovery_ramp_ms=9.0)
    boxes: list[tuple[int, int, int, int, str]] = []
    write = rendering._write

    def record(
        draw: Any, x: int, y: int, text: str, colour: str = rendering.INK, size: int = 13
    ) -> None:
        write(draw, x, y, text, colour, size)
        mask = rendering._glyphs(text, size)
        inside = mask.getbbox()
        if inside:
            left = x if x >= 0 else 1 - x - mask.width
            top = y - mask.height // 2
            edges = (left + inside[0], top + inside[1], left + inside[2], top + inside[3])
            boxes.append((*edges, text))

    monkeypatch.setattr(rendering, "_write", record)
    height, width, _ = render_rgb(simulator, history).shape
    assert len(boxes) > 20 + 5 * num_servers
    for i, (left, top, right, bottom, text) in enumerate(boxes):
        assert left >= 16, text
        assert right <= width - 16, text
        assert top >= 6, text
        assert bottom <= height - 6, text
        for other in boxes[:i]:
            apart = left >= other[2] + 3 or other[0] >= right + 3
            assert apart or top >= other[3] or other[1] >= bottom, (text, other)


@pytest.mark.parametrize("settings", [{}, {"base_latency_ms": 200.0}, {"preset": "tiny-grpo"}])
def test_text_is_at_most_100_columns_wide_and_not_cut(settings: dict[str, Any]) -> None:
    simulator, history = extreme(num_servers=32, **settings)
    text = render_ansi(simulator, history)
    lines = text.splitlines()
    assert max(map(len, lines)) <= COLUMNS <= 100
    assert lines[2].endswith("last request server 31: 9,900 s, FAILED")
    assert line_of(text, 30).endswith("9,900 s  100.0%    0%")
    assert "100% █████" in line_of(text, 31)


def test_text_never_exceeds_its_width() -> None:
    simulator, history = extreme(num_servers=4, base_latency_ms=123_456.0)
    simulator.servers["in_flight"][:] = 2**31 - 1
    lines = render_ansi(simulator, history).splitlines()
    assert max(map(len, lines)) == COLUMNS


def test_columns_are_aligned() -> None:
    lines = render_ansi(hand_made(), HISTORY).splitlines()
    ends = {line.index("%", line.index("%") + 1) for line in lines[6:10] if line.count("%") == 2}
    assert len(ends) == 1
    assert len({line.index("healthy") for line in lines[6:10]}) == 1


@pytest.mark.parametrize(
    ("records", "field", "index", "value", "parts"),
    [
        ("servers", "in_flight", (0, 1), 2, {"1"}),
        ("servers", "in_flight", (0, 2), 18, {"2"}),
        ("metrics", "latency_ms", (0, 0), 22.5, {"0"}),
        ("metrics", "error_rate", (0, 3), 0.5, {"3"}),
        ("metrics", "observed_at_ms", (0, 3), 31_000.0, {"3"}),
        ("episodes", "errors", (0,), 51, {"header"}),
        ("episodes", "step", (0,), 625, {"header", "chart"}),
        ("episodes", "response_total_ms", (0,), 1e6, {"header", "chart"}),
    ],
)
def test_the_image_changes_where_the_state_does(
    records: str, field: str, index: tuple[int, ...], value: float, parts: set[str]
) -> None:
    simulator = hand_made()
    before = render_rgb(simulator, HISTORY)
    getattr(simulator, records)[field][index] = value
    simulator.metrics["in_flight"] = simulator.servers["in_flight"]
    assert rows_that_differ(before, render_rgb(simulator, HISTORY)) == parts


def test_the_image_shows_health_by_colour_and_word() -> None:
    simulator = hand_made(recovery_ramp_ms=100.0)
    frames = [render_rgb(simulator, HISTORY)]
    pills = []
    for kind, name in enumerate(FAULT_KINDS):
        set_fault(simulator, 3, kind, 0.0, 1e9)
        frames.append(render_rgb(simulator, HISTORY))
        assert rows_that_differ(frames[0], frames[-1]) == {"3"}
        pill = frames[-1][HEADER + 3 * ROW : HEADER + 4 * ROW, 136:213]
        colour = [int(HEALTH[name][i : i + 2], 16) for i in (1, 3, 5)]
        filled = (pill == colour).all(axis=2)
        assert filled.sum() > 500
        pills.append(filled[:20])
    for first in range(4):  # the words differ where the colours do not matter
        for second in range(first):
            assert (pills[first] != pills[second]).sum() > 20


def test_the_image_shows_the_last_request_and_its_failure() -> None:
    simulator = hand_made()
    server_1 = render_rgb(simulator, HISTORY)
    server_2 = render_rgb(simulator, [*HISTORY[:-1], (2, 80.0, False)])
    assert rows_that_differ(server_1, server_2) == {"header", "1", "2"}
    failed = render_rgb(simulator, [*HISTORY[:-1], (1, 80.0, True)])
    assert rows_that_differ(server_1, failed) == {"header", "1", "chart"}
    middle = HEADER + ROW + ROW // 2
    assert server_1[middle, 22, 2] > 150  # blue
    assert failed[middle, 22, 0] > 150  # red


@pytest.mark.parametrize("position", [0, 3])
def test_the_charts_failed_requests_differ_in_colour_and_shape(position: int) -> None:
    simulator = hand_made()
    charts = []
    for failed in (False, True):
        history = [(n, ms, failed and n == position) for n, ms in enumerate((90.0, 1.0, 9.0, 40.0))]
        charts.append(render_rgb(simulator, history)[-CHART + 36 :].astype(np.int64))
    red = [((c[..., 0] - c[..., 2]) > 120).sum() for c in charts]
    assert red[0] == 0
    assert red[1] > 10
    inked = [c.min(axis=2) < 160 for c in charts]
    assert (inked[0] != inked[1]).sum() > 10


def test_members_are_rendered_apart() -> None:
    simulator = simulator_of(num_envs=3)
    simulator.step(np.zeros(3, np.int64))
    simulator.servers["in_flight"][:] = [[1], [5], [9]]
    frames = [render_rgb(simulator, HISTORY, member=b) for b in range(3)]
    assert rows_that_differ(frames[1], frames[2]) >= {"0", "1", "2", "3"}
    alone = simulator_of(num_envs=1)
    alone.restore(simulator.get_state(np.array([1])), np.array([0]))  # made up: not checked
    np.testing.assert_array_equal(render_rgb(alone, HISTORY), frames[1])


def test_a_members_faults_are_those_of_its_trace() -> None:
    simulator = simulator_of(num_envs=2)
    simulator.faults["start_ms"] = simulator.faults["end_ms"] = np.inf
    simulator.episodes["trace_row"] = 1, 0
    simulator.faults[0, 2, 0] = (0.0, 1e9, trace.DOWN)
    health = [[s.health for s in View(simulator, [], member).servers] for member in range(2)]
    assert health == [["healthy"] * 4, ["healthy", "healthy", "down", "healthy"]]


def test_fleets_leave_the_rows_of_absent_servers_empty() -> None:
    env = LoadBalancerEnv("fleets", render_mode="rgb_array")
    shapes, sizes = set(), set()
    for seed in range(12):
        env.reset(seed=seed)
        frame = env.render()
        count = env.simulator.fleet(0).num_servers
        assert f"{count} servers" in render_ansi(env.simulator, [])
        shapes.add(frame.shape)
        sizes.add(count)
        rows = frame[HEADER + 1 : HEADER + 22 * 24].reshape(-1, 800, 3)
        assert (rows[22 * count :] == 255).all()
        assert (rows[22 * (count - 1) : 22 * count - 2] < 100).any()
    assert shapes == {(HEADER + 22 * 24 + CHART, 800, 3)}
    assert len(sizes) > 4


def test_workers_and_speeds_fit_beside_the_number() -> None:
    """In low rows: the widest name and speed have ten blank columns between them."""
    simulator = simulator_of(
        num_servers=24, workers=12, service_rates=(0.123,) * 24, base_latency_ms=123.4
    )
    view = View(simulator, [])
    assert view.servers[23].speed == "12 x 0.123x +123 ms"
    assert view.servers[23].rate == "12 x 0.123x"
    top = HEADER + 22 * 23
    ink = (render_rgb(simulator, [])[top + 2 : top + 21, 34:129] < 200).any(axis=(0, 2))
    gaps = np.split(np.flatnonzero(ink), np.flatnonzero(np.diff(np.flatnonzero(ink)) > 10) + 1)
    assert len(gaps) == 2
