"""The players: exact and measured results, the same on single and vector environments."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

import grpo_gym  # noqa: F401, registers the environments
from battleship_reference import Board, Game, all_boards, around, numbered, random_board, ships_of
from grpo_gym.envs.battleship.baselines import BASELINES, make_baseline
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.posterior import Posterior
from grpo_gym.envs.battleship.sampling import sample_posterior
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv
from grpo_gym.settings import ConfigError

SMALL: dict[str, dict[str, Any]] = {
    "announced": {"board_size": (3, 4), "fleet": (3, 2)},
    "announced, ships alike": {"board_size": (3, 4), "fleet": (2, 2, 1)},
    "silent": {"board_size": (3, 4), "fleet": (3, 2), "announce_sunk": False},
    "silent, ships alike": {"board_size": (3, 3), "fleet": (2, 2), "announce_sunk": False},
    "no touch": {"board_size": (4, 4), "fleet": (3, 1, 1), "allow_touch": False},
    "silent, no touch": {
        "board_size": (4, 4), "fleet": (2, 2), "allow_touch": False, "announce_sunk": False,
    },
    "microgrpo": {
        "board_size": (4, 4), "fleet": (3, 2), "placement": "microgrpo", "announce_sunk": False,
    },
}  # fmt: skip


def results(
    name: str, num_envs: int, options: dict[str, Any] | None = None, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Shots and returns of a player's games, one in each environment."""
    env = BattleshipVectorEnv(
        num_envs, autoreset_mode="Disabled", observation="compact", **settings
    )
    player = make_baseline(name, env)
    observations, _ = env.reset(seed=0, options=options)
    alive, state = np.ones(num_envs, np.bool_), None
    shots, returns = np.zeros(num_envs), np.zeros(num_envs)
    while alive.any():
        actions, state = player.predict(observations, state)
        assert env.action_masks()[alive, actions[alive]].all(), "no player shoots twice at a cell"
        observations, rewards, terminated, truncated, _ = env.step_alive(actions, alive)
        shots += alive
        returns += rewards
        alive &= ~(terminated | truncated)
    assert env.simulator.ends()[0].all()
    return shots, returns


# Exactly


@pytest.mark.parametrize(
    ("preset", "boards", "shots", "score"),
    [("microgrpo-5x5", 1_504, 13.8285, 0.7160), ("uniform-5x5", 9_024, 15.5522, 0.6146)],
)
def test_the_exact_posterior_on_every_board(
    preset: str, boards: int, shots: float, score: float
) -> None:
    options = {"layout": np.arange(boards)}
    found, scores = results("exact_posterior", boards, options, preset=preset)
    assert found.mean() == pytest.approx(shots, abs=5e-5)
    assert scores.mean() == pytest.approx(score, abs=5e-5)
    np.testing.assert_allclose(scores, 1.0 - (found - 9) / 17)


@pytest.mark.parametrize("preset", ["microgrpo-5x5", "uniform-5x5"])
def test_random_shots_on_small_boards(preset: str) -> None:
    """The last of 9 among 26: 9 * 26 / 10 shots."""
    shots, scores = results("random", 4_000, preset=preset)
    assert abs(shots.mean() - 23.4) < 3 * shots.std() / 4_000**0.5
    assert abs(scores.mean() - 0.1529) < 3 * scores.std() / 4_000**0.5


# Measured elsewhere

ORACLES = [
    ("random", 17 * 101 / 18, 4.81, 17 * 101 / 18),
    ("hunt_target", 66.06, 12.9, 73.98),
    ("parity", 61.10, 8.8, 67.39),
    ("hunt_target_sunk", 54.12, 8.5, 50.66),
    ("probability_density", 44.75, 9.2, 39.08),
]


@pytest.mark.parametrize(("name", "mean", "deviation", "no_touch"), ORACLES)
def test_shots_on_the_classic_board(
    name: str, mean: float, deviation: float, no_touch: float
) -> None:
    games = 1_200
    for preset, expected in (("classic-10x10", mean), ("no-touch-10x10", no_touch)):
        shots, returns = results(name, games, preset=preset)
        assert abs(shots.mean() - expected) < 3 * shots.std() / games**0.5, preset
        np.testing.assert_array_equal(returns, -shots)
        if preset == "classic-10x10":
            assert shots.std() == pytest.approx(deviation, rel=0.08)


def test_the_sampled_posterior_plays_nearly_as_well_as_the_exact_one() -> None:
    """On equal boards; 300 samples see differences of some hundredths."""
    games = 400
    (sampled, _), (exact, _), (density, _) = (
        results(name, games, preset="microgrpo-5x5")
        for name in ("monte_carlo_posterior", "exact_posterior", "probability_density")
    )
    assert abs((sampled - exact).mean()) < 0.5
    assert stats.ttest_rel(sampled, density, alternative="less").pvalue < 1e-6


# The posterior


