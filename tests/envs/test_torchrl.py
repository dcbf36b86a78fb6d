"""Native environments in TorchRL, where it is installed; what its GymEnv calls is tested in
`test_native_gymnasium`, too."""

from typing import Any

import pytest
import torch

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.registration import DESCRIPTORS

STEPS = 30
WHY = "TorchRL is not installed: pip install torchrl"
torchrl_envs = pytest.importorskip("torchrl.envs", reason=WHY)
utils = pytest.importorskip("torchrl.envs.utils", reason=WHY)


@pytest.mark.parametrize("env_id", [each.env_id for each in DESCRIPTORS])
@pytest.mark.parametrize("arguments", [{}, {"categorical_action_encoding": True}], ids=str)
def test_gym_env_plays_the_same_episode_again(env_id: str, arguments: dict[str, Any]) -> None:
    env = torchrl_envs.GymEnv(env_id, **arguments)
    utils.check_env_specs(env)
    rollouts = []
    for _ in range(2):
        env.set_seed(5)
        torch.manual_seed(0)
        rollouts.append(env.rollout(STEPS, break_when_any_done=False))
    first, again = rollouts
    assert first.shape == (STEPS,)
    assert torch.equal(first["next", "observation"], again["next", "observation"])
    assert torch.equal(first["next", "reward"], again["next", "reward"])
    assert first["next", "reward"].isfinite().all()
    env.close()
