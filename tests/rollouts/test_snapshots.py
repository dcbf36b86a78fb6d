"""What is restored goes on exactly as the original did, or is refused before training starts."""

import copy
import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.wrappers import NormalizeReward, TimeLimit

from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.snapshot_check import SnapshotError, check_snapshots
from grpo_gym.rollouts.snapshots import copy_environment
from probe_envs import BestAction, Context, Countdown, ManyChoices, Recall, Search

LENGTH = 8
PRESETS = ("flaky", "park", "tiny-grpo")
IDS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "FrozenLake-v1",
)
SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{env_id: (env_id, {"max_episode_steps": LENGTH}) for env_id in IDS},
    "normalised": (lambda: TimeLimit(NormalizeReward(gym.make("CartPole-v1")), LENGTH), {}),
    **{
        f"native {p}": ("LoadBalancer-v0", {"preset": p, "episode_length": LENGTH}) for p in PRESETS
    },
    "native cut": ("LoadBalancer-v0", {"max_episode_steps": LENGTH}),
    **{
        f"loop {p}": (lambda p=p: TimeLimit(LoadBalancerEnv(preset=p), LENGTH), {}) for p in PRESETS
    },
}
EVERYONE = np.ones(6, np.bool_)


def sample(batch: EnvBatch, steps: int, seed: int) -> np.ndarray:
    """Actions of every member at every step, shape (steps, B, ...)."""
    space = copy.deepcopy(batch.single_action_space)
    space.seed(seed)
    return np.stack(
        [np.stack([space.sample() for _ in range(batch.num_envs)]) for _ in range(steps)]
    )


def play(batch: EnvBatch, actions: np.ndarray, alive: np.ndarray) -> list[np.ndarray]:
    """Observations, rewards and ends, each (steps, B, ...); ended members are not stepped."""
    record = []
    for at_once in actions:
        step = batch.step(at_once, alive)
        record.append((step.observations, step.rewards, step.terminated, step.truncated))
        alive = alive & ~(step.terminated | step.truncated)
    return [np.stack(values) for values in zip(*record, strict=True)]


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def of(record: list[np.ndarray], members: Any) -> list[np.ndarray]:
    return [values[:, members] for values in record]


def in_the_middle(source: str) -> EnvBatch:
    env, kwargs = SOURCES[source]
    batch = make_batch(env, kwargs, 6)
    batch.reset([3, 5, 7, 11, 13, 17])
    play(batch, sample(batch, 3, seed=1), EVERYONE)
    return batch


@pytest.mark.parametrize("source", SOURCES)
def test_restored_members_go_on_exactly_and_others_are_untouched(source: str) -> None:
    batch = in_the_middle(source)
    snapshot = batch.snapshot(np.array([4, 1]))
    actions = sample(batch, LENGTH - 3, seed=2)
    original = play(batch, actions, EVERYONE)
    assert original[2].any(axis=0).sum() + original[3].any(axis=0).sum() == 6
    assert original[3][-1].any() or "park" in source  # a limit of time was met
    # Members 1 to 5 become copies in a batch where they were elsewhere, then again in the first.
    other = in_the_middle(source)
    other.reset([90, 91, 7, 93, 94, 95])
    play(other, sample(other, 3, seed=1), EVERYONE)
    for place in (other, batch):
        for copies in ([[0, 3], [5, 4]], [[4, 1], [0, 5]], [[2], [3]]):
            members = np.array(copies)
            place.restore(snapshot, members)
            alive = np.zeros(6, np.bool_)
            alive[members] = True
            same_actions = actions.copy()
            same_actions[:, members[0]] = actions[:, [4]]
            same_actions[:, members[1]] = actions[:, [1]]
            restored = play(place, same_actions, alive)
            assert_same(of(restored, members[0]), of(original, [4] * members.shape[1]))
            assert_same(of(restored, members[1]), of(original, [1] * members.shape[1]))


