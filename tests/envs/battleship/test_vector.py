"""Boards that are set up in vector environments and in states, and a game won at its limit."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.battleship.env import BattleshipEnv
from native_cases import CASES, NativeCase, assert_same, pair, some_actions

BOARDS = {name: case for name, case in CASES.items() if case.env_id == "Battleship-v0"}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("case", BOARDS.values(), ids=BOARDS)
def test_layouts_like_single_environments(case: NativeCase, mode: AutoresetMode) -> None:
    """They last for a game; the next one is that of the seed again."""
    vector, sync = pair(case, 2, mode)
    layouts = np.array([3, 1])
    vector.reset(seed=[7, 9], options={"layout": layouts})
    for env, seed, layout in zip(sync.envs, (7, 9), layouts, strict=True):
        env.reset(seed=seed, options={"layout": layout})
    sync._autoreset_envs[:] = False
    rng = np.random.default_rng(1)
    ends = 0
    for step in range(70):
        actions = some_actions(vector, rng)
        found, expected = vector.step(actions), sync.step(actions)
        assert_same(found, expected, f"step {step}: ")
        ends += int((found[2] | found[3]).sum())
    assert ends >= 4


@pytest.mark.parametrize("limit", [2, 3])
def test_a_won_game_is_also_cut_by_its_limit(limit: int) -> None:
    """As `gym.make`'s wrapper reports it: both happened."""
    case = NativeCase("Battleship-v0", {"board_size": (1, 3), "fleet": (2,), "reward": "score"})
    vector, sync = pair(case, 1, AutoresetMode.DISABLED, limit)
    for env in (vector, sync):
        env.reset(seed=0)
    first = int(np.flatnonzero(vector.simulator.ship_at[0] >= 0)[0])
    for cell in (first, first + 1):
        found, expected = vector.step(np.array([cell])), sync.step(np.array([cell]))
        assert_same(found, expected)
    assert (found[2].item(), found[3].item()) == (True, limit == 2)


def test_a_state_holds_the_board_that_was_set_up() -> None:
    env, other = BattleshipEnv("microgrpo-5x5"), BattleshipEnv("microgrpo-5x5")
    env.reset(seed=1, options={"layout": 77})
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.simulator.ship_at, env.simulator.ship_at)
    for cell in range(25):
        assert_same(other.step(np.int64(cell)), env.step(np.int64(cell)))
    assert_same(other.reset(), env.reset())
