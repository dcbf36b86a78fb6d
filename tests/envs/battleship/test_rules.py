"""Every answer of a game against a slow game in plain Python, and Gymnasium's demands."""

import random
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import grpo_gym  # noqa: F401, registers the environments
from battleship_reference import Board, Game, all_boards, numbered, random_board, ships_of
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.presets import PRESETS, make_config
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv
from grpo_gym.settings import ConfigError

OBSERVATIONS = ("planes", "planes_density", "compact", "flat")
REWARDS = ("score", "shots", "hits")
RUSSIAN = (4, 3, 3, 2, 2, 2, 1, 1, 1, 1)
BOARDS: dict[str, dict[str, Any]] = {
    "classic": {"preset": "classic-10x10"},
    "classic without announcements": {"preset": "classic-10x10", "announce_sunk": False},
    "microgrpo": {"preset": "microgrpo-5x5"},
    "no touch": {"preset": "no-touch-10x10"},
    "russian": {"preset": "russian-10x10"},
    "wide": {"board_size": (3, 16), "fleet": (7, 2, 2), "allow_touch": False},
    "large": {"board_size": (16, 15), "fleet": (16, 9, 9, 1), "announce_sunk": False},
    "silent, no touch": {
        "board_size": (7, 5), "fleet": (3, 2, 1), "allow_touch": False, "announce_sunk": False,
    },
    "nothing but ships": {"board_size": (2, 3), "fleet": (3, 2, 1)},
}  # fmt: skip


def set_up(env: BattleshipEnv, seed: int) -> tuple[np.ndarray, dict[str, Any], Game]:
    """An odd seed plays a board that was drawn here, an even one a board of the environment's."""
    if seed % 2:
        board = random_board(env.config, random.Random(seed))
        assert board is not None
        start = env.reset(seed=seed, options={"board": numbered(env.config, board)})
    else:
        start = env.reset(seed=seed)
        board = ships_of(env.config, env.simulator.ship_at[0])
    return (*start, Game(env.config, board))


def check_start(env: BattleshipEnv, observation: np.ndarray, info: dict[str, Any]) -> None:
    mask = np.ones(env.config.cells, np.int8)
    assert list(info) == ["action_mask"] * env.config.mask_repeats
    np.testing.assert_array_equal(info.get("action_mask", mask), mask)
    assert observation in env.observation_space


def check_observation(env: BattleshipEnv, observation: np.ndarray, game: Game) -> None:
    assert observation.dtype == np.float32
    np.testing.assert_allclose(observation, game.observation(), rtol=2e-7, atol=0.0)
    assert env.observation_space.shape == observation.shape
    space: Any = env.observation_space
    assert space.low.min() <= observation.min()
    assert observation.max() <= space.high.max()


