"""Members that are still under way when the others have ended learn from each other."""

from typing import Any

import pytest

from grpo_gym import GRPO
from probe_envs import DeepSea

TRAINING: dict[str, Any] = {"num_groups": 2, "group_size": 8, "learning_rate": 0.1}


@pytest.mark.parametrize("seed", [0, 6, 7])
def test_survivors_do_not_take_to_waiting(seed: int) -> None:
    """With these seeds they did when they were compared with the 0 of the ended."""
    with GRPO("linear", DeepSea, seed=seed, **TRAINING) as model:
        model.learn(4_000)
    assert model.probabilities(1)[DeepSea.dive] > 0.95