def mid_games(name: str, count: int) -> tuple[BattleshipVectorEnv, list[Game], list[Board]]:
    """Games after some random shots, the i-th after i of them; shots at ships are favoured."""
    env = BattleshipVectorEnv(count, autoreset_mode="Disabled", **SMALL[name])
    boards = all_boards(env.config)
    generator = random.Random(1)
    games = [Game(env.config, generator.choice(boards)) for _ in range(count)]
    env.reset(seed=0, options={"board": np.stack([numbered(env.config, g.board) for g in games])})
    for shot in range(count - 1):
        actions, alive = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        for b, game in enumerate(games):
            alive[b] = not game.won and shot < b
            if alive[b]:
                good = sorted(game.ship_cells - game.hits) if generator.random() < 0.4 else None
                actions[b] = generator.choice(good or np.flatnonzero(game.unknown).tolist())
                game.shoot(int(actions[b]))
        env.step_alive(actions, alive)
    return env, games, boards


@pytest.mark.parametrize("name", SMALL)
def test_exact_shares_are_those_over_all_boards_that_answer_alike(name: str) -> None:
    env, games, boards = mid_games(name, 12)
    shares = Posterior(env.simulator).shares()
    expected = np.array([game.posterior(boards) for game in games])
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    unknown = env.action_masks()
    assert ((shares > 0.0) & (shares < 1.0))[unknown].mean() > 0.4, "much is still open"
    actions, _ = make_baseline("exact_posterior", env).predict(env.observe())
    best = np.where(unknown, expected, -1.0)
    for action, row in zip(actions, best, strict=True):
        assert action == np.flatnonzero(row > row.max() - 1e-12)[0], "the first of the best"


def absolute(sampled: np.ndarray, games: Sequence[Game]) -> np.ndarray:
    """Relative numbers as shares: unknown cells hold as many ship cells as were not hit."""
    left = np.array([len(game.ship_cells) - len(game.hits) for game in games])
    totals = sampled.sum(axis=1)
    return sampled * (left / np.where(totals > 0.0, totals, 1.0))[:, None]


@pytest.mark.parametrize("name", SMALL)
def test_sampled_shares_agree_with_the_exact_ones(name: str) -> None:
    """A moment of a game in 40 environments of other seeds, so that samples differ."""
    copies = 40
    env, games, boards = mid_games(name, 10)
    many = BattleshipVectorEnv(copies, autoreset_mode="Disabled", **SMALL[name])
    for b, game in enumerate(games):
        if game.won:
            continue
        state = {key: np.repeat(rows[[b]], copies, axis=0) for key, rows in env.get_state().items()}
        state["episodes"]["base_seed"] = np.arange(copies)
        many.set_state(state)
        sampled = absolute(sample_posterior(many.simulator, np.uint64(3)), [game] * copies)
        expected = np.where(game.unknown, game.posterior(boards), 0.0)
        error = np.maximum(sampled.std(axis=0) / copies**0.5, 1e-9)
        # Ratios of means are off by the order of 1 / 300 samples, beside the error of sampling.
        assert (abs(sampled.mean(axis=0) - expected) < 4 * error + 0.004).all(), (b, game)
        assert (sampled[:, (expected == 0.0)] == 0.0).all(), "no board has a ship there"
    assert sampled.std(axis=0).max() < 0.1


def test_sampled_shares_are_shares() -> None:
    env, games, boards = mid_games("announced", 4)
    sampled = sample_posterior(env.simulator, np.uint64(3))[0]
    np.testing.assert_allclose(sampled, games[0].posterior(boards), atol=0.1)


def test_sampling_depends_on_seed_game_and_shot_alone() -> None:
    env = BattleshipVectorEnv(3, autoreset_mode="Disabled")
    env.reset(seed=[4, 5, 4])
    first = sample_posterior(env.simulator, np.uint64(0))
    np.testing.assert_array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, sample_posterior(env.simulator, np.uint64(1)))
    np.testing.assert_array_equal(first, sample_posterior(env.simulator, np.uint64(0)))
    alone = BattleshipEnv()
    alone.reset(seed=5)
    np.testing.assert_array_equal(sample_posterior(alone.simulator, np.uint64(0))[0], first[1])


# What players do, by hand


def at(board: Sequence[Sequence[int]], copies: int, **settings: Any) -> BattleshipVectorEnv:
    picture = np.array(board)
    fleet = tuple(int((picture == ship).sum()) for ship in range(1, picture.max() + 1))
    env = BattleshipVectorEnv(
        copies, board_size=picture.shape, fleet=fleet, autoreset_mode="Disabled", **settings
    )
    env.reset(seed=0, options={"board": picture})
    return env


def shoot(env: BattleshipVectorEnv, player: Any, cells: Sequence[int]) -> Any:
    """The same shots in all environments, while the player looks on."""
    state = None
    for cell in cells:
        _, state = player.predict(env.observe(), state)
        env.step(np.full(env.num_envs, cell))
    return state