def check_step(env: BattleshipEnv, game: Game, cell: int) -> bool:
    """Whether the game goes on."""
    reward, words = game.shoot(cell)
    observation, found, terminated, truncated, info = env.step(np.int64(cell))
    assert found == pytest.approx(reward, abs=1e-12)
    assert type(found) is float
    assert (terminated, truncated) == (game.won, game.cut)
    assert type(terminated) is type(truncated) is bool
    masks = {"action_mask"} if env.config.mask_repeats else set()
    assert set(info) == {"hit", "repeated", "sunk_length"} | masks
    assert {name: info[name] for name in words} == words
    assert (type(info["hit"]), type(info["sunk_length"])) == (bool, int)
    check_observation(env, observation, game)
    np.testing.assert_array_equal(env.action_masks(), game.unknown)
    assert env.action_masks().dtype == np.bool_
    if masks:
        assert info["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(info["action_mask"], game.unknown)
    for values, expected in zip(env.simulator.densities(), game.densities(), strict=True):
        np.testing.assert_allclose(values[0], expected, rtol=1e-12)
    return not (terminated or truncated)


def play(env: BattleshipEnv, seed: int, repeats: float) -> None:
    """A game of random shots, some of them at known cells, compared step by step."""
    generator = random.Random(seed)
    observation, info, game = set_up(env, seed)
    check_start(env, observation, info)
    check_observation(env, observation, game)
    going_on = True
    while going_on:
        again = game.shots and generator.random() < repeats
        cells = game.shots if again else np.flatnonzero(game.unknown).tolist()
        going_on = check_step(env, game, generator.choice(cells))


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("name", BOARDS)
def test_like_a_slow_game(name: str, observation: str) -> None:
    number = list(BOARDS).index(name) + OBSERVATIONS.index(observation)
    rest = {"reward": REWARDS[number % 3], "mask_repeats": number % 2 == 0, "repeat_penalty": 0.25}
    env = BattleshipEnv(**{**BOARDS[name], "observation": observation, **rest})
    play(env, seed=number // 2, repeats=0.1 * (number % 3))


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of a small game, whatever they are."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    placement = draw(st.sampled_from(("uniform", "microgrpo")))
    longest = max(rows, columns) if placement == "uniform" else min(rows, columns)
    fleet = draw(st.lists(st.integers(1, longest), min_size=1, max_size=4))
    assume(sum(fleet) <= rows * columns)
    return {
        "board_size": (rows, columns),
        "fleet": tuple(fleet),
        "placement": placement,
        "allow_touch": draw(st.booleans()),
        "announce_sunk": draw(st.booleans()),
        "observation": draw(st.sampled_from(OBSERVATIONS)),
        "reward": draw(st.sampled_from(REWARDS)),
        "hit_bonus": draw(st.sampled_from((0.0, 2.5))),
        "mask_repeats": draw(st.booleans()),
        "repeat_penalty": draw(st.sampled_from((0.0, 0.5, 2.0))),
    }


@settings(max_examples=150)
@given(chosen=rules(), seed=st.integers(0, 1_000), repeats=st.sampled_from((0.0, 0.3, 0.95)))
@example(chosen={"board_size": (1, 1), "fleet": (1,)}, seed=0, repeats=0.0)
def test_like_a_slow_game_under_any_rules(
    chosen: dict[str, Any], seed: int, repeats: float
) -> None:
    assume(random_board(make_config(**chosen), random.Random(seed), 200) is not None)
    play(BattleshipEnv(**chosen), seed, repeats)


def test_games_end_as_they_should() -> None:
    """The last cell may win; who shoots at known cells runs out of shots."""
    env = BattleshipEnv(board_size=(2, 3), fleet=(2, 1), reward="score", mask_repeats=False)
    board = np.array([[1, 1, 0], [0, 0, 2]])
    env.reset(options={"board": board})
    results = [env.step(np.int64(cell))[1:4] for cell in (0, 2, 1, 3, 4, 5)]
    assert results[:5] == [(0.0, False, False)] * 5
    assert results[5] == (1.0 - 3 / 4, True, False)
    env.reset(options={"board": board})
    results = [env.step(np.int64(cell))[1:4] for cell in (0, 0, 1, 3, 4, 3)]
    assert results == [(0.0, False, False), (-1.0, False, False), *[(0.0, False, False)] * 3,
                       (-1.0, False, True)]  # fmt: skip
    env.reset(options={"board": board})
    results = [env.step(np.int64(cell))[1:4] for cell in (5, 0, 1)]
    assert results[-1] == (1.0, True, False)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("score", [0.0, 0.0, -1.0, 0.0, 1.0 - 1 / 18]),
        ("shots", [-1.0, -1.0, -2.0, -1.0, -1.0]),
        ("hits", [1 / 8, -1 / 17, -1.0, 1 / 8, 1 / 8]),
    ],
)
def test_rewards_by_hand(reward: str, expected: list[float]) -> None:
    """A hit, a miss, the miss again, and the last hits; 8 cells of ships, 17 of water."""
    env = BattleshipEnv(
        "uniform-5x5", fleet=(5, 3), reward=reward, mask_repeats=False, announce_sunk=True
    )
    board = np.zeros((5, 5), np.int64)
    board[0], board[2, 1:4] = 1, 2
    env.reset(options={"board": board})
    for cell in (1, 2, 3, 4, 11):
        env.step(np.int64(cell))
    found, sunk = [], []
    for cell in (0, 20, 20, 12, 13):
        _, earned, *_, info = env.step(np.int64(cell))
        found.append(earned)
        sunk.append(info["sunk_length"])
    assert found == pytest.approx(expected)
    assert sunk == [5, 0, 0, 0, 3]


def test_a_perfect_game_of_hits_is_worth_one() -> None:
    env = BattleshipEnv(reward="hits")
    env.reset(seed=0)
    rewards = [env.step(cell)[1] for cell in np.flatnonzero(env.simulator.ship_at[0] >= 0)]
    assert sum(rewards) == pytest.approx(1.0)
    assert len(rewards) == 17


