"""Tiny environments, each with a known best policy, each failing for one kind of fault.

Nobody registers them: pass the class, or a function that makes one, as `env`.
"""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Step = tuple[Any, float, bool, bool, dict[str, Any]]


class OneStep(gym.Env[Any, Any]):
    """Base: an episode is one action; the observation says nothing."""

    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    best = 1.0
    """The return of the best policy."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> Step:
        assert self.action_space.contains(action), action
        return self.observe(), self.reward(action), True, False, {}

    def observe(self) -> Any:
        return np.zeros(1, np.float32)

    def reward(self, action: Any) -> float:
        raise NotImplementedError


class BestAction(OneStep):
    """One action is best, always: the sign of the policy gradient."""

    action_space: gym.Space[Any] = spaces.Discrete(3, start=5)

    def reward(self, action: Any) -> float:
        return {5: 0.0, 6: 1.0, 7: 0.5}[int(action)]


class Context(OneStep):
    """The best action is the one observed: the way from observation to action.

    `form` is how the context is observed: "box", "discrete", "dict", or "hidden" (unsolvable:
    1/3 at best).
    """

    action_space: gym.Space[Any] = spaces.Discrete(3)

    def __init__(self, form: str = "box") -> None:
        self.form = form
        self.context = 0
        one_hot = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.observation_space = {
            "box": one_hot,
            "hidden": one_hot,
            "discrete": spaces.Discrete(3, start=4),
            "dict": spaces.Dict({"parity": spaces.MultiBinary(1), "context": spaces.Discrete(3)}),
        }[form]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.context = int(self.np_random.integers(3))
        return self.observe(), {}

    def observe(self) -> Any:
        if self.form == "discrete":
            return np.int64(4 + self.context)
        if self.form == "dict":
            return {"parity": np.array([self.context % 2], np.int8), "context": self.context}
        return np.eye(3, dtype=np.float32)[self.context] * (self.form == "box")

    def reward(self, action: Any) -> float:
        return float(action == self.context)


class ManyChoices(OneStep):
    """A point for each component of a MultiDiscrete action that is right."""

    action_space: gym.Space[Any] = spaces.MultiDiscrete([2, 4, 3])
    best = 3.0

    def reward(self, action: Any) -> float:
        return float((np.asarray(action) == [1, 3, 0]).sum())


class Target(OneStep):
    """Minus the squared distance from a point inside a Box that is not centred on zero."""

    action_space: gym.Space[Any] = spaces.Box(
        np.array([-2.0, 0.0], np.float32), np.array([6.0, 1.0], np.float32)
    )
    best = 0.0
    target = np.array([4.0, 0.25])

    def reward(self, action: Any) -> float:
        return -float(np.square((action - self.target) / [4.0, 0.5]).sum())


class Extreme(OneStep):
    """One of two to six rows is right: that of the largest value, or of the smallest if so asked.

    A row is its value and noise; absent rows are -1, and illegal. After the rows of all comes the
    shared feature, 1 for the largest.
    """

    rows = 6
    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (2 * rows + 1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(rows)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.table = self.np_random.random((self.rows, 2), np.float32)
        self.largest = bool(self.np_random.integers(2))
        self.present = self.np_random.permutation(self.rows) < self.np_random.integers(2, 7)
        self.table[~self.present] = -1.0
        return self.observe(), {"action_mask": self.present.astype(np.int8)}

    def step(self, action: Any) -> Step:
        observation, reward, over, cut, _ = super().step(action)
        return observation, reward, over, cut, {"action_mask": self.present.astype(np.int8)}

    def observe(self) -> Any:
        return np.append(self.table, np.float32(self.largest)).astype(np.float32)

    def reward(self, action: Any) -> float:
        values = np.where(self.present, self.table[:, 0] * (1 if self.largest else -1), -np.inf)
        assert self.present[action], f"row {action} is absent"
        return float(action == values.argmax())


class Luck(OneStep):
    """A small effect of the action under a large one of the seed, equal within a group."""

    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reward(self, action: Any) -> float:
        return float(action) + 100.0 * float(self.np_random.standard_normal())


class Patience(gym.Env[Any, Any]):
    """Take 1 at once, or wait three steps for 2: worth it unless the discount is below 0.8.

    Waiting or not is decided by the first action; the later ones change nothing.
    """

    observation_space: gym.Space[Any] = spaces.Discrete(4)
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.time, {}

    def step(self, action: Any) -> Step:
        if self.time == 0 and action == 0:
            return self.time, 1.0, True, False, {}
        self.time += 1
        over = self.time == 3
        return self.time, 2.0 * over, over, False, {}


class Recall(gym.Env[Any, Any]):
    """Five choices, each right or wrong by the observed bit; all the reward comes at the end."""

    observation_space: gym.Space[Any] = spaces.MultiBinary(1)
    action_space: gym.Space[Any] = spaces.Discrete(2)
    best = 5.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits = self.np_random.integers(2, size=6).astype(np.int8)
        self.time, self.right = 0, 0
        return self.bits[:1], {}

    def step(self, action: Any) -> Step:
        self.right += int(action == self.bits[self.time])
        self.time += 1
        over = self.time == 5
        observation = self.bits[self.time : self.time + 1]
        return observation, float(self.right * over), over, False, {}


class Search(gym.Env[Any, Any]):
    """Look into boxes until the prize, at a cost for each; no box twice, and one is forbidden.

    The forbidden box holds far more than the prize: taking it, or a box again, raises. At the
    end no box is legal. Episodes have one to three steps.
    """

    observation_space: gym.Space[Any] = spaces.MultiBinary(4)
    action_space: gym.Space[Any] = spaces.Discrete(4)
    prize, forbidden = 1, 3

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.open = np.arange(4) != self.forbidden
        return self.open.astype(np.int8), {"action_mask": self.open.astype(np.int8)}

    def step(self, action: Any) -> Step:
        assert self.open[action], f"box {action} is not legal"
        self.open[action] = False
        over = bool(action == self.prize)
        if over:
            self.open[:] = False
        info = {"action_mask": self.open.astype(np.int8)}
        return self.open.astype(np.int8), 1.0 if over else -0.5, over, False, info


class Temptation(OneStep):
    """`Search`'s lure without its mask: the forbidden box is legal here, and best."""

    action_space: gym.Space[Any] = spaces.Discrete(4)
    best = 10.0

    def reward(self, action: Any) -> float:
        return [-0.5, 1.0, -0.5, 10.0][int(action)]


