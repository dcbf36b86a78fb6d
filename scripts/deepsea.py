"""MO-Gymnasium's deep sea treasure with one reward: 0.9 of the treasure less 0.1 for each step.

It needs `pip install mo-gymnasium`. Small treasures lie near the shore, and the largest is 19 steps
away: 19.43 at best.

    python scripts/train.py --env deepsea:DeepSea-v0 --total-steps 100000
"""

from typing import Any

import gymnasium as gym
import mo_gymnasium
import numpy as np
from mo_gymnasium.wrappers import LinearReward


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    """The environment with the weighted sum of its two rewards."""
    env: gym.Env[Any, Any] = mo_gymnasium.make("deep-sea-treasure-v0", **kwargs)
    return LinearReward(env, weight=np.array([0.9, 0.1]))


gym.register("DeepSea-v0", make)