def test_without_announcements_nothing_tells_what_sank() -> None:
    """Two boards with equal hits, on one of which a ship sank and on the other none."""
    settings: dict[str, Any] = {"board_size": (3, 3), "fleet": (3, 2), "announce_sunk": False}
    sinking = np.array([[2, 2, 0], [0, 0, 0], [1, 1, 1]])
    floating = np.array([[1, 1, 1], [0, 0, 0], [2, 2, 0]])
    for observation in OBSERVATIONS:
        results: list[list[Any]] = []
        for board in (sinking, floating):
            env = BattleshipEnv(**settings, observation=observation)
            env.reset(options={"board": board})
            results.append([env.step(np.int64(cell)) for cell in (0, 1)])
            results[-1] += [env.simulator.densities()]
        for left, right in zip(*results, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_equal(a, b)


def test_ships_alike_share_an_image() -> None:
    env = BattleshipEnv(observation="flat")
    env.reset(seed=3)
    ships = ships_of(env.config, env.simulator.ship_at[0])
    seen = [env.simulator.observe()[0, -4:].tolist()]  # lengths 2, 3, 4, 5
    for ship in (2, 4, 3):
        for cell in ships[ship]:
            observation = env.step(np.int64(cell))[0]
        seen.append(observation[-4:].tolist())
    assert seen == [[1, 1, 1, 1], [1, 0.5, 1, 1], [0, 0.5, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("count", [10, 14, 18, 20])
def test_shares_of_many_ships_alike_stay_in_the_space(count: int) -> None:
    env = BattleshipEnv(fleet=(1,) * count)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space


# Setting up boards


@pytest.mark.parametrize("preset", ["microgrpo-5x5", "classic-10x10", "russian-10x10"])
def test_the_board_that_was_asked_for_is_played(preset: str) -> None:
    env, vector = BattleshipEnv(preset), BattleshipVectorEnv(3, preset)
    boards: list[Board] = []
    for seed in range(3):
        board = random_board(env.config, random.Random(seed))
        assert board is not None
        boards.append(board)
    pictures = np.stack([numbered(env.config, board) for board in boards])
    for board, picture in zip(boards, pictures, strict=True):
        env.reset(options={"board": picture})
        assert ships_of(env.config, env.simulator.ship_at[0]) == board
        env.reset(options={"board": picture.tolist()})
        assert ships_of(env.config, env.simulator.ship_at[0]) == board
    vector.reset(seed=0, options={"board": pictures})
    assert [ships_of(env.config, row) for row in vector.simulator.ship_at] == boards
    vector.reset(options={"board": pictures[1]})
    assert [ships_of(env.config, row) for row in vector.simulator.ship_at] == [boards[1]] * 3
    mask = np.array([True, False, True])
    vector.reset(options={"board": pictures[[2, 0]], "reset_mask": mask})
    shown = [ships_of(env.config, row) for row in vector.simulator.ship_at]
    assert shown == [boards[2], boards[1], boards[0]]


def test_layouts_are_numbers_of_the_list_of_boards() -> None:
    env = BattleshipEnv("microgrpo-5x5")
    vector = BattleshipVectorEnv(3, "microgrpo-5x5")
    boards = all_boards(env.config)
    for number in (0, 700, np.int32(1_503)):
        env.reset(options={"layout": number})
        assert ships_of(env.config, env.simulator.ship_at[0]) == boards[number]
    vector.reset(seed=0, options={"layout": [5, 9, 5]})
    shown = [ships_of(env.config, row) for row in vector.simulator.ship_at]
    assert shown == [boards[5], boards[9], boards[5]]
    vector.reset(options={"layout": 7, "reset_mask": np.array([False, True, True])})
    shown = [ships_of(env.config, row) for row in vector.simulator.ship_at]
    assert shown == [boards[5], boards[7], boards[7]]
    vector.reset(options={"layout": [1, 2], "reset_mask": np.array([True, True, False])})
    shown = [ships_of(env.config, row) for row in vector.simulator.ship_at]
    assert shown == [boards[1], boards[2], boards[7]]


def test_a_board_that_is_set_up_stands_for_that_of_its_episode() -> None:
    env, other = BattleshipEnv("uniform-5x5"), BattleshipEnv("uniform-5x5")
    env.reset(seed=3, options={"layout": 0})
    other.reset(seed=3)
    for _ in range(3):
        env.reset()
        other.reset()
        np.testing.assert_array_equal(env.simulator.ship_at, other.simulator.ship_at)


WATER = np.zeros((3, 4), np.int64)
FINE = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [2, 2, 0, 0]])
ILLEGAL: list[tuple[dict[str, Any], str]] = [
    ({"board": WATER}, r"board must have ship 1 in 3 cells in a row.*got the cells \[\]"),
    ({"board": np.where(FINE == 2, 0, FINE)}, "board must have ship 2 in 2 cells"),
    ({"board": np.array([[1, 1, 0, 1], [0] * 4, [2, 2, 0, 0]])}, r"ship 1 .*\[0, 1, 3\]"),
    ({"board": np.array([[0, 0, 1, 1], [1, 0, 0, 0], [2, 2, 0, 0]])}, "ship 1 in 3 cells in a row"),
    ({"board": np.array([[1, 1, 1, 1], [0] * 4, [2, 2, 0, 0]])}, "ship 1 in 3 cells"),
    ({"board": np.array([[1, 1, 1, 0], [0] * 4, [2, 2, 3, 0]])}, "ships 1 to 2, got 0 to 3"),
    ({"board": np.array([[1, 1, 1, 0], [0] * 4, [2, 2, -1, 0]])}, "ships 1 to 2, got -1 to 2"),
    ({"board": np.array([[1, 1, 1, 0], [2, 2, 0, 0], [0] * 4])}, "ship 2 touches another"),
    ({"board": np.array([[1, 1, 1, 0], [0, 0, 0, 2], [0, 0, 0, 2]])}, "ship 2 touches another"),
    ({"board": FINE.astype(float)}, "board must be integers of shape .*got float64"),
    ({"board": FINE > 0}, "board must be integers of shape .*got bool"),
    ({"board": FINE.T}, r"board must be integers of shape \(3, 4\), .*got int64 of shape \(4, 3\)"),
    ({"board": FINE.reshape(-1)}, r"of shape \(12,\)"),
    ({"board": np.stack([FINE] * 3)}, r"of shape \(3, 3, 4\)"),
    ({"board": "full"}, "board must be integers"),
    ({"layout": -1}, "layout must be from 0 to 29, got -1"),
    ({"layout": 30}, "layout must be from 0 to 29, got 30"),
    ({"layout": 1.0}, "layout must be an integer"),
    ({"layout": True}, "layout must be an integer"),
    ({"layout": "1"}, "layout must be an integer"),
    ({"layout": [1, 2, 3]}, "layout must be an integer"),
    ({"layout": 1, "board": FINE}, "either board or layout, got both"),
    ({"bord": FINE}, r"reset has no option 'bord'\. Did you mean 'board'\?"),
]
SMALL: dict[str, Any] = {"board_size": (3, 4), "fleet": (3, 2), "allow_touch": False}


@pytest.mark.parametrize(("options", "message"), ILLEGAL)
def test_illegal_boards_are_refused_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    assert len(all_boards(make_config(**SMALL))) == 30
    env, vector = BattleshipEnv(**SMALL), BattleshipVectorEnv(2, **SMALL)
    for one in (env, vector):
        one.reset(seed=4, options={"board": FINE})
        before = one.simulator.get_state()
        with pytest.raises(ConfigError, match=message) as caught:
            one.reset(seed=5, options=options)
        assert "\n" not in str(caught.value)
        np.testing.assert_equal(one.simulator.get_state(), before)


def test_boards_outside_of_microgrpos_are_refused() -> None:
    board = np.zeros((5, 5), np.int64)
    board[0, :2], board[2, :3], board[4, 1:5] = 1, 2, 3
    BattleshipEnv("uniform-5x5").reset(options={"board": board})
    with pytest.raises(ConfigError, match=r"ship 3 in 4 cells in a row, where it may lie"):
        BattleshipEnv("microgrpo-5x5").reset(options={"board": board})


def test_large_boards_have_no_numbers() -> None:
    with pytest.raises(ConfigError, match=r"too many boards to list .*use a smaller board"):
        BattleshipEnv().reset(options={"layout": 0})


# Settings and actions

NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"preset": "classic"}, r"preset must be .*'classic'.*Did you mean 'classic-10x10'\?"),
    ({"preset": None}, "preset must be a known name, got None"),
    ({"fleets": (2,)}, r"'fleets' is not a setting.*Did you mean 'fleet'\?"),
    ({"board_size": 0}, r"board_size\[0\] must be >= 1, got 0"),
    ({"board_size": (10, 17)}, r"board_size\[1\] must be <= 16, got 17"),
    ({"board_size": (10,)}, "board_size must be a list of 2 values"),
    ({"board_size": True}, "board_size must be a list"),
    ({"allow_touch": 1}, "allow_touch must be true or false, got 1"),
    ({"placement": "random"}, "placement must be one of .*got 'random'"),
    ({"observation": "image"}, "observation must be one of .*got 'image'"),
    ({"reward": "win"}, "reward must be one of .*got 'win'"),
    ({"repeat_penalty": -0.5}, "repeat_penalty must be >= 0, got -0.5"),
    ({"repeat_penalty": float("nan")}, "repeat_penalty must be a finite number, got nan"),
]


