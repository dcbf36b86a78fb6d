"""get_state, set_state and copy_members go on exactly; GRPO learns with them and without."""

import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from grpo_gym import GRPO
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv

VARIANTS: dict[str, dict[str, Any]] = {
    "announced": {"board_size": (3, 5), "fleet": (3, 2, 1), "observation": "planes_density"},
    "microgrpo": {"preset": "microgrpo-5x5", "reward": "hits"},
    "no touch": {"board_size": (4, 5), "fleet": (2, 2, 1), "allow_touch": False},
    "no masks": {"board_size": 4, "fleet": (3, 2), "mask_repeats": False, "observation": "flat"},
}


def single(variant: str) -> BattleshipEnv:
    return BattleshipEnv(**VARIANTS[variant])


def go_on(env: BattleshipEnv, steps: int, seed: int = 0) -> list[Any]:
    """A record of steps and of the resets at games' ends."""
    rng = np.random.default_rng(seed)
    record: list[Any] = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(
            rng.integers(env.config.cells)  # with repeats, some of the games are cut
        )
        record += [observation, reward, terminated, truncated, *info.values()]
        if terminated or truncated:
            observation, info = env.reset()
            record += [observation, *info.values(), env.simulator.ship_at.copy()]
    return record


def assert_same(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_goes_on_exactly(variant: str) -> None:
    env = single(variant)
    env.reset(seed=4)
    go_on(env, 60)
    state = pickle.loads(pickle.dumps(env.get_state()))
    observation = env.simulator.observe()[0]
    expected = go_on(env, 90, seed=1)
    # Back in the same object, in one that has seen other things, and in one never reset.
    used = single(variant)
    used.reset(seed=99)
    go_on(used, 5)
    for other in (env, used, single(variant)):
        np.testing.assert_array_equal(other.set_state(state), observation)
        assert_same(go_on(other, 90, seed=1), expected)


def test_a_state_is_a_copy() -> None:
    env = single("announced")
    env.reset(seed=4)
    state = env.get_state()
    before = pickle.dumps(state)
    go_on(env, 40)
    env.set_state(state)
    go_on(env, 40)
    assert pickle.dumps(state) == before


def test_a_state_holds_the_board_that_was_set_up() -> None:
    env, other = single("microgrpo"), single("microgrpo")
    env.reset(seed=1, options={"layout": 77})
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.simulator.ship_at, env.simulator.ship_at)
    assert_same(go_on(other, 60), go_on(env, 60))


