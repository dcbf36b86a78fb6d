"""The vector environment against single ones under Gymnasium's own SyncVectorEnv."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv
from grpo_gym.settings import ConfigError

SETTINGS: dict[str, dict[str, Any]] = {
    "microgrpo": {"preset": "microgrpo-5x5"},
    "announced": {"board_size": (3, 4), "fleet": (3, 2), "repeat_penalty": 0.5},
    "no masks": {"board_size": 3, "fleet": (2, 2), "mask_repeats": False, "reward": "score"},
    "no touch": {
        "board_size": (4, 5), "fleet": (2, 2, 1), "allow_touch": False, "reward": "hits",
        "observation": "planes_density",
    },
    "flat": {"board_size": (2, 6), "fleet": (4, 3), "observation": "flat"},
}  # fmt: skip
STEP_NAMES = ("hit", "repeated", "sunk_length")


def make_single(settings: dict[str, Any], max_episode_steps: int | None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = BattleshipEnv(**settings)
    return gym.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


def pair(
    num_envs: int, mode: AutoresetMode, max_episode_steps: int | None = None, **settings: Any
) -> tuple[BattleshipVectorEnv, SyncVectorEnv]:
    vector = BattleshipVectorEnv(
        num_envs, autoreset_mode=mode, max_episode_steps=max_episode_steps, **settings
    )
    makers = [lambda: make_single(settings, max_episode_steps)] * num_envs
    return vector, SyncVectorEnv(makers, autoreset_mode=mode)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal values, kinds and masks; infos only where their mask says that they are there."""
    if isinstance(expected, tuple):
        for index, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
        return
    if isinstance(expected, dict):
        assert set(expected) <= set(found), where
        for name in set(found) - set(expected):  # said of no environment
            assert not found[f"_{name.removeprefix('_')}"].any(), f"{where}/{name}"
        for name in expected:
            mask = expected.get(f"_{name}")
            if mask is None:
                assert_same(found[name], expected[name], f"{where}/{name}")
            else:
                assert_masked(found[name], expected[name], mask, f"{where}/{name}")
        return
    assert np.asarray(found).dtype == np.asarray(expected).dtype, where
    np.testing.assert_array_equal(found, expected, err_msg=where)


def assert_masked(found: Any, expected: Any, mask: np.ndarray, where: str) -> None:
    if isinstance(expected, dict):
        assert_same(found, expected, where)
        return
    assert found.dtype.kind == expected.dtype.kind, where
    assert found.shape == expected.shape, where
    for b in np.flatnonzero(mask):
        np.testing.assert_array_equal(found[b], expected[b], err_msg=f"{where}[{b}]")
    for b in np.flatnonzero(~mask) if found.dtype == object else ():
        assert found[b] is None, where