@pytest.mark.parametrize("source", SOURCES)
def test_members_that_are_not_restored_are_untouched(source: str) -> None:
    batch, twin = in_the_middle(source), in_the_middle(source)
    batch.restore(batch.snapshot(np.array([2])), np.array([[0, 4]]))
    actions = sample(batch, LENGTH - 3, seed=2)
    alone = play(twin, actions, EVERYONE)
    others = [1, 2, 3, 5]
    assert_same(of(play(batch, actions, EVERYONE), others), of(alone, others))


def test_a_batch_never_reset_goes_on_from_a_snapshot() -> None:
    for source in ("CartPole-v1", "native flaky"):
        batch = in_the_middle(source)
        env, kwargs = SOURCES[source]
        fresh = make_batch(env, kwargs, 6)
        fresh.restore(batch.snapshot(np.array([1, 2])), np.array([[0, 1, 2], [3, 4, 5]]))
        actions = sample(batch, 3, seed=2)
        actions[:] = actions[:, :1]
        expected = of(play(batch, actions, EVERYONE), [1, 1, 1, 2, 2, 2])
        assert_same(play(fresh, actions, EVERYONE), expected)


def test_restored_members_show_their_observation_before_they_are_stepped() -> None:
    for source in ("CartPole-v1", "native flaky"):
        batch = in_the_middle(source)
        nobody = ~EVERYONE
        actions = sample(batch, 1, seed=2)[0]
        before = batch.step(actions, nobody).observations
        snapshot = batch.snapshot(np.array([1]))
        batch.step(actions, EVERYONE)
        batch.restore(snapshot, np.array([[0, 1]]))
        after = batch.step(actions, nobody).observations
        np.testing.assert_array_equal(after[:2], before[[1, 1]])


def test_native_copies_share_their_trace_in_memory() -> None:
    batch = in_the_middle("native flaky")
    assert isinstance(batch, NativeBatch)
    batch.restore(batch.snapshot(np.array([4, 1])), np.array([[0, 2, 4], [1, 3, 5]]))
    rows = batch.env.simulator.episodes["trace_row"]
    assert len(set(rows[[0, 2, 4]].tolist())) == len(set(rows[[1, 3, 5]].tolist())) == 1
    assert rows[0] != rows[1]


def test_finished_members_come_back_to_life() -> None:
    batch = in_the_middle("native flaky")
    snapshot = batch.snapshot(np.array([0]))
    actions = sample(batch, LENGTH - 3, seed=2)
    play(batch, actions, EVERYONE)
    batch.restore(snapshot, np.array([[2, 3]]))
    play(batch, actions, np.isin(np.arange(6), [2, 3]))
    with pytest.raises(gym.error.ResetNeeded):
        batch.step(actions[0], np.isin(np.arange(6), [2]))


# Copies


def test_copies_share_descriptions_but_no_randomness() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    env.action_space.seed(1)
    env.np_random.spawn(1)
    copied = copy_environment(env)
    assert copied.unwrapped.spec is env.unwrapped.spec
    assert copied.observation_space.low is env.observation_space.low  # type: ignore[attr-defined]
    assert copied.action_space == env.action_space
    for draw in (
        lambda one: one.action_space.np_random.random(5).tolist(),
        lambda one: one.np_random.random(5).tolist(),
        lambda one: one.np_random.spawn(1)[0].random(5).tolist(),
    ):
        assert draw(copied) == draw(env)


class Base(gym.Env[Any, Any]):
    """A random walk; what it draws its steps from is each subclass's own."""

    observation_space: gym.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(2)
    position = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = float(self.np_random.random())
        self.start()
        return np.array([self.position], np.float32), {}

    def start(self) -> None:
        """Called at the end of each reset."""

    def draw(self) -> float:
        return float(self.np_random.random())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position += self.draw() + float(action)
        return np.array([self.position], np.float32), self.position, False, False, {}


class HoldsLock(Base):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class SavesItself(HoldsLock):
    """Cannot be copied, but says what it goes on from, apart from its generator."""

    def start(self) -> None:
        self.same_generator = self.np_random

    def draw(self) -> float:
        return float(self.same_generator.random())

    def get_state(self) -> float:
        return self.position

    def set_state(self, state: float) -> None:
        self.position = state


