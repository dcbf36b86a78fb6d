"""Checkpoints of version 0.1.0 load, evaluate as they did, and training continues from them.

That version wrote the files in tests/data, and computed the numbers here, after

    common = dict(num_groups=2, group_size=4, max_episode_steps=40, hidden_sizes=(8,), seed=3)
    mlp = GRPO("mlp", "LoadBalancer-v0", learned_baseline=True, kl_coefficient=0.01, **common)
    gru = GRPO("gru", "AutoScaler-v0", env_kwargs={"history": 6, "preset": "flash-crowd"},
               gru_width=8, **common)
    online = OnlineGRPO(env_kwargs={"preset": "flaky"}, seed=2)

with `learn(1000)` for GRPO (four iterations; the MLP with the note `evaluated_return`) and
`learn(3000)` online. Loaded weights are compared exactly. What follows from them may differ in the
last bits on another kind of processor, so it is compared with a tolerance.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.online import OnlineGRPO

DATA = Path(__file__).resolve().parents[1] / "data"
MLP: dict[str, Any] = {
    "env": "LoadBalancer-v0",
    "weights": "f1f26f08d896e9dd3f08e413d627cf8594dc4ee7d1d818a16bf8fbb7c435ebb7",
    "notes": {"evaluated_return": -1.0},
    "returns": [-2832.4005542, -5284.85999621, -2726.49497099],
    "continued": [0.197961, 0.233778, 0.293310, 0.274951],
}
GRU: dict[str, Any] = {
    "env": "AutoScaler-v0",
    "weights": "fca3dfe89345f715d7e408c9dbf31de9ec920dbb34dddb0a1a2bffa6c97feb30",
    "notes": {},
    "returns": [-15932.57333308, -14014.70426106, -17124.00318974],
    "continued": [
        *(0.045300, 0.056239, 0.073601, 0.064030, 0.075356, 0.077813, 0.082164, 0.074866),
        *(0.074546, 0.068100, 0.094172, 0.077061, 0.050132, 0.047430, 0.039189),
    ],
}
ONLINE: dict[str, Any] = {
    "weights": "b4c425d5c66b28f00d32917f51776da6c1ca6a02b3f1a6e53dd1a2200b406961",
    "returns": [-192.402358551, -262.900772351, -556.334041511],
    "continued": [
        *(-0.301539781461, -1.085244219259, 0.105937056284, -0.968195377565),
        *(-0.378746956337, -1.563760431129, -2.162050729047, -2.118439879133),
    ],
}


@pytest.mark.parametrize(("file", "expected"), [("mlp", MLP), ("gru", GRU)])
def test_a_grpo_model_of_0_1_0_evaluates_and_learns_on(file: str, expected: dict[str, Any]) -> None:
    model = GRPO.load(DATA / f"{file}_0_1_0.ckpt")
    assert model.weights_sha256() == expected["weights"]
    assert (model.iteration, model.num_steps) == (4, 1_280)
    assert (model.schedule.start, model.schedule.end) == (0, 1_000)
    assert model.notes == expected["notes"]
    np.testing.assert_allclose(model.evaluate(episodes=3).returns, expected["returns"], rtol=1e-6)
    model.learn(600)
    assert (model.iteration, model.num_steps) == (6, 1_920)
    observation, _ = gym.make(expected["env"], **model.env_kwargs).reset(seed=0)
    probabilities = model.probabilities(observation)
    np.testing.assert_allclose(probabilities, expected["continued"], atol=1e-5)


def test_an_online_model_of_0_1_0_evaluates_and_learns_on() -> None:
    model = OnlineGRPO.load(DATA / "online_0_1_0.ckpt")
    assert model.weights_sha256() == ONLINE["weights"]
    assert model.num_steps == 3_000
    np.testing.assert_allclose(model.evaluate(episodes=3).returns, ONLINE["returns"], rtol=1e-6)
    model.learn(500)
    assert model.num_steps == 3_500
    np.testing.assert_allclose(model.policy.weights, ONLINE["continued"], rtol=1e-6)
