"""Frames say what the player knows, and at the end where the ships were."""

from typing import Any

import numpy as np
import pytest
from PIL import ImageColor, ImageDraw

import grpo_gym  # noqa: F401, registers the environments
from battleship_reference import Game, all_boards, numbered, ships_of
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.presets import PRESETS
from grpo_gym.envs.battleship.rendering import (
    COLD,
    FIRE,
    GAP,
    HEADER,
    HEAT_LEFT,
    HOT,
    HULL,
    MARGIN,
    SEA,
    WATER_SHOT,
    WIDTH,
    WRECK,
    heat,
    render_rgb,
)
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv

BOARD = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [2, 2, 0, 0]])
SMALL: dict[str, Any] = {"board_size": (3, 4), "fleet": (3, 2), "mask_repeats": False}


def hand_made(*cells: int, render_mode: str = "rgb_array", **settings: Any) -> BattleshipEnv:
    """A game on `BOARD` after these shots."""
    env = BattleshipEnv(render_mode=render_mode, **{**SMALL, **settings})
    env.reset(seed=0, options={"board": BOARD})
    for cell in cells:
        env.step(np.int64(cell))
    return env


def colours(frame: np.ndarray, columns: int, rows: int, left: int = MARGIN) -> np.ndarray:
    """The colour of each cell of a board, near its corner, shape (cells, 3)."""
    side = min((WIDTH - 2 * MARGIN - GAP) // (2 * columns), 38)
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    return np.array([frame[HEADER + r * side + 5, left + c * side + 5] for r, c in cells])


def named(frame: np.ndarray) -> str:
    """The cells of a small board by the first letters of their colours' names."""
    letters = {SEA: ".", WATER_SHOT: "o", FIRE: "x", WRECK: "#", HULL: "H"}
    known = {ImageColor.getrgb(colour): letter for colour, letter in letters.items()}
    return "".join(known[tuple(colour)] for colour in colours(frame, 4, 3).tolist())


# Text


def test_text_by_hand() -> None:
    env = hand_made(0, 7, 8, 9, render_mode="ansi")
    assert env.render() == (
        "    0  1  2  3\n"
        " 0  x  ·  ·  ·\n"
        " 1  ·  ·  ·  o\n"
        " 2  #  #  ·  ·\n"
        "shots 4, hits 3, last at (2, 1): sank a ship of 2\n"
    )


@pytest.mark.parametrize(
    ("shots", "settings", "line"),
    [
        ((), {}, "shots 0, hits 0"),
        ((3,), {}, "shots 1, hits 0, last at (0, 3): miss"),
        ((3, 1), {}, "shots 2, hits 1, last at (0, 1): hit"),
        ((3, 1, 3), {}, "shots 3, hits 1, last at (0, 3): known before"),
        ((0, 1, 2), {}, "shots 3, hits 3, last at (0, 2): sank a ship of 3"),
        ((0, 1, 2), {"announce_sunk": False}, "shots 3, hits 3, last at (0, 2): hit"),
        (
            (8, 9, 0, 1, 2),
            {},
            "shots 5, hits 5, last at (0, 2): sank a ship of 3, all sunk",
        ),
    ],
)
def test_the_last_line_says_how_it_stands(
    shots: tuple[int, ...], settings: dict[str, Any], line: str
) -> None:
    text = hand_made(*shots, render_mode="ansi", **settings).render()
    assert text.splitlines()[-1] == line


@pytest.mark.parametrize("announce_sunk", [True, False])
def test_text_shows_what_is_known_and_no_more(announce_sunk: bool) -> None:
    env = BattleshipEnv(render_mode="ansi", board_size=(12, 9), announce_sunk=announce_sunk)
    env.reset(seed=1)
    game = Game(env.config, ships_of(env.config, env.simulator.ship_at[0]))
    for cell in np.random.default_rng(0).permutation(108)[:60].tolist():
        game.shoot(cell)
        env.step(np.int64(cell))
    lines = env.render().splitlines()
    signs = np.array([line[3:].split() for line in lines[1:-1]]).reshape(-1)
    expected = np.full(108, "·")
    expected[sorted(game.misses)], expected[sorted(game.hits)] = "o", "x"
    expected[sorted(game.sunk_cells)] = "#"
    assert signs.tolist() == expected.tolist()
    assert {len(line) for line in lines[:-1]} == {3 + 3 * 9 - 1}


# The heat map


def test_heat_is_the_placements_that_fit_or_what_is_given() -> None:
    env = hand_made(3, 5)
    game = Game(env.config, ships_of(env.config, env.simulator.ship_at[0]), [3, 5])
    counts, _, _ = game.densities()
    np.testing.assert_allclose(heat(env.simulator, 0, None), counts / counts.sum())
    env.step(np.int64(0))
    game.shoot(0)
    _, _, weights = game.densities()
    np.testing.assert_allclose(heat(env.simulator, 0, None), weights / weights.sum())
    given = np.arange(12, dtype=np.float64)
    shares = heat(env.simulator, 0, given)
    assert shares[[0, 3, 5]].tolist() == [0.0] * 3, "known cells have no next shot"
    np.testing.assert_allclose(shares[[1, 11]] * (66 - 8), [1.0, 11.0])
    assert shares.sum() == pytest.approx(1.0)
    assert given.tolist() == list(range(12)), "the argument is left alone"
    assert not heat(env.simulator, 0, np.zeros(12)).any()


def test_heat_is_of_the_member_that_is_asked_for() -> None:
    env = BattleshipVectorEnv(2, **SMALL)
    env.reset(seed=0, options={"board": BOARD})
    env.step(np.array([0, 3]))
    shares = [heat(env.simulator, member, None) for member in range(2)]
    assert shares[0][1] > 0.2
    assert shares[1][3] == 0.0
    for member, share in enumerate(shares):
        alone = hand_made([0, 3][member])
        np.testing.assert_array_equal(share, heat(alone.simulator, 0, None))


def test_the_heat_map_is_drawn_from_cold_to_hot() -> None:
    env = hand_made(3)
    left = HEAT_LEFT
    env.heat_map = np.array([0.0, 4.0, 2.0, 9.0] + [0.0] * 8)
    found = colours(env.render(), 4, 3, left).astype(float)
    np.testing.assert_allclose(found[1], HOT, atol=1.0)
    np.testing.assert_allclose(found[2], (COLD + HOT) / 2, atol=1.0)
    for cell in (0, 3, 4, 11):  # 3 is known
        np.testing.assert_allclose(found[cell], COLD, atol=1.0)


def test_only_the_right_board_depends_on_the_heat_map(drawn: list[Any]) -> None:
    env = hand_made(3, 0)
    without = env.render()
    assert "placements that fit; darkest" in " ".join(text for *_, text in drawn)
    drawn.clear()
    env.heat_map = np.linspace(0.0, 1.0, 12)
    with_map = env.render()
    assert "the policy's next shot; darkest" in " ".join(text for *_, text in drawn)
    columns = np.flatnonzero((without != with_map).any(axis=(0, 2)))
    assert columns.min() >= HEAT_LEFT - 2  # the first letter's edge
    env.reset()
    assert env.heat_map is None, "another game's map would mislead"


# The board


def test_cells_have_the_colours_of_what_is_known() -> None:
    assert named(hand_made().render()) == "." * 12
    assert named(hand_made(0, 7, 8, 9).render()) == "x......o##.."
    assert named(hand_made(0, 7, 8, 9, announce_sunk=False).render()) == "x......oxx.."


@pytest.mark.parametrize("announce_sunk", [True, False])
def test_the_end_of_a_won_game_shows_the_ships(announce_sunk: bool) -> None:
    frame = hand_made(3, 0, 1, 2, 8, 9, announce_sunk=announce_sunk).render()
    assert named(frame) == "###o....##.."


def test_the_end_of_a_lost_game_shows_the_ships() -> None:
    env = hand_made(*[3] * 10, 0)
    assert named(env.render()) == "x..o........", "not before the end"
    assert env.step(np.int64(8))[3], "out of shots"
    shown = named(env.render())
    assert [shown[cell] for cell in (1, 2, 9)] == ["H"] * 3
    assert shown[3:8] == "o...."


def test_frames_tell_nothing_that_is_hidden() -> None:
    """Two boards that were answered alike so far look alike, also the heat map beside them."""
    config = hand_made().config
    for announce_sunk in (True, False):
        env = hand_made(3, 0, 8, announce_sunk=announce_sunk)
        game = Game(env.config, ships_of(config, env.simulator.ship_at[0]), [3, 0, 8])
        others = [board for board in all_boards(env.config) if game.answers_like(board)]
        assert len(others) > 2
        frame = env.render()
        for board in others:
            env.reset(options={"board": numbered(config, board)})
            for cell in game.shots:
                env.step(np.int64(cell))
            np.testing.assert_array_equal(env.render(), frame)


def test_the_last_shot_is_framed() -> None:
    frames = [hand_made(7, 10).render(), hand_made(10, 7).render()]
    rows, columns = np.nonzero((frames[0] != frames[1]).any(axis=2))
    inside = rows > HEADER  # the rest is text
    cells = set(zip((rows[inside] - HEADER) // 38, (columns[inside] - MARGIN) // 38, strict=True))
    assert cells >= {(1, 3), (2, 2)}
    assert all(row in (0, 1, 2, 3) and column in (2, 3, 4) for row, column in cells)


# Sizes


@pytest.mark.parametrize("preset", PRESETS)
def test_size_is_constant_and_even_over_a_game(preset: str) -> None:
    env = BattleshipEnv(preset, render_mode="rgb_array")
    env.reset(seed=0)
    shapes = {env.render().shape}
    cells = np.random.default_rng(0).permutation(env.config.cells)
    for step, cell in enumerate(cells):
        _, _, terminated, truncated, _ = env.step(cell)
        if step % 7 == 0 or terminated or truncated:
            env.heat_map = None if step % 2 else np.ones(env.config.cells)
            frame = env.render()
            assert frame.dtype == np.uint8
            shapes.add(frame.shape)
        if terminated or truncated:
            break
    assert terminated
    (shape,) = shapes
    assert shape[1:] == (WIDTH, 3)
    assert shape[0] % 2 == 0, "video codecs want it so"
    env.reset()
    assert env.render().shape == shape


@pytest.mark.parametrize("rows", [1, 2, 5, 11, 16])
@pytest.mark.parametrize("columns", [4, 9, 16])
def test_any_board_has_room_for_its_cells(rows: int, columns: int) -> None:
    env = BattleshipEnv(board_size=(rows, columns), fleet=(2, 1), render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    height = frame.shape[0]
    side = min((WIDTH - 2 * MARGIN - GAP) // (2 * columns), 38)
    assert HEADER + rows * side + 20 <= height <= 800
    for left in (MARGIN, HEAT_LEFT):
        assert left + columns * side <= WIDTH - MARGIN
        shown = colours(frame, columns, rows, left)
        assert (shown != 255).any(axis=1).all()
        assert (frame[HEADER : HEADER + rows * side, left + columns * side + 2] == 255).all()


# Texts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float, float, str]]:
    """Boxes of all that is written, and of the ships in the header."""
    boxes: list[tuple[float, float, float, float, str]] = []
    write, fill = ImageDraw.ImageDraw.text, ImageDraw.ImageDraw.rectangle

    def text(draw: Any, at: Any, words: str, *rest: Any, **options: Any) -> None:
        write(draw, at, words, *rest, **options)
        font, anchor = rest[1], options.get("anchor")
        boxes.append((*draw.textbbox(at, words, font=font, anchor=anchor), words))

    def rectangle(draw: Any, box: Any, *rest: Any, **options: Any) -> None:
        fill(draw, box, *rest, **options)
        if box[1] < HEADER - 20:
            boxes.append((*box, "ship"))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", rectangle)
    return boxes


def assert_readable(boxes: list[Any], frame: np.ndarray) -> None:
    height, width, _ = frame.shape
    assert len(boxes) > 5
    for i, (left, top, right, bottom, words) in enumerate(boxes):
        assert left >= 16, words
        assert right <= width - 16, words
        assert top >= 6, words
        assert bottom <= height - 4, words
        for other in boxes[:i]:
            apart = left >= other[2] + 2 or other[0] >= right + 2
            assert apart or top >= other[3] or other[1] >= bottom, (words, other)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_texts_do_not_overlap_or_leave_the_page(preset: str, given: bool, drawn: list[Any]) -> None:
    env = BattleshipEnv(preset, render_mode="rgb_array")
    env.reset(seed=0)
    for cell in np.flatnonzero(env.simulator.ship_at[0] >= 0):
        env.step(cell)
        env.heat_map = np.ones(env.config.cells) if given else None
        drawn.clear()
        assert_readable(drawn, env.render())


@pytest.mark.parametrize(
    "settings",
    [
        {"board_size": (5, 1), "fleet": (2,)},
        {"board_size": 16, "fleet": (5, 4, 4) + (1,) * 24},
        {"board_size": 16, "fleet": (5, 4, 4) + (1,) * 36},
    ],
)
def test_texts_of_narrow_boards_and_long_fleets(settings: dict[str, Any], drawn: list[Any]) -> None:
    env = BattleshipEnv(render_mode="rgb_array", **settings)
    env.reset(seed=0)
    assert_readable(drawn, env.render())


def test_sunk_ships_of_the_fleet_change_colour() -> None:
    def header(*cells: int, announce_sunk: bool = True) -> list[bool]:
        """Which of the ships, in the order of the fleet, are wrecks."""
        row = hand_made(*cells, announce_sunk=announce_sunk).render()[25]
        wreck = (row == ImageColor.getrgb(WRECK)).all(axis=1)
        return [bool(wreck[x]) for x in (WIDTH - MARGIN - 50, WIDTH - MARGIN - 12)]

    assert header(0, 8) == [False, False]
    assert header(0, 8, 9) == [False, True]
    assert header(0, 1, 2) == [True, False]
    assert header(0, 1, 2, announce_sunk=False) == [False, False]


# Around it


def test_members_are_rendered_apart() -> None:
    envs = BattleshipVectorEnv(2, render_mode="rgb_array", **SMALL)
    envs.reset(seed=0, options={"board": BOARD})
    envs.step(np.array([0, 3]))
    frames = envs.render()
    assert frames is not None
    for frame, cell in zip(frames, (0, 3), strict=True):
        np.testing.assert_array_equal(frame, hand_made(cell).render())
        np.testing.assert_array_equal(frame, render_rgb(hand_made(cell).simulator, [cell]))
