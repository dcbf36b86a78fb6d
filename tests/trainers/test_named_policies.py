"""The random policy plays only what a mask allows."""

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym.trainers.named_policies import baseline_names, random_action_function, table_names


@pytest.mark.parametrize(
    ("space", "mask", "legal"),
    [
        (gym.spaces.Discrete(3), [0, 1, 1], {1, 2}),
        (gym.spaces.MultiDiscrete([2, 3]), [1, 0, 0, 1, 1], {(0, 1), (0, 2)}),
    ],
)
def testrandom_action_function_respects_masks(
    space: gym.Space, mask: list[int], legal: set
) -> None:
    action_function = random_action_function(space, seed=0)
    masks = np.tile(np.array(mask, np.bool_), (50, 1))
    actions, _ = action_function(np.zeros((50, 1), np.float32), masks, None, np.ones(50, np.bool_))
    chosen = {tuple(a) if np.ndim(a) else int(a) for a in actions.tolist()}
    assert chosen == legal


def test_tables_have_the_baselines_that_can_play() -> None:
    small = table_names("Battleship-v0", {"preset": "uniform-5x5"})
    assert {"exact_posterior", "monte_carlo_posterior"} <= set(small)
    large = table_names("Battleship-v0", {})
    assert set(small) - set(large) == {"exact_posterior", "monte_carlo_posterior"}
    assert table_names("LoadBalancer-v0", {}) == baseline_names("LoadBalancer-v0")
    assert table_names("CartPole-v1", {}) == ["random"]