def step_all(env: BattleshipVectorEnv, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    record: list[Any] = []
    for _ in range(steps):
        actions = rng.integers(0, env.config.cells, env.num_envs)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        record += [observations, rewards, terminated, truncated, infos["hit"]]
    return record


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vector_goes_on_exactly(variant: str, mode: AutoresetMode) -> None:
    settings = {"autoreset_mode": mode, **VARIANTS[variant]}
    env = BattleshipVectorEnv(5, **settings)
    env.reset(seed=[3, 1, 3, 1, 2])
    used = BattleshipVectorEnv(5, **settings)
    used.reset(seed=50)
    step_all(used, 7)
    # At games' ends (NEXT_STEP is about to reset) as well as in the middle of one.
    for steps in (env.config.cells, 4, 40):
        step_all(env, steps)
        state = env.get_state()
        expected = step_all(env, 60, seed=1)
        for other in (env, used, BattleshipVectorEnv(5, **settings)):
            other.set_state(state)
            assert_same(step_all(other, 60, seed=1), expected)


def test_states_move_between_single_and_vector() -> None:
    env = single("announced")
    vector = BattleshipVectorEnv(3, **VARIANTS["announced"])
    vector.reset(seed=7)
    step_all(vector, 6)
    state = vector.get_state(np.array([2]))
    np.testing.assert_array_equal(env.set_state(state), vector.observe()[2])
    for cell in (0, 3, 8):
        found, expected = env.step(np.int64(cell)), vector.step(np.full(3, cell))
        np.testing.assert_array_equal(found[0], expected[0][2])
        assert found[1] == expected[1][2]


def test_copies_live_on_when_their_source_is_reset() -> None:
    env = BattleshipVectorEnv(4, autoreset_mode=AutoresetMode.DISABLED, **VARIANTS["announced"])
    env.reset(seed=0)
    step_all(env, 3)
    env.copy_members(np.array([0, 0]), np.array([1, 3]))
    np.testing.assert_array_equal(env.observe()[[1, 3]], env.observe()[[0, 0]])
    twin = single("announced")
    twin.set_state(env.get_state(np.array([0])))
    env.reset(seed=[8, None, 9, None], options={"reset_mask": np.array([True, False, True, False])})
    for cell in range(5):
        observations, rewards, *_ = env.step(np.array([0, cell, 0, cell]))
        observation, reward, *_ = twin.step(np.int64(cell))
        np.testing.assert_array_equal(observations[[1, 3]], [observation] * 2)
        assert rewards[[1, 3]].tolist() == [reward] * 2
    # What they reset to is the next board of the copied seed.
    env.reset(options={"reset_mask": np.array([False, True, False, True])})
    twin.reset()
    np.testing.assert_array_equal(
        env.simulator.ship_at[[1, 3]], twin.simulator.ship_at.repeat(2, axis=0)
    )


def test_copying_in_a_circle() -> None:
    env = BattleshipVectorEnv(3, **VARIANTS["microgrpo"])
    env.reset(seed=3)
    step_all(env, 5)
    before = env.get_state()
    env.copy_members(np.array([0, 1, 2]), np.array([1, 2, 0]))
    after = env.get_state()
    for name in before:
        np.testing.assert_array_equal(after[name][[1, 2, 0]], before[name])


@pytest.mark.parametrize("seed", range(8))
def test_any_interleaving_equals_separate_environments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    variant = list(VARIANTS)[seed % len(VARIANTS)]
    count = int(rng.integers(2, 7))
    env = BattleshipVectorEnv(count, autoreset_mode=AutoresetMode.DISABLED, **VARIANTS[variant])
    twins = [single(variant) for _ in range(count)]
    done = np.zeros(count, bool)
    saved: list[tuple[dict[str, np.ndarray], list[Any], np.ndarray]] = []

    def some() -> np.ndarray:
        return rng.permutation(count)[: rng.integers(1, count + 1)]

    def reset(members: np.ndarray, seeds: list[int | None] | None) -> None:
        mask = np.zeros(count, bool)
        mask[members] = True
        env.reset(seed=seeds, options={"reset_mask": mask})
        for b in members:
            twins[b].reset(seed=None if seeds is None else seeds[b])
        done[members] = False

    reset(np.arange(count), rng.integers(0, 3, count).tolist())
    for _ in range(250):
        choice = rng.integers(12)
        if choice == 0:
            reset(some(), None)
        elif choice == 1:
            reset(
                some(), [None if rng.random() < 0.2 else int(s) for s in rng.integers(0, 3, count)]
            )
        elif choice == 2:
            source, target = rng.integers(0, count, 2)
            targets = np.array([target]) if rng.random() < 0.5 else some()
            sources = np.full(len(targets), source)
            env.copy_members(sources, targets)
            state = twins[source].get_state()
            for b in targets:
                twins[b].set_state(state)
            done[targets] = done[source]
        elif choice == 3:
            members = some()
            states = [twins[b].get_state() for b in members]
            saved.append((env.get_state(members), states, done[members]))
        elif choice == 4 and saved:
            whole, states, ended = saved[rng.integers(len(saved))]
            members = rng.permutation(count)[: len(states)]
            env.set_state(whole, members)
            for b, state in zip(members, states, strict=True):
                twins[b].set_state(state)
            done[members] = ended
        else:
            if done.any():
                reset(np.flatnonzero(done), None)
            actions = rng.integers(0, env.config.cells, count)
            _, rewards, terminated, truncated, _ = env.step(actions)
            done = terminated | truncated
            results = [twin.step(action) for twin, action in zip(twins, actions, strict=True)]
            assert rewards.tolist() == [result[1] for result in results]
            assert done.tolist() == [result[2] or result[3] for result in results]
        expected = [twin.simulator.observe()[0] for twin in twins]
        np.testing.assert_array_equal(env.observe(), expected)
        boards = [twin.simulator.ship_at[0] for twin in twins]
        np.testing.assert_array_equal(env.simulator.ship_at, boards)


def test_wrong_states_are_refused() -> None:
    env = single("announced")
    env.reset(seed=0)
    state = env.get_state()
    before = env.simulator.observe()
    larger = BattleshipEnv(board_size=(4, 5), fleet=(3, 2, 1))
    fewer = BattleshipEnv(board_size=(3, 5), fleet=(3, 2))
    vector = BattleshipVectorEnv(2, **VARIANTS["announced"])
    vector.reset(seed=0)
    bad: list[Any] = [
        {},
        None,
        [1, 2],
        {**state, "seen": None},
        {**state, "seen": state["seen"].tolist()},
        {**state, "seen": state["seen"].astype(np.int64)},
        {name: value for name, value in state.items() if name != "layouts"},
        larger.get_state(),
        fewer.get_state(),
        vector.get_state(),
    ]
    for one in bad:
        with pytest.raises(ValueError, match=r"state\['\w+'\] must be an array of shape"):
            env.set_state(one)
    np.testing.assert_array_equal(env.simulator.observe(), before)
    with pytest.raises(ValueError, match="shape"):
        vector.set_state(vector.get_state(np.array([0])))


def test_the_vector_environment_knows_who_is_finished() -> None:
    env = BattleshipVectorEnv(3, board_size=(1, 2), fleet=(1,), autoreset_mode="Disabled")
    env.reset(seed=0, options={"layout": 0})
    start = env.get_state(np.array([0]))
    env.step(np.zeros(3, np.int64))
    env.set_state(start, np.array([0]))
    env.copy_members(np.array([0]), np.array([1]))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int64))
    env.copy_members(np.array([1]), np.array([2]))
    env.step(np.zeros(3, np.int64))


