"""Tiny environments whose observations are images, each with a known best policy."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Side(gym.Env[Any, Any]):
    """One pixel is bright: act on the side where it is. An episode is four such images.

    `shape` may be any with `width` among its axes as the longest; the pixel is somewhere in it.
    """

    def __init__(self, shape: tuple[int, ...] = (12, 12, 1), width_axis: int = 1) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(2)
        self.width_axis = width_axis
        self.image = np.zeros(shape, np.uint8)
        self.right = 0
        self.elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.elapsed = 0
        self.draw()
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.elapsed += 1
        self.draw()
        return self.observe(), reward, self.elapsed == 4, False, {}

    def draw(self) -> None:
        place = [int(self.np_random.integers(size)) for size in self.image.shape]
        self.right = int(2 * place[self.width_axis] >= self.image.shape[self.width_axis])
        self.image[:] = 0
        self.image[tuple(place)] = 255

    def observe(self) -> Any:
        return self.image.copy()

    def reward(self, action: Any) -> float:
        return float(action == self.right)


class SideOrNot(Side):
    """As `Side`; but where the switch among the other parts is on, the other side is right."""

    def __init__(self, size: int = 12) -> None:
        super().__init__((size, size, 1))
        self.switch = 0
        self.observation_space = spaces.Dict(
            {
                "noise": spaces.Box(-1.0, 1.0, (2,), np.float32),
                "camera": self.observation_space,
                "switch": spaces.Discrete(2),
            }
        )

    def draw(self) -> None:
        super().draw()
        self.switch = int(self.np_random.integers(2))

    def observe(self) -> Any:
        noise = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return {"noise": noise, "camera": self.image.copy(), "switch": self.switch}

    def reward(self, action: Any) -> float:
        return float(action == (self.right ^ self.switch))
