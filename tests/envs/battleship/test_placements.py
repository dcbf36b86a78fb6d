"""The list of legal boards, and random boards: all legal ones are equally likely."""

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from battleship_reference import all_boards, is_legal, ship_positions, ships_of
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.placements import draw_boards, find_placements, list_layouts
from grpo_gym.envs.battleship.presets import BattleshipConfig, make_config
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv
from grpo_gym.settings import ConfigError

SMALL: dict[str, dict[str, Any]] = {
    "touching": {"board_size": (3, 4), "fleet": (3, 2)},
    "touching, ships alike": {"board_size": (3, 3), "fleet": (2, 2)},
    "in any order": {"board_size": (2, 5), "fleet": (1, 4, 2)},
    "no touch": {"board_size": (4, 4), "fleet": (3, 2), "allow_touch": False},
    "no touch, points": {"board_size": (3, 5), "fleet": (1, 2, 1), "allow_touch": False},
    "one row": {"board_size": (1, 9), "fleet": (3, 2), "allow_touch": False},
    "microgrpo": {"board_size": (4, 4), "fleet": (3, 2), "placement": "microgrpo"},
    "microgrpo, no touch": {
        "board_size": (4, 5), "fleet": (2, 3), "placement": "microgrpo", "allow_touch": False,
    },
}  # fmt: skip


def small(name: str) -> BattleshipConfig:
    return make_config(**SMALL[name])


def drawn(config: BattleshipConfig, count: int, seed: int = 0) -> np.ndarray:
    """The ship at each cell of `count` random boards, -1 for water, shape (count, cells)."""
    simulator = BattleshipSimulator(config, count)
    simulator.seed(np.arange(seed, seed + count, dtype=np.uint64))
    simulator.reset()
    return simulator.ship_at


def as_row(config: BattleshipConfig, board: Any) -> bytes:
    row = np.full(config.cells, -1, np.int8)
    for ship, cells in enumerate(board):
        row[sorted(cells)] = ship
    return row.tobytes()


def uniformity(config: BattleshipConfig, rows: list[bytes]) -> float:
    """p-value of these boards' being drawn uniformly from all legal ones."""
    counts = dict.fromkeys((as_row(config, board) for board in all_boards(config)), 0)
    for row in rows:
        counts[row] += 1
    assert len(rows) >= 20 * len(counts), "too few draws for the test to mean anything"
    return float(stats.chisquare(list(counts.values())).pvalue)


@pytest.mark.parametrize(("preset", "count"), [("uniform-5x5", 9_024), ("microgrpo-5x5", 1_504)])
def test_numbers_of_boards(preset: str, count: int) -> None:
    config = make_config(preset)
    layouts = list_layouts(find_placements(config))
    assert layouts is not None
    assert len(layouts) == len(np.unique(layouts, axis=0)) == len(all_boards(config)) == count


@pytest.mark.parametrize("name", SMALL)
def test_the_list_has_every_board_in_order(name: str) -> None:
    """`layout` numbers stand for the same boards for ever."""
    config = small(name)
    boards = all_boards(config)
    env = BattleshipVectorEnv(len(boards), **SMALL[name])
    env.reset(seed=0, options={"layout": np.arange(len(boards))})
    assert [ships_of(config, row) for row in env.simulator.ship_at] == boards


@pytest.mark.parametrize("name", SMALL)
def test_all_boards_are_equally_likely(name: str) -> None:
    config = small(name)
    rows = drawn(config, 40 * len(all_boards(config)))
    assert uniformity(config, [row.tobytes() for row in rows]) > 1e-3


@pytest.mark.parametrize("preset", ["uniform-5x5", "microgrpo-5x5"])
def test_the_boards_of_five_by_five_are_equally_likely(preset: str) -> None:
    config = make_config(preset)
    rows = drawn(config, 200_000, seed=7)
    assert uniformity(config, [row.tobytes() for row in rows]) > 1e-3


@pytest.mark.parametrize("name", ["touching", "no touch"])
def test_rejecting_ship_by_ship_would_be_noticed(name: str) -> None:
    config, generator = small(name), random.Random(0)
    rows = []
    for _ in range(40 * len(all_boards(config))):
        board: list[frozenset[int]] = []
        while len(board) < len(config.fleet):
            ship = generator.choice(ship_positions(config, config.fleet[len(board)]))
            if is_legal(config, [*board, ship]):
                board.append(ship)
        rows.append(as_row(config, board))
    assert uniformity(config, rows) < 1e-4