# In training

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}


@pytest.mark.parametrize("policy", ["mlp", "board"])
@pytest.mark.parametrize("preset", ["default", "vine"])
def test_two_iterations(preset: str, policy: Any) -> None:
    branching = {"branch_every": 6, "branch_lookahead": 4} if preset == "vine" else {}
    model = GRPO(
        policy, "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5", "reward": "hits"},
        preset=preset, channels=4, blocks=1, **SMALL, **branching,
    )  # fmt: skip
    digests = {model.weights_sha256()}
    for _ in range(2):
        stats = model.train_iteration()
        assert stats.update is not None
        values = [stats.update.loss, stats.update.kl, stats.update.gradient_norm]
        assert all(map(math.isfinite, values))
        assert stats.rollout["repeated"] == 0.0, "masks forbid known cells, in branches too"
        assert 9 <= stats.rollout["length_mean"] <= 25
        digests.add(model.weights_sha256())
    assert len(digests) == 3


def test_branches_go_on_from_one_moment_on_one_board() -> None:
    """Step t of a branch has t shots more than its start, which all members share."""
    model = GRPO(
        "mlp", "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5"}, preset="vine",
        branch_every=4, drop_uniform_groups=False, **SMALL,
    )  # fmt: skip
    rollout = model._collect()
    steps, groups, _ = rollout.alive.shape
    assert steps == 4
    assert groups > 2 * 4
    known = (rollout.observations != 0.0).sum(dim=-1)
    starts = rollout.observations[0]
    assert bool((starts == starts[:, :1]).all())
    assert set(known[0, :, 0].tolist()) >= {0, 4, 8, 12}
    for t in range(1, steps):
        alive = rollout.alive[t]
        assert torch.equal(known[t][alive], (known[0] + t)[alive])
    # Members never contradict each other about a cell that both have shot at.
    low = torch.where(rollout.alive[..., None], rollout.observations, 0.0).amin(dim=(0, 2))
    high = torch.where(rollout.alive[..., None], rollout.observations, 0.0).amax(dim=(0, 2))
    assert not bool(((low == -1.0) & (high == 1.0)).any())
    assert bool((low == -1.0).any())
    assert bool((high == 1.0).any())
    masks = rollout.action_masks
    assert masks is not None
    assert bool(masks.gather(-1, rollout.actions)[rollout.alive].all())
    assert torch.equal(masks[rollout.alive], (rollout.observations == 0.0)[rollout.alive])