class ClonesItself(HoldsLock):
    """As the Arcade Learning Environment does."""

    def clone_state(self, include_rng: bool = False) -> tuple[float, bool]:
        return self.position, include_rng

    def restore_state(self, state: tuple[float, bool]) -> None:
        self.position, with_generator = state
        assert with_generator


class OtherStateMethods(Base):
    """Methods of the same names that mean something else, as MuJoCo's `set_state` does."""

    def get_state(self, name: str) -> None:
        raise NotImplementedError

    def set_state(self, positions: Any, velocities: Any) -> None:
        raise NotImplementedError


class RemadeByPickle(Base, EzPickle):
    def __init__(self) -> None:
        EzPickle.__init__(self)


class DrawsFromItsSpace(Base):
    def __init__(self) -> None:
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Dict({"position": Base.observation_space})

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, infos = super().reset(**arguments)
        self.action_space.seed(int(self.np_random.integers(1000)))
        return {"position": observation}, infos

    def draw(self) -> float:
        return float(self.action_space.sample()[0])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *others = super().step(action[0])
        return {"position": observation}, *others  # type: ignore[return-value]


class CopiesItself(SavesItself):
    """Its own `__deepcopy__` comes first."""

    def get_state(self) -> float:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiesItself":
        twin = CopiesItself()
        twin.position = self.position
        twin.np_random = twin.same_generator = copy.deepcopy(self.np_random)
        return twin


@pytest.mark.parametrize(
    "env",
    [
        Base,
        SavesItself,
        lambda: TimeLimit(SavesItself(), 7),
        ClonesItself,
        OtherStateMethods,
        RemadeByPickle,
        lambda: TimeLimit(RemadeByPickle(), 7),
        DrawsFromItsSpace,
        CopiesItself,
        BestAction,
        ManyChoices,
        lambda: Context("dict"),
        Recall,
        Search,
        Countdown,
    ],
)
def test_check_accepts(env: Any) -> None:
    for seed in range(4):
        check_snapshots(make_batch(env, None, 2), seed)


@pytest.mark.parametrize("source", SOURCES)
def test_check_accepts_what_is_supported(source: str) -> None:
    env, kwargs = SOURCES[source]
    check_snapshots(make_batch(env, kwargs, 2))


class MaskedParts(Base):
    """Two components, of which the second has one legal choice, drawn anew at each step."""

    action_space: gym.Space[Any] = spaces.MultiDiscrete([2, 3])

    def mask(self) -> dict[str, Any]:
        self.legal = self.np_random.integers(3)
        return {"action_mask": (np.ones(2, np.int8), np.eye(3, dtype=np.int8)[self.legal])}

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**arguments)[0], self.mask()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action[1] == self.legal
        return *super().step(action[0])[:4], self.mask()


def test_check_plays_legal_actions_only() -> None:
    check_snapshots(make_batch(MaskedParts, None, 2))


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Hopper-v5"])
def test_mujoco(env_id: str) -> None:
    pytest.importorskip("mujoco")
    check_snapshots(make_batch(env_id, None, 2))


# Refusals


class DrawsFromNumpy(Base):
    def draw(self) -> float:
        return float(np.random.random())


MODULE_GENERATOR = np.random.default_rng(0)


class DrawsFromModule(Base):
    def draw(self) -> float:
        return float(MODULE_GENERATOR.random())


class SharesClassState(Base):
    visits: list[int] = []  # noqa: RUF012 -- what is to be caught

    def draw(self) -> float:
        self.visits.append(1)
        return float(len(self.visits))


class RestoresHalf(SavesItself):
    """Forgets its speed."""

    def start(self) -> None:
        super().start()
        self.speed = 0.0

    def draw(self) -> float:
        self.speed += super().draw()
        return self.speed


class GivesItsOwnArray(SavesItself):
    def start(self) -> None:
        super().start()
        self.array = np.zeros(1)

    def draw(self) -> float:
        self.array += super().draw()
        return float(self.array[0])

    def get_state(self) -> Any:
        return self.position, self.array

    def set_state(self, state: Any) -> None:
        self.position, array = state
        self.array = array.copy()