def accepted(config: BattleshipConfig, draws: int) -> int:
    """How many first draws of all ships are legal."""
    placements = find_placements(config)
    words = np.zeros(placements.covered.shape[1], np.uint64)
    out = np.zeros((1, len(config.fleet)), np.int32)
    return sum(
        draw_boards(np.array([seed], np.uint64), placements, 1, words, out) for seed in range(draws)
    )


@pytest.mark.parametrize("name", SMALL)
def test_acceptance_is_the_share_of_legal_boards(name: str) -> None:
    config = small(name)
    ways = math.prod(len(ship_positions(config, length)) for length in config.fleet)
    share = len(all_boards(config)) / ways
    assert stats.binomtest(accepted(config, 4_000), 4_000, share).pvalue > 1e-3


def test_acceptance_of_hasbros_fleet() -> None:
    config = make_config("classic-10x10")
    ways = math.prod(len(ship_positions(config, length)) for length in config.fleet)
    assert 30_093_975_536 / ways == pytest.approx(0.3887, abs=5e-5)
    assert stats.binomtest(accepted(config, 10_000), 10_000, 0.38874).pvalue > 1e-3


def test_occupancy_of_hasbros_board() -> None:
    """Cells that a turn or a reflection of the board takes into each other are counted together."""
    count = 100_000
    ships = (drawn(make_config("classic-10x10", observation="compact"), count) >= 0).reshape(
        -1, 10, 10
    )
    for (row, column), exact in (
        ((0, 0), 0.08000), ((0, 1), 0.11492), ((1, 1), 0.14263), ((4, 4), 0.21360),
    ):  # fmt: skip
        cells = {
            (r, c)
            for a, b in ((row, column), (column, row))
            for r in (a, 9 - a)
            for c in (b, 9 - b)
        }
        each = np.mean([ships[:, r, c] for r, c in sorted(cells)], axis=0)
        assert abs(each.mean() - exact) < 3 * each.std() / count**0.5
        for r, c in cells:
            error = (exact * (1 - exact) / count) ** 0.5
            assert abs(ships[:, r, c].mean() - exact) < 4 * error, (r, c)


def test_microgrpo_never_occupies_the_last_cell() -> None:
    occupied = (drawn(make_config("microgrpo-5x5"), 20_000) >= 0).any(axis=0)
    assert np.flatnonzero(~occupied).tolist() == [24]
    assert (drawn(make_config("uniform-5x5"), 20_000) >= 0).any(axis=0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "classic-10x10"},
        {"preset": "no-touch-10x10"},
        {"preset": "russian-10x10"},
        {"board_size": (16, 16), "fleet": (16, 16, 9, 1)},
        {"board_size": (2, 16), "fleet": (16, 15)},
        {"board_size": (9, 8), "fleet": (4, 4, 2), "allow_touch": False, "placement": "microgrpo"},
    ],
)
def test_every_board_is_legal(settings: dict[str, Any]) -> None:
    """Also beyond 64 cells, where the sets of cells span several words."""
    config = make_config(**settings)
    rows = drawn(config, 300)
    for row in rows:
        board = ships_of(config, row)
        assert is_legal(config, board)
        assert sum(map(len, board)) == config.ship_cells == (row >= 0).sum()
        for ship, length in zip(board, config.fleet, strict=True):
            assert ship in ship_positions(config, length)
    assert len(np.unique(rows, axis=0)) > (2 if config.board_size == (2, 16) else 200)


# Seeds


def boards_of(env: BattleshipVectorEnv, episodes: int = 3) -> np.ndarray:
    """Boards of the first episodes, shape (episodes, B, cells)."""
    found = [env.simulator.ship_at.copy()]
    for _ in range(episodes - 1):
        env.reset()
        found.append(env.simulator.ship_at.copy())
    return np.stack(found)