class Countdown(gym.Env[Any, Any]):
    """Action a ends the episode after a + 1 steps of reward 1; `calls` counts the steps taken.

    With `limit` the episode is truncated at that step. Infos report `time` at every step and
    `last` at the last one only.
    """

    observation_space: gym.Space[Any] = spaces.Box(0.0, 10.0, (1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(4)

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.calls = 0
        self.length: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.length = 0, None
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Step:
        self.calls += 1
        if self.length is None:
            self.length = int(action) + 1
        self.time += 1
        assert self.time <= self.length, "stepped after the end"
        over, cut = self.time == self.length, self.time == self.limit
        info: dict[str, Any] = {"time": self.time, "name": "countdown"}
        if over:
            info["last"] = float(self.length)
        return np.array([self.time], np.float32), 1.0, over, cut, info


class IgnoresSeed(OneStep):
    """Draws its start from a generator that reset does not seed."""

    action_space: gym.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.own = np.random.default_rng()

    def observe(self) -> Any:
        return self.own.random(1, np.float32)

    def reward(self, action: Any) -> float:
        return 0.0


class Counter(gym.Env[Any, Any]):
    """Deterministic, with rewards that tell where they came from: action + 10 * time.

    Observed is every action so far, as digits: the history of each member is known exactly.
    Action 3 ends the episode; `limit` steps truncate it.
    """

    observation_space: gym.Space[Any] = spaces.Box(0.0, np.inf, (2,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(4)

    def __init__(self, limit: int = 6, ends: bool = True) -> None:
        self.limit = limit
        self.ends = ends

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.digits = 0, 0
        return self._observe(), {}

    def step(self, action: Any) -> Step:
        reward = float(action) + 10.0 * self.time
        self.time += 1
        self.digits = 5 * self.digits + int(action) + 1
        over = self.ends and int(action) == 3
        return self._observe(), reward, over, self.time >= self.limit, {"time": self.time}

    def _observe(self) -> np.ndarray:
        return np.array([self.time, self.digits], np.float32)


class Weather(gym.Env[Any, Any]):
    """Draws its outside world step by step: the reward is the action plus what was drawn."""

    observation_space: gym.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Step:
        self.time += 1
        luck = float(self.np_random.standard_normal())
        return np.array([luck], np.float32), luck + float(action), False, self.time == 8, {}


class Cue(gym.Env[Any, Any]):
    """The right action of the second step was shown at the first, and is seen no more.

    Without memory half the episodes are right at best.
    """

    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(2)
    best = 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(2))
        return np.array([2 * self.cue - 1], np.float32), {}

    def step(self, action: Any) -> Step:
        self.time += 1
        over = self.time == 2
        return np.zeros(1, np.float32), float(over and action == self.cue), over, False, {}


class Reordered(gym.Env[Any, Any]):
    """The first action chooses in which order the rewards of a fixed total are paid.

    Every policy is as good as any other: the totals differ by rounding only.
    """

    observation_space: gym.Space[Any] = spaces.Discrete(5)
    action_space: gym.Space[Any] = spaces.Discrete(24)
    orders = tuple(itertools.permutations((0.1, 0.2, 0.3, 0.7)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.time, {}

    def step(self, action: Any) -> Step:
        if self.time == 0:
            self.order = self.orders[int(action)]
        reward = self.order[self.time]
        self.time += 1
        return self.time, reward, self.time == 4, False, {}


class DeepSea(gym.Env[Any, Any]):
    """Take a treasure of 0.9 at the shore, or swim out and dive for 1; at sea one may wait forever.

    Few of a group are at sea at first, and all of them have more ahead of them than those who took
    what is near: compared with these, waiting seems as good as diving.
    """

    observation_space: gym.Space[Any] = spaces.Discrete(2)
    action_space: gym.Space[Any] = spaces.Discrete(4)
    swim, dive = 3, 1
    limit = 100

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.at_sea = 0, False
        return 0, {}

    def step(self, action: Any) -> Step:
        self.time += 1
        if not self.at_sea and action != self.swim:
            return 0, 0.9, True, False, {}
        over = self.at_sea and bool(action == self.dive)
        self.at_sea = True
        return 1, float(over) - 0.01, over, self.time == self.limit, {}
