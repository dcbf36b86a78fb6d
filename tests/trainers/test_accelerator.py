"""Training on an accelerator; without one, all of it is skipped.

`scripts/check_devices.py` runs these tests, and measures how fast it is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.trainers.devices import find_device
from memory_envs import Echo, Parts
from worker_envs import Everything

DEVICE = find_device("auto")
pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator")
SMALL = {"num_groups": 4, "group_size": 4, "hidden_sizes": (16,), "max_episode_steps": 20}
CASES: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("linear", "CartPole-v1", {}, {}),
    ("mlp", "Pendulum-v1", {}, {}),
    ("mlp", Parts, {}, {"learned_baseline": True, "epochs": 2}),
    ("mlp", "CartPole-v1", {}, {"update": "trust_region"}),
    ("mlp", "CartPole-v1", {}, {"ratio": "sequence", "minibatches": "trajectories"}),
    ("mlp", "CartPole-v1", {}, {"kl_coefficient": 0.1, "kl_reference": "moving_average"}),
    ("mlp", "CartPole-v1", {}, {"baseline": "state_bin", "anchor_weight": 1.0}),
    ("mlp", "CartPole-v1", {}, {"grouping": "branch", "branch_every": 5}),
    ("mlp", "LoadBalancer-v0", {}, {"frame_history": 2}),
    ("servers", "LoadBalancer-v0", {}, {}),
    (
        "board",
        "Battleship-v0",
        {"preset": "uniform-5x5"},
        {"augment_symmetries": True, "channels": 4, "blocks": 1},
    ),
    ("gru", Echo, {}, {}),
    ("temporal", Echo, {}, {}),
]


def model_of(policy: str, env: Any, kwargs: Any = None, **settings: Any) -> GRPO:
    return GRPO(policy, env, env_kwargs=kwargs, **{**SMALL, **settings})


@pytest.mark.parametrize(("policy", "env", "kwargs", "settings"), CASES)
def test_everything_trains_there(policy: str, env: Any, kwargs: Any, settings: Any) -> None:
    with model_of(policy, env, kwargs, device=DEVICE.type, **settings) as model:
        for _ in range(2):
            model.train_iteration()
        devices = {each.device.type for each in model.policy.parameters()}
        assert devices == {DEVICE.type} == {model.optimizer._first.device.type, *devices} or (
            model.config.update == "trust_region"
        )
        assert all(bool(torch.isfinite(each).all()) for each in model.policy.parameters())
        assert np.isfinite(model.evaluate(2, deterministic=False).returns).all()


def test_it_learns_what_the_cpu_learns() -> None:
    weights = []
    for device in ("cpu", DEVICE.type):
        with model_of("mlp", "CartPole-v1", device=device) as model:
            first = model.policy.state_dict()["network.0.weight"].cpu().clone()
            model.train_iteration()
            weights.append((first, *(each.detach().cpu() for each in model.policy.parameters())))
    assert torch.equal(weights[0][0], weights[1][0])
    for here, there in zip(*weights, strict=True):
        torch.testing.assert_close(here, there, rtol=0.05, atol=2e-3)


def test_checkpoints_move(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with model_of("mlp", Everything, device=DEVICE.type, learned_baseline=True) as model:
        model.train_iteration()
        model.save(path)
    moved = GRPO.load(path, Everything, device="cpu")
    assert moved.policy.device == torch.device("cpu")
    assert moved.weights_sha256() == model.weights_sha256()
    there = GRPO.load(path, Everything)
    assert there.policy.device.type == DEVICE.type
    for each in (moved, there):
        with each:
            each.train_iteration()
            each.save(path)
    assert GRPO.load(path, Everything, device="cpu").iteration == 2


def test_exports_are_those_of_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = model_of("mlp", "CartPole-v1", device=DEVICE.type)
    model.export(tmp_path / "policy.safetensors")
    GRPO.load(_saved(model, tmp_path), device="cpu").export(tmp_path / "other.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("policy", "other")]
    assert len(files[0]) == len(files[1])


def _saved(model: GRPO, folder: Path) -> Path:
    model.save(folder / "model.ckpt")
    return folder / "model.ckpt"
