"""Observations whose signal is small beside their size: times since 1970, prices, counters."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.policies.network import row_features
from grpo_gym.rollouts.rows import row_format
from grpo_gym.rollouts.spaces import flatten_batch, flatten_one

CASES: dict[str, tuple[Any, float, float]] = {
    "seconds since 1970": (np.float64, 1.76e9, 7.0),
    "milliseconds since 1970": (np.float64, 1.76e12, 500.0),
    "whole seconds": (np.int64, 1.76e9, 7.0),
    "whole seconds, int32": (np.int32, 1.76e9, 7.0),
    "nanoseconds": (np.uint64, 1.76e18, 1e9),
    "a price": (np.float64, 64_000.0, 1e-3),
    "a negative price": (np.float64, -64_000.0, 1e-3),
}


class Clock(gym.Env[Any, Any]):
    """One step: the action that is right is the number of signals above the offset."""

    action_space = spaces.Discrete(3)

    def __init__(self, case: str, form: str = "box") -> None:
        self.form = form
        self.dtype, self.offset, self.signal = CASES[case]
        whole = np.dtype(self.dtype).kind in "iu"
        limits = np.iinfo(self.dtype) if whole else np.finfo(self.dtype)
        low, high = (limits.min, limits.max) if whole else (-np.inf, np.inf)
        box = spaces.Box(low, high, (1,), self.dtype)
        self.observation_space: Any = {
            "box": box,
            "dict": spaces.Dict({"clock": box, "noise": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
            "image": spaces.Dict({"clock": box, "pixels": spaces.Box(0, 255, (2, 2, 1), np.uint8)}),
        }[form]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.context = int(self.np_random.integers(3))
        # Never twice the same: nothing can be learned by heart.
        now = self.offset + self.signal * (self.context + self.np_random.uniform(-0.3, 0.3))
        self.clock = np.array([now]).astype(self.dtype)
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        return self._observe(), float(action == self.context), True, False, {}

    def _observe(self) -> Any:
        if self.form == "box":
            return self.clock
        self.observation_space["noise" if self.form == "dict" else "pixels"].seed(0)
        return {**self.observation_space.sample(), "clock": self.clock}


def train(case: str) -> GRPO:
    model = GRPO(
        "mlp",
        lambda: Clock(case),
        num_groups=24,
        group_size=4,
        learning_rate=0.005,
        entropy_coefficient=0.02,
    )
    with model:
        for _ in range(70):
            model.train_iteration()
    return model


@pytest.mark.parametrize("case", ["whole seconds", "a price"])
def test_the_signal_is_learned_and_kept_in_checkpoints(case: str, tmp_path: Path) -> None:
    model = train(case)
    evaluation = model.evaluate(200)
    assert evaluation.mean_return > 0.9
    model.save(tmp_path / "a.ckpt")
    again = GRPO.load(tmp_path / "a.ckpt", lambda: Clock(case))
    assert again.evaluate(200).returns.tolist() == evaluation.returns.tolist()
    dtype, offset, signal = CASES[case]
    clocks = (offset + signal * np.arange(3.0)[:, None]).astype(dtype)
    assert again.predict(clocks, deterministic=True)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("form", "policy", "settings"),
    [
        ("box", "linear", {}),
        ("dict", "mlp", {}),
        ("image", "mlp", {}),
        ("image", "combined", {}),
        ("box", "mlp", {"frame_history": 2}),
    ],
)
def test_the_network_sees_the_signal(
    case: str, form: str, policy: str, settings: dict[str, Any]
) -> None:
    model = GRPO(policy, lambda: Clock(case, form), num_groups=24, group_size=2, **settings)
    model.train_iteration()
    env = Clock(case, form)
    contexts, rows = [], []
    for seed in range(40):
        rows.append(flatten_one(env.observation_space, env.reset(seed=seed)[0]))
        contexts.append(env.context)
    frames = settings.get("frame_history", 1)
    stacked = torch.from_numpy(np.concatenate(rows)).repeat(1, frames)
    features = model.policy.features(stacked)
    assert features.dtype == torch.float32
    clock = features[:, 0].numpy()
    assert np.abs(clock).max() < 3.0
    means = [clock[np.array(contexts) == context].mean() for context in range(3)]
    assert np.diff(means).min() > 0.8
    assert np.corrcoef(clock, contexts)[0, 1] > 0.95


def test_what_float32_holds_stays_float32() -> None:
    small: list[gym.Space[Any]] = [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(-1.0, 1.0, (2,), np.float64),
        spaces.Box(0, 255, (2,), np.int64),
        spaces.Box(-128, 127, (2,), np.int8),
        spaces.Box(0, 2**16 - 1, (2,), np.uint16),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiBinary(2)}),
        spaces.Dict({}),
    ]
    assert all(row_format(space).dtype == np.float32 for space in small)
    large: list[gym.Space[Any]] = [
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(0, 1e4, (2,), np.float64),
        spaces.Box(0, 2**31 - 1, (2,), np.int32),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 2**40, (2,), np.int64))),
    ]
    assert all(row_format(space).dtype == np.float64 for space in large)


def test_numbers_beyond_float32_are_still_not_finite() -> None:
    space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    row = flatten_one(space, np.array([1e300, -1e39, 1e38, np.nan]))
    assert row.dtype == np.float64
    assert row[0, :3].tolist() == [np.inf, -np.inf, 1e38]
    assert np.isnan(row[0, 3])


def test_rows_with_pixels_and_doubles_hold_both_exactly() -> None:
    space = spaces.Dict(
        {
            "a": spaces.Box(0, 255, (3,), np.uint8),
            "b": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "c": spaces.Box(-1.0, 1.0, (1,), np.float32),
            "d": spaces.Box(0, 255, (1,), np.uint8),
        }
    )
    observation = {
        "a": np.array([[1, 2, 3], [4, 5, 6]], np.uint8),
        "b": np.array([[1.76e9 + 0.25, 1.0], [np.pi, 2.0]]),
        "c": np.array([[0.5], [0.25]], np.float32),
        "d": np.array([[7], [8]], np.uint8),
    }
    rows = flatten_batch(space, observation)
    assert rows.dtype == np.uint8
    found = row_format(space)
    assert rows.shape == (2, found.width) == (2, 3 + 16 + 4 + 1)
    assert found.floats(rows).tolist() == [[1.76e9 + 0.25, 1.0, 0.5], [np.pi, 2.0, 0.25]]
    features = [
        [1.0, 2.0, 3.0, 1.76e9 + 0.25, 1.0, 0.5, 7.0],
        [4.0, 5.0, 6.0, np.pi, 2.0, 0.25, 8.0],
    ]
    assert found.features(rows).tolist() == features
    assert row_features(found, torch.from_numpy(rows)).tolist() == features