def shots(env: BattleshipVectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Random cells, mostly such as were not shot at."""
    fresh = np.where(env.action_masks(), rng.random((env.num_envs, env.config.cells)), -1.0)
    anywhere = rng.integers(0, env.config.cells, env.num_envs)
    return np.where(rng.random(env.num_envs) < 0.1, anywhere, fresh.argmax(axis=1))


@pytest.mark.parametrize("limit", [None, 5, 11])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", SETTINGS)
def test_like_single_environments(name: str, mode: AutoresetMode, limit: int | None) -> None:
    vector, sync = pair(3, mode, limit, **SETTINGS[name])
    assert vector.metadata["autoreset_mode"] is mode
    assert vector.single_observation_space == sync.single_observation_space
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert_same(vector.reset(seed=40), sync.reset(seed=40))
    rng = np.random.default_rng(0)
    terminations = truncations = 0
    for step in range(110):
        if step == 50:  # a reset by hand, while others are in mid-game
            assert_same(vector.reset(), sync.reset())
        if step == 75:
            assert_same(vector.reset(seed=[3, None, 8]), sync.reset(seed=[3, None, 8]))
        actions = shots(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        terminations += int(found[2].sum())
        truncations += int(found[3].sum())
    assert terminations + truncations >= 6
    assert limit is not None or terminations >= 4
    assert limit != 5 or truncations >= 4


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("name", SETTINGS)
def test_disabled_autoreset_with_masks(name: str, limit: int | None) -> None:
    vector, sync = pair(4, AutoresetMode.DISABLED, limit, **SETTINGS[name])
    assert_same(vector.reset(seed=1), sync.reset(seed=1))
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(90):
        actions = shots(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        mask = found[2] | found[3]
        ends += int(mask.sum())
        if mask.any() or rng.random() < 0.1:
            mask |= rng.random(4) < 0.3
            mask[rng.integers(4)] = True
            seed = [None, 5, int(rng.integers(9)), None] if rng.random() < 0.5 else None
            found_reset = vector.reset(seed=seed, options={"reset_mask": mask.copy()})
            expected_reset = sync.reset(seed=seed, options={"reset_mask": mask.copy()})
            assert_same(found_reset, expected_reset, f"reset after {step}: ")
    assert ends >= 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_infos_have_the_types_of_single_environments(mode: AutoresetMode) -> None:
    vector, sync = pair(2, mode, **SETTINGS["announced"])
    vector.reset(seed=0)
    sync.reset(seed=0)
    found, expected = vector.step(np.zeros(2, np.int64))[4], sync.step(np.zeros(2, np.int64))[4]
    assert {name: values.dtype for name, values in found.items()} == {
        name: values.dtype for name, values in expected.items()
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_boards_and_layouts_like_single_environments(name: str) -> None:
    """They last for a game; the next one is that of the seed again."""
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        vector, sync = pair(2, mode, **SETTINGS[name])
        layouts = np.array([3, 1])
        vector.reset(seed=[7, 9], options={"layout": layouts})
        for env, seed, layout in zip(sync.envs, (7, 9), layouts, strict=True):
            env.reset(seed=seed, options={"layout": layout})
        sync._autoreset_envs[:] = False
        rng = np.random.default_rng(1)
        ends = 0
        for step in range(70):
            actions = shots(vector, rng)
            found, expected = vector.step(actions), sync.step(actions)
            assert_same(found, expected, f"step {step}: ")
            ends += int((found[2] | found[3]).sum())
        assert ends >= 4


def test_step_alive_leaves_the_others_as_they_are() -> None:
    env = BattleshipVectorEnv(4, "microgrpo-5x5", reward="shots", autoreset_mode="Disabled")
    twins = [BattleshipEnv("microgrpo-5x5", reward="shots") for _ in range(4)]
    env.reset(seed=5)
    shown = np.stack([twin.reset(seed=5 + b)[0] for b, twin in enumerate(twins)])
    rng = np.random.default_rng(0)
    over = np.zeros(4, np.bool_)
    ended_at: list[int] = []
    while not over.all():
        alive = ~over & (rng.random(4) < 0.6)
        actions = shots(env, rng)
        observations, rewards, terminated, truncated, infos = env.step_alive(actions, alive)
        for b, twin in enumerate(twins):
            expected: tuple[Any, ...] = (shown[b], 0.0, False, False, {})
            if alive[b]:
                expected = twin.step(actions[b])
            shown[b] = expected[0]
            np.testing.assert_array_equal(observations[b], expected[0])
            assert (rewards[b], terminated[b], truncated[b]) == expected[1:4]
            for name in STEP_NAMES:
                assert infos[f"_{name}"][b] == alive[b]
                assert not alive[b] or infos[name][b] == expected[4][name]
            np.testing.assert_array_equal(infos["action_mask"][b], twin.action_masks())
        over |= terminated | truncated
        ended_at.append(int(over.sum()))
    assert len(set(ended_at)) > 2, "games are to end one after the other"


def test_step_alive_is_strict() -> None:
    env = BattleshipVectorEnv(2, board_size=(1, 2), fleet=(1,), autoreset_mode="Disabled")
    env.reset(seed=0, options={"layout": [0, 1]})
    assert env.step_alive(np.zeros(2, np.int64), np.ones(2, np.bool_))[2].tolist() == [True, False]
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        env.step_alive(np.zeros(2, np.int64), np.ones(2, np.bool_))
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        env.step(np.zeros(2, np.int64))
    for alive in (np.ones(3, np.bool_), np.ones(2), [1, 0]):
        with pytest.raises(ConfigError, match=r"alive must be bool of shape \(2,\)"):
            env.step_alive(np.zeros(2, np.int64), np.asarray(alive))
    env.reset(options={"reset_mask": np.array([True, False]), "layout": 1})
    env.step_alive(np.zeros(2, np.int64), np.array([True, False]))
    assert env.step_alive(np.ones(2, np.int64), np.ones(2, np.bool_))[2].all()
    automatic = BattleshipVectorEnv(2, "microgrpo-5x5")
    automatic.reset(seed=0)
    with pytest.raises(ConfigError, match="autoreset_mode must be DISABLED for step_alive"):
        automatic.step_alive(np.zeros(2, np.int64), np.ones(2, np.bool_))


@pytest.mark.parametrize(
    "actions", [[0, 25], [-1, 0], [0], [0, 1, 2], 0, [[0, 1]], [0.0, 1.0], ["0", "1"], [None, 0]]
)
def test_wrong_actions(actions: Any) -> None:
    env = BattleshipVectorEnv(2, "microgrpo-5x5")
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match="actions must be"):
        env.step(np.array(actions))
    assert env.simulator.elapsed().tolist() == [0, 0]


def test_no_step_before_a_reset() -> None:
    env = BattleshipVectorEnv(3, "microgrpo-5x5")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int64))
    env.reset(seed=1, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int64))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.zeros(3, np.int64))


def test_make_vec_with_a_limit_of_steps() -> None:
    env = gym.make_vec("Battleship-v0", num_envs=3, max_episode_steps=5)
    assert isinstance(env.unwrapped, BattleshipVectorEnv)
    env.reset(seed=0)
    truncated = [env.step(np.full(3, step))[3].all() for step in range(12)]
    assert [step for step, end in enumerate(truncated, 1) if end] == [5, 11]
    unlimited = gym.make_vec("Battleship-v0", num_envs=3, max_episode_steps=-1)
    assert getattr(unlimited.unwrapped, "max_episode_steps") is None  # noqa: B009
    sync = gym.make_vec("Battleship-v0", num_envs=2, vectorization_mode="sync")
    native = gym.make_vec("Battleship-v0", num_envs=2)
    assert_same(native.reset(seed=4), sync.reset(seed=4))


def test_a_won_game_is_also_cut_by_its_limit() -> None:
    """As `gym.make`'s wrapper says: both happened."""
    for limit in (2, 3):
        vector, sync = pair(
            1, AutoresetMode.DISABLED, limit, board_size=(1, 3), fleet=(2,), reward="score"
        )
        for env in (vector, sync):
            env.reset(seed=0)
        first = int(np.flatnonzero(vector.simulator.ship_at[0] >= 0)[0])
        for cell in (first, first + 1):
            found, expected = vector.step(np.array([cell])), sync.step(np.array([cell]))
            assert_same(found, expected)
        assert (found[2].item(), found[3].item()) == (True, limit == 2)


def test_gymnasium_wrappers_work() -> None:
    env = gym.make_vec("Battleship-v0", num_envs=2, board_size=(2, 3), fleet=(1, 1))
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0, options={"board": np.array([[1, 0, 0], [0, 0, 2]])})
    returns = np.zeros(2)
    for cell in range(6):
        _, rewards, _, _, infos = wrapped.step(np.full(2, cell))
        returns += rewards
    np.testing.assert_allclose(infos["episode"]["r"], returns)
    assert infos["episode"]["l"].tolist() == [6, 6]