class KeepsTheGivenArray(GivesItsOwnArray):
    def get_state(self) -> Any:
        return self.position, self.array.copy()

    def set_state(self, state: Any) -> None:
        self.position, self.array = state


class RaisesAtRestoring(SavesItself):
    def set_state(self, state: float) -> None:
        raise RuntimeError("no way back")


class ForgetsTheEpisode(Base):
    def __deepcopy__(self, memo: dict[int, Any]) -> "ForgetsTheEpisode":
        return ForgetsTheEpisode()

    def start(self) -> None:
        self.started = True

    def draw(self) -> float:
        assert self.started
        return 0.0


class ForgetsItsEnd(Base):
    """Copies that see and earn the same, but do not end when the original does."""

    def start(self) -> None:
        self.time = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(1, np.float32), 0.0, self.time == 9, False, {}

    def get_state(self) -> int:
        return 1

    def set_state(self, state: int) -> None:
        self.time = state


class ForgetsItsMask(Base):
    """Copies that see and earn the same, but may do something else."""

    def start(self) -> None:
        self.legal = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.legal += 1
        mask = np.array([1, self.legal % 2], np.int8)
        return np.zeros(1, np.float32), 0.0, False, False, {"action_mask": mask}

    def get_state(self) -> int:
        return self.legal

    def set_state(self, state: int) -> None:
        self.legal = state + 1


REFUSED: dict[str, tuple[Any, str]] = {
    "lock": (HoldsLock, r"copying it raised TypeError\(.*lock"),
    "numpy's generator": (DrawsFromNumpy, "a copy's observation was not the original's"),
    "generator of a module": (DrawsFromModule, "a copy's observation was not the original's"),
    "state of a class": (SharesClassState, "a copy's observation was not the original's"),
    "half a state": (RestoresHalf, "1 steps after the snapshot a copy's observation"),
    "its own array": (GivesItsOwnArray, "1 steps after the snapshot a copy's observation"),
    "array of the snapshot": (KeepsTheGivenArray, "a copy's observation was not the original's"),
    "raises at restoring": (RaisesAtRestoring, "restoring it raised RuntimeError.*no way back"),
    "no episode": (ForgetsTheEpisode, "a copy raised AttributeError.* where the original went on"),
    "end": (ForgetsItsEnd, "6 steps after the snapshot a copy's end was not the original's"),
    "mask": (ForgetsItsMask, "1 steps after the snapshot a copy's action mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_check_refuses(case: str) -> None:
    env, message = REFUSED[case]
    remedy = r"Use grouping='shared', or give the environment get_state\(\)"
    with pytest.raises(SnapshotError, match=f"^{env.__name__} cannot be branched: .*{message}.*"):
        check_snapshots(make_batch(env, None, 2))
    with pytest.raises(SnapshotError, match=remedy):
        check_snapshots(make_batch(env, None, 2))


def test_box2d_is_refused() -> None:
    pytest.importorskip("Box2D")
    with pytest.raises(SnapshotError, match=r"LunarLander-v3 cannot be branched: .*SwigPyObject"):
        check_snapshots(make_batch("LunarLander-v3", None, 2))


class RestoresOnce(LoopBatch):
    """Uses the snapshot up."""

    def restore(self, snapshot: Any, members: np.ndarray) -> None:
        super().restore(snapshot, members)
        snapshot.states[0][0].env.unwrapped.position += 1.0


class RestoresTheFirstOnly(LoopBatch):
    def restore(self, snapshot: Any, members: np.ndarray) -> None:
        super().restore(snapshot, members[:, :1])


@pytest.mark.parametrize("batch", [RestoresOnce, RestoresTheFirstOnly])
def test_check_restores_twice_and_into_both(batch: type[LoopBatch]) -> None:
    with pytest.raises(SnapshotError, match="a copy's observation was not the original's"):
        check_snapshots(batch([Base(), Base()]))
