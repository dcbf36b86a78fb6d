"""Tiny environments whose answer lies in the past: for policies that read a history."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

STEPS, METRICS = 6, 2


class Echo(gym.Env[Any, Any]):
    """One decision: say the bit that one past step showed and the current one; half a point each.

    Without the history, or without what is current, three quarters are right at best.
    """

    observation_space: gym.Space[Any] = spaces.Dict(
        {
            "current": spaces.Box(-1.0, 1.0, (1,), np.float32),
            "history": spaces.Box(-1.0, 1.0, (STEPS, METRICS), np.float32),
            "nothing": spaces.Discrete(2),
        }
    )
    action_space: gym.Space[Any] = spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.past, self.present = (int(bit) for bit in self.np_random.integers(2, size=2))
        steps = self.np_random.normal(size=(STEPS, METRICS)).clip(-1.0, 1.0)
        steps[:, 0] = 0.0
        steps[self.np_random.integers(STEPS), 0] = 2 * self.past - 1
        self.seen = {
            "current": np.array([2 * self.present - 1], np.float32),
            "history": steps.astype(np.float32),
            "nothing": 0,
        }
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        past, present = divmod(int(action), 2)
        return self.seen, self.points(past, present), True, False, {}

    def points(self, past: int, present: int) -> float:
        return 0.5 * (past == self.past) + 0.5 * (present == self.present)


class Delay(gym.Env[Any, Any]):
    """Each step shows a bit, and asks for the one of two steps ago; the first two ask nothing."""

    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits = self.np_random.integers(2, size=8)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = self.time >= 2 and action == self.bits[self.time - 2]
        self.time += 1
        return self._observe(), float(right), self.time == 7, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([2 * self.bits[self.time] - 1], np.float32)


class Parts(Echo):
    """`Echo` whose answer has components, and one that does not matter."""

    action_space: gym.Space[Any] = spaces.MultiDiscrete([2, 3, 2])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.seen, self.points(action[0], action[2]), True, False, {}


class Amount(Echo):
    """`Echo` whose answer is a number, which the current bit shifts."""

    action_space: gym.Space[Any] = spaces.Box(0.0, 3.0, (1,), np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = 2 * self.past + self.present
        return self.seen, -abs(float(action[0]) - right), True, False, {}