def test_async_vector_env() -> None:
    env = AsyncVectorEnv([lambda: BattleshipEnv("microgrpo-5x5")] * 2)
    try:
        native = BattleshipVectorEnv(2, "microgrpo-5x5")
        np.testing.assert_array_equal(env.reset(seed=7)[0], native.reset(seed=7)[0])
        for step in range(40):
            actions = np.array([step % 25, (3 * step) % 25])
            for left, right in zip(env.step(actions)[:4], native.step(actions)[:4], strict=True):
                np.testing.assert_array_equal(left, right)
    finally:
        env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_nothing_returned_is_used_again(mode: AutoresetMode) -> None:
    env = BattleshipVectorEnv(3, board_size=(2, 4), fleet=(2, 1), autoreset_mode=mode)
    observations, infos = env.reset(seed=0)
    kept, copies = [[observations, infos["action_mask"]]], []
    copies.append([array.copy() for array in kept[0]])
    for step in range(24):
        if mode is AutoresetMode.DISABLED and env._finished.any():
            env.reset(options={"reset_mask": env._finished.copy()})
        observations, rewards, terminated, truncated, infos = env.step(np.full(3, step % 8))
        arrays = [observations, rewards, terminated, truncated]
        arrays += [value for value in infos.values() if isinstance(value, np.ndarray)]
        kept.append(arrays)
        copies.append([array.copy() for array in arrays])
        assert len({id(array) for array in arrays}) == len(arrays)
    for left, right in zip(kept, copies, strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.dtype == object or np.array_equal(a, b)


def test_unseeded_members_have_boards_of_their_own() -> None:
    env = BattleshipVectorEnv(4)
    env.reset(seed=[None, 4, None, 4])
    boards = [row.tobytes() for row in env.simulator.ship_at]
    assert len(set(boards)) == 3
    assert boards[1] == boards[3]


def test_a_group_of_equal_seeds_keeps_equal_boards() -> None:
    """Whatever its members do, game after game: as many games make the next boards equal."""
    env = BattleshipVectorEnv(4, "microgrpo-5x5", autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=[9, 9, 9, 9])
    rng = np.random.default_rng(1)
    boards, lengths = set(), set()
    for _ in range(5):
        assert np.ptp(env.simulator.ship_at, axis=0).max() == 0
        boards.add(env.simulator.ship_at[0].tobytes())
        over = np.zeros(4, np.bool_)
        while not over.all():
            _, _, terminated, truncated, _ = env.step_alive(shots(env, rng), ~over)
            over |= terminated | truncated
        lengths |= set(env.simulator.elapsed().tolist())
        env.reset()
    assert len(boards) == 5
    assert len(lengths) > 1
