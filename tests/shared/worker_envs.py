"""Environments for processes: one with everything that may be sent, and one that fails as told."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Everything(gym.Env[Any, Any]):
    """Parts of several types, actions with components, masks and infos now and then.

    It shows the action it got last, which it keeps and does not copy.
    """

    observation_space: gym.Space[Any] = spaces.Dict(
        {
            "picture": spaces.Box(0, 255, (2, 2), np.uint8),
            "time": spaces.Box(-1e9, 1e9, (1,), np.float64),
            "action": spaces.Box(0.0, 3.0, (2,), np.float32),
        }
    )
    action_space: gym.Space[Any] = spaces.MultiDiscrete([2, 3])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.length = int(self.np_random.integers(2, 9))
        self.action = np.zeros(2, np.int64)
        return self.observation(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation = self.observation()  # with the action before
        self.time += 1
        self.action = action
        reward = float(action[0] + self.np_random.normal())
        return observation, reward, self.time == self.length, False, self.info()

    def observation(self) -> dict[str, Any]:
        return {
            "picture": self.np_random.integers(0, 256, (2, 2), np.uint8),
            "time": np.array([1e8 + self.time]),
            "action": self.action.astype(np.float32),
        }

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"length": self.length} if self.time % 2 else {}
        if self.length > 5:
            info["action_mask"] = np.array([1, 1, 1, self.time % 2, 1], np.int8)
        return info


class Fragile(gym.Env[Any, Any]):
    """Episodes of four steps; the third step fails while there is a file, which it then deletes."""

    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def __init__(self, fault: str, file: str, forever: bool = False) -> None:
        self.fault, self.file, self.forever = fault, Path(file), forever

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        if self.time == 3 and self.file.exists():
            if not self.forever:
                self.file.unlink()
            fail(self.fault)
        return self.observation(), float(action), self.time == 4, False, {}

    def observation(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)


def fail(fault: str) -> None:
    """One of the ways in which the process of an environment may go wrong."""
    if fault == "exit":
        os._exit(3)
    if fault == "crash":
        ctypes.string_at(0)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600.0)
    if fault == "hold":  # in compiled code that does not let other threads run
        ctypes.PyDLL(None).sleep(600)
    raise ValueError(fault)