LINE = [[1, 1, 1, 0, 0], [0] * 5, [0, 0, 2, 2, 0], [0] * 5, [0] * 5]


@pytest.mark.parametrize("name", ["hunt_target", "parity", "hunt_target_sunk"])
def test_hits_are_followed_up_beside_them(name: str) -> None:
    env = at(LINE, 500)
    player = make_baseline(name, env)
    state = shoot(env, player, [24])
    actions, state = player.predict(env.observe(), state)
    hunted = np.bincount(actions, minlength=25)
    assert hunted[24] == 0
    assert ((hunted > 0) == (np.arange(25) % (1 if name == "hunt_target" else 2) == 0))[:24].all()
    env.step(np.full(500, 1))
    actions, state = player.predict(env.observe(), state)
    assert set(actions.tolist()) <= {0, 2, 6}, "beside the hit"
    env.step(np.full(500, 13))
    actions, state = player.predict(env.observe(), state)
    assert set(actions.tolist()) <= {8, 12, 14, 18}, "the latest hit first"
    env.step(np.full(500, 12))  # sinks the ship of two
    actions, _ = player.predict(env.observe(), state)
    allowed = {0, 2, 6} if name == "hunt_target_sunk" else {7, 11, 17}
    assert set(actions.tolist()) <= allowed


def test_sunk_ships_are_left_alone_and_so_is_what_is_beside_them() -> None:
    cells = [0, 1, 2]
    for allow_touch in (True, False):
        env = at(LINE, 2_000, allow_touch=allow_touch)
        player = make_baseline("hunt_target_sunk", env)
        actions, _ = player.predict(env.observe(), shoot(env, player, cells))
        beside = around((5, 5), frozenset(cells)) - frozenset(cells)
        even = {cell for cell in range(4, 25, 2)}
        assert set(actions.tolist()) == (even if allow_touch else even - beside)


def test_density_takes_a_cell_of_highest_count() -> None:
    env = at(LINE, 300)
    player = make_baseline("probability_density", env)
    game = Game(env.config, ships_of(env.config, env.simulator.ship_at[0]))
    for cell in (12, 6, 1, 13, 2):
        game.shoot(cell)
        env.step(np.full(300, cell))
        counts, _, weights = game.densities()
        values = weights if weights.any() else counts
        actions, _ = player.predict(env.observe())
        assert set(actions.tolist()) == set(np.flatnonzero(values == values.max()).tolist())


def test_random_shots_are_uniform_over_unknown_cells() -> None:
    env = at(LINE, 5_000)
    player = make_baseline("random", env)
    env.step(np.full(5_000, 3))
    counts = np.bincount(player.predict(env.observe())[0], minlength=25)
    assert counts[3] == 0
    assert stats.chisquare(np.delete(counts, 3)).pvalue > 1e-3


# Memory, and what is hidden


@pytest.mark.parametrize("name", ["hunt_target", "hunt_target_sunk"])
def test_a_new_game_forgets_the_targets_of_the_last(name: str) -> None:
    env = at(LINE, 200)
    player = make_baseline(name, env)
    state = shoot(env, player, [0])
    env.reset(options={"board": np.array(LINE)})
    _, state = player.predict(env.observe(), state, np.ones(200, np.bool_))
    env.step(np.full(200, 24))
    actions, _ = player.predict(env.observe(), state, np.zeros(200, np.bool_))
    fresh, _ = make_baseline(name, env).predict(env.observe())
    np.testing.assert_array_equal(actions, fresh)
    assert len(np.unique(actions)) > 5


def test_players_do_not_look_at_what_is_hidden() -> None:
    """On another board that was answered alike so far, they would do the same."""
    for name, settings in SMALL.items():
        env, games, boards = mid_games(name, 6)
        game = games[5]
        others = [board for board in boards if game.answers_like(board)]
        hidden = random.Random(2).sample(others, min(6, len(others)))
        assert len(others) > 1
        alike = BattleshipVectorEnv(len(hidden), autoreset_mode="Disabled", **settings)
        pictures = np.stack([numbered(env.config, board) for board in hidden])
        alike.reset(seed=[8] * len(hidden), options={"board": pictures})
        for cell in game.shots:
            alike.step(np.full(len(hidden), cell))
        for player in BASELINES:
            actions, _ = make_baseline(player, alike).predict(alike.observe())
            assert len(set(actions.tolist())) == 1, (name, player)


def test_too_many_boards_to_list() -> None:
    with pytest.raises(ConfigError, match="too many boards to list"):
        make_baseline("exact_posterior", BattleshipEnv())


def test_random_board_of_the_reference_suits_the_environment() -> None:
    """The boards that tests set up are legal ones."""
    for settings in SMALL.values():
        env = BattleshipEnv(**settings)
        board = random_board(env.config, random.Random(0))
        assert board is not None
        env.reset(options={"board": numbered(env.config, board)})
        assert ships_of(env.config, env.simulator.ship_at[0]) == board