@pytest.mark.parametrize(("chosen", "message"), NONSENSE)
def test_nonsense_is_refused(chosen: dict[str, Any], message: str) -> None:
    for make in (
        lambda: gym.make("Battleship-v0", **chosen),
        lambda: BattleshipVectorEnv(2, **chosen),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_presets() -> None:
    assert {name: make_config(name).board_size for name in PRESETS} == {
        "classic-10x10": (10, 10),
        "classic-10x10-density": (10, 10),
        "microgrpo-5x5": (5, 5),
        "uniform-5x5": (5, 5),
        "no-touch-10x10": (10, 10),
        "russian-10x10": (10, 10),
    }
    assert make_config("russian-10x10").fleet == RUSSIAN
    assert make_config("classic-10x10-density") == make_config(observation="planes_density")
    assert make_config().fleet == (5, 4, 3, 3, 2)
    assert not make_config("microgrpo-5x5").announce_sunk
    assert make_config(board_size=8).board_size == (8, 8)
    assert make_config(board_size=np.int64(8)).board_size == (8, 8)


# Gymnasium


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_check_env(preset: str, observation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("Battleship-v0", preset=preset, observation=observation)
        check_env(env.unwrapped)
        env.close()


def test_the_documented_way_to_make_it() -> None:
    env = gym.make("Battleship-v0", board_size=(8, 6), fleet=(3, 2, 2), allow_touch=False)
    assert env.action_space == gym.spaces.Discrete(48)
    assert env.observation_space.shape == (6, 8, 6)
    assert env.spec is not None
    again = gym.make(env.spec).unwrapped
    assert isinstance(again, BattleshipEnv)
    assert again.config == env.unwrapped.config  # type: ignore[attr-defined]
    vector = gym.make_vec("grpo_gym:Battleship-v0", num_envs=3, board_size=8)
    assert isinstance(vector.unwrapped, BattleshipVectorEnv)
    assert vector.observation_space.shape == (3, 8, 8, 8)


@pytest.mark.parametrize(
    ("chosen", "shape"),
    [
        ({}, (8, 10, 10)),
        ({"announce_sunk": False}, (3, 10, 10)),
        ({"observation": "planes_density"}, (10, 10, 10)),
        ({"observation": "planes_density", "announce_sunk": False}, (5, 10, 10)),
        ({"observation": "compact"}, (10, 10)),
        ({"observation": "flat"}, (404,)),
        ({"observation": "flat", "announce_sunk": False}, (300,)),
        ({"preset": "russian-10x10"}, (8, 10, 10)),
        ({"preset": "microgrpo-5x5"}, (5, 5)),
    ],
)
def test_shapes(chosen: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = BattleshipEnv(**chosen)
    assert env.observation_space.shape == env.reset(seed=0)[0].shape == shape
    space: Any = env.observation_space
    assert space.low.min() == (-1.0 if len(shape) == 2 else 0.0)
    assert space.high.max() == 1.0


def test_the_simulator_leaves_finished_and_skipped_games_alone() -> None:
    simulator = BattleshipSimulator(make_config("uniform-5x5", reward="shots"), 3)
    simulator.seed(np.zeros(3, np.uint64))
    simulator.reset()
    for cell in range(25):
        simulator.step(np.full(3, cell), skip=np.array([False, True, False]))
    assert simulator.ends()[0].tolist() == [True, False, True]
    assert simulator.elapsed()[1] == 0
    before = simulator.get_state()
    simulator.step(np.zeros(3, np.int64), skip=np.array([False, True, True]))
    assert simulator.rewards()[0] == 0.0
    for name in ("seen", "left", "layouts"):
        np.testing.assert_array_equal(simulator.get_state()[name], before[name])
    assert simulator.elapsed().tolist() == before["episodes"]["step"].tolist()