def test_equal_seeds_have_equal_boards() -> None:
    env = BattleshipVectorEnv(5)
    env.reset(seed=[3, 8, 3, 2**70 + 1, 8])
    boards = boards_of(env)
    np.testing.assert_array_equal(boards[:, 0], boards[:, 2])
    np.testing.assert_array_equal(boards[:, 1], boards[:, 4])
    assert len(np.unique(boards.reshape(15, -1), axis=0)) == 9
    for b, seed in enumerate((3, 8, 3, 2**70 + 1)):
        single = BattleshipEnv(observation="flat", reward="hits", announce_sunk=False)
        for episode in range(3):
            single.reset(seed=seed if episode == 0 else None)
            np.testing.assert_array_equal(single.simulator.ship_at[0], boards[episode, b])


def test_boards_do_not_depend_on_the_neighbours() -> None:
    many, few = BattleshipVectorEnv(6), BattleshipVectorEnv(2)
    many.reset(seed=10)
    few.reset(seed=[15, 12])
    np.testing.assert_array_equal(boards_of(many)[:, [5, 2]], boards_of(few))


def test_near_seeds_and_following_episodes_have_boards_of_their_own() -> None:
    """Whether a cell is a ship's on one board says nothing of the same cell of the next."""
    count = 10_000
    simulator = BattleshipSimulator(make_config("classic-10x10"), count)
    simulator.seed(np.arange(count, dtype=np.uint64))
    episodes = []
    for _ in range(2):
        simulator.reset()
        episodes.append(simulator.ship_at >= 0)
    assert len(np.unique(np.concatenate(episodes), axis=0)) == 2 * count
    for one, other in (episodes, (episodes[0][:-1], episodes[0][1:])):
        common = ((one - one.mean(axis=0)) * (other - other.mean(axis=0))).sum(axis=1)
        assert abs(common.mean()) < 3 * common.std() / len(common) ** 0.5


# Fleets that do not fit


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"board_size": (4, 6), "fleet": (7,)}, "got a ship of length 7: the longest that fits has 6"),
    ({"board_size": (4, 6), "fleet": (5,), "placement": "microgrpo"}, "that fits has 4"),
    ({"board_size": (3, 3), "fleet": (3, 3, 3, 1)}, "board of 9 cells, got ships of 10"),
    ({"board_size": (4, 4), "fleet": (4, 4, 4), "allow_touch": False}, "fleet must fit"),
    ({"board_size": (2, 2), "fleet": (1, 1), "allow_touch": False}, "fleet must fit"),
    ({"board_size": (1, 6), "fleet": (3, 3), "allow_touch": False}, "fleet must fit"),
    ({"board_size": (3, 3), "fleet": (2, 2), "placement": "microgrpo", "allow_touch": False},
     "fleet must fit"),
    ({"board_size": (2, 5), "fleet": (4, 3, 3)}, "fleet must fit"),
    ({"fleet": ()}, "fleet must have at least one ship, got none"),
    ({"fleet": (0,)}, r"fleet\[0\] must be >= 1"),
    ({"fleet": (17,), "board_size": 16}, r"fleet\[0\] must be <= 16"),
    ({"fleet": 3}, "fleet must be a list"),
    ({"fleet": (2.5,)}, r"fleet\[0\] must be an integer"),
]  # fmt: skip
TIGHT: list[dict[str, Any]] = [
    {"board_size": (3, 3), "fleet": (3, 3, 2, 1)},
    {"board_size": (3, 3), "fleet": (3, 2, 2, 2)},
    {"board_size": (3, 3), "fleet": (3, 3), "allow_touch": False},
    {"board_size": (2, 3), "fleet": (1, 1), "allow_touch": False},
    {"board_size": (1, 7), "fleet": (3, 3), "allow_touch": False},
    {"board_size": (1, 1), "fleet": (1,), "allow_touch": False},
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_impossible_fleets_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BattleshipEnv(**settings)
    assert "\n" not in str(caught.value)


def test_refused_fleets_really_have_no_board() -> None:
    for settings, message in REFUSED:
        if message == "fleet must fit":
            assert all_boards(make_config(**settings)) == []


def test_they_are_refused_for_many() -> None:
    with pytest.raises(ConfigError, match="fleet must fit"):
        BattleshipVectorEnv(2, board_size=(2, 5), fleet=(4, 3, 3))


@pytest.mark.parametrize("settings", TIGHT)
def test_tight_fleets_are_not(settings: dict[str, Any]) -> None:
    env = BattleshipEnv(**settings)
    env.reset(seed=0)
    assert is_legal(env.config, ships_of(env.config, env.simulator.ship_at[0]))
