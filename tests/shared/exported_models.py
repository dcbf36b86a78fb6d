"""Models to export: every network and kind of action, with weights and statistics that matter."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from grpo_gym.rollouts.policy_inputs import features_of
from grpo_gym.trainers.grpo import GRPO

VECTOR = spaces.Box(-1.0, 1.0, (12,))
IMAGE = spaces.Box(0, 255, (3, 40, 40), np.uint8)
HISTORY = spaces.Box(-1.0, 1.0, (6, 3))
FOUR = spaces.Discrete(4)
MIXED = spaces.Dict(
    choice=spaces.Discrete(3, start=1),
    choices=spaces.MultiDiscrete([2, 3]),
    flags=spaces.MultiBinary(3),
    price=spaces.Box(0.0, 1e9, (2,), np.float64),
)
HALF_BOUNDED = spaces.Box(
    np.array([-2.0, -np.inf, 0.0], np.float32), np.array([3.0, np.inf, np.inf], np.float32)
)


class Anything(gym.Env[Any, Any]):
    """An environment of given spaces whose observations are random."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


def make_model(
    policy: str | Callable[..., torch.nn.Module],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    **settings: Any,
) -> GRPO:
    """A model of these spaces, moved away from its first weights."""
    model = GRPO(policy, lambda: Anything(observation_space, action_space), **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    rows, _ = features_of(observation_space, observations(observation_space, 64, seed=1))
    frames = np.concatenate([rows] * model.config.frame_history, axis=1)
    model.policy.observe(torch.from_numpy(frames))
    return model


def observations(space: gym.Space[Any], count: int, seed: int) -> Any:
    """A batch of random observations, in the form of vector environments."""
    space.seed(seed)
    vector = gym.vector.utils.batch_space(space, count)
    vector.seed(seed)
    return vector.sample()


def masks_for(space: gym.Space[Any], count: int, seed: int) -> np.ndarray | None:
    """Random masks, shape (B, A), bool, which leave the first choice of each component legal."""
    if isinstance(space, spaces.Box):
        return None
    sizes = {
        spaces.Discrete: lambda: [int(space.n)],  # type: ignore[attr-defined]
        spaces.MultiDiscrete: lambda: space.nvec.reshape(-1).tolist(),  # type: ignore[attr-defined]
        spaces.MultiBinary: lambda: [2] * int(np.prod(space.shape)),  # type: ignore[arg-type]
    }[type(space)]()
    masks = np.random.default_rng(seed).random((count, sum(sizes))) < 0.6
    masks[:, np.cumsum([0, *sizes[:-1]])] = True
    return masks
