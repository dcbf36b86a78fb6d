"""Policies on NumPy do what they do in torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from exported_models import (
    FOUR,
    HALF_BOUNDED,
    IMAGE,
    MIXED,
    VECTOR,
    make_model,
    masks_for,
    observations,
)
from grpo_gym.inference import NumpyPolicy
from grpo_gym.policies.distributions import Categorical
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.pretrained import router_file

pytest.importorskip("safetensors")

SERVERS = spaces.Box(-1.0, 1.0, (26,))
LARGE = spaces.Box(1e8, 1.0001e8, (3,), np.float64)
CASES: dict[str, Any] = {
    "linear": ("linear", VECTOR, spaces.Discrete(3, start=2), {}),
    "linear, Box": ("linear", VECTOR, HALF_BOUNDED, {}),
    "mlp, history": ("mlp", VECTOR, spaces.MultiDiscrete([2, 5, 3]), {"frame_history": 3}),
    "mlp, silu, parts": ("mlp", MIXED, spaces.MultiBinary((2, 2)), {"activation": "silu"}),
    "mlp, relu, bytes": ("mlp", spaces.Dict(a=IMAGE, b=VECTOR), FOUR, {"activation": "relu"}),
    "mlp, large numbers": ("mlp", LARGE, FOUR, {"normalise_observations": True}),
    "mlp, plain": ("mlp", VECTOR, FOUR, {"normalise_observations": False}),
    "servers": ("servers", SERVERS, FOUR, {}),
    "servers, normalised": ("servers", SERVERS, FOUR, {"normalise_observations": True}),
    "servers, rows, history": (
        "servers", spaces.Box(-1.0, 1.0, (4, 6)), FOUR,
        {"frame_history": 2, "normalise_observations": True},
    ),
}  # fmt: skip


def exported(model: GRPO, folder: Path) -> NumpyPolicy:
    model.export(folder / "policy.safetensors")
    return NumpyPolicy.load(folder / "policy.safetensors", seed=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_actions_are_those_of_torch(case: Any, tmp_path: Path) -> None:
    network, observed, acts, settings = case
    model = make_model(network, observed, acts, **settings)
    policy = exported(model, tmp_path)
    state = theirs = None
    for step in range(4):
        batch = observations(observed, 9, seed=step)
        masks = masks_for(acts, 9, seed=step)
        start = np.arange(9) % 4 == step
        found, state = policy.predict(batch, state, start, action_masks=masks)
        wanted, theirs = model.predict(batch, theirs, start, True, masks)
        if masks is None:
            np.testing.assert_allclose(found, wanted, 1e-5, 1e-5)
        else:
            np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


@pytest.mark.parametrize("name", ["linear", "servers, normalised", "servers, rows, history"])
def test_extreme_features_and_absent_servers_count_as_in_torch(name: str, tmp_path: Path) -> None:
    network, observed, acts, settings = CASES[name]
    model = make_model(network, observed, acts, **settings)
    policy = exported(model, tmp_path)
    history = model.config.frame_history
    rows = np.random.default_rng(0).uniform(-40, 40, (8, history, int(np.prod(observed.shape))))
    rows = rows.astype(np.float32)
    if network == "servers":
        rows[:4, 0, :6] = -1.0  # in the oldest frame, which with a history is not the newest
        rows[2:6, -1, 6:12] = -1.0
    rows = rows.reshape(8, -1)
    with torch.inference_mode():
        found = model.policy.finite_distribution(torch.from_numpy(rows), None)
    assert isinstance(found, Categorical)
    for row, wanted in zip(rows, found.log_probs[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(policy.scores(row), wanted, 1e-5, 1e-4)


def test_large_numbers_keep_what_changes(tmp_path: Path) -> None:
    network, observed, acts, settings = CASES["mlp, large numbers"]
    model = make_model(network, observed, acts, **settings)
    policy = exported(model, tmp_path)
    for row in observations(observed, 8, seed=3):
        wanted = np.log(model.probabilities(row))
        np.testing.assert_allclose(policy.scores(row), wanted, 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["linear", "linear, Box", "mlp, history", "servers"])
def test_samples_are_distributed_as_in_torch(name: str, tmp_path: Path) -> None:
    network, observed, acts, settings = CASES[name]
    model = make_model(network, observed, acts, **settings)
    policy = exported(model, tmp_path)
    many = np.repeat(observations(observed, 1, seed=5), 4000, axis=0)
    masks = masks_for(acts, 1, seed=5)
    mask = None if masks is None else masks[0]
    ours, theirs = (
        each.predict(many, deterministic=False, action_masks=mask)[0].reshape(4000, -1)
        for each in (policy, model)
    )
    error = np.hypot(ours.std(0), theirs.std(0)) / np.sqrt(4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error).all()
    assert theirs.std(0).max() > 0.1
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("known", [{}, {"observe_size": False}, {"observe_weights": False}])
def test_the_pretrained_router_from_its_checkpoint(known: dict[str, bool]) -> None:
    kwargs = {"preset": "fleets", **known}
    policy, model = NumpyPolicy.load(router_file(kwargs)), GRPO.load(router_file(kwargs))
    assert policy.card["env_id"] == "LoadBalancer-v0"
    features = policy.observation_space.shape[0] // 24  # type: ignore[index]
    shared = policy.observation_space.shape[0] % 24  # type: ignore[index]
    generator = np.random.default_rng(0)
    for servers in (1, 4, 24, 64):
        rows = generator.uniform(0, 1, (6, servers * features + shared)).astype(np.float32)
        rows[::2, :features] = -1.0 if servers > 1 else rows[::2, :features]
        mask = generator.random((6, servers)) < 0.5
        mask[:, -1] = True
        with torch.inference_mode():
            found = model.policy.finite_distribution(torch.from_numpy(rows), torch.from_numpy(mask))
        assert isinstance(found, Categorical)
        wanted = found.log_probs[:, 0].numpy()
        for row, legal, expected in zip(rows, mask, wanted, strict=True):
            np.testing.assert_allclose(policy.scores(row, legal), expected, 1e-5, 1e-5)
        actions, _ = policy.predict(rows, action_masks=mask)
        np.testing.assert_array_equal(actions, wanted.argmax(axis=1))
        assert policy.predict(rows[1], action_masks=mask[1])[0] == wanted[1].argmax()


def test_a_file_has_a_card_and_the_weights_that_torch_has(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = GRPO("mlp", "CartPole-v1", env_kwargs={"max_episode_steps": 30}, seed=3)
    model.learn(1)
    policy = exported(model, tmp_path)
    with safe_open(tmp_path / "policy.safetensors", framework="pt") as file:
        card = json.loads(file.metadata()["grpo_gym_card"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert policy.card == card
    assert card["env_id"] == "CartPole-v1"
    assert card["env_kwargs"] == {"max_episode_steps": 30}
    assert card["training"]["steps"] == model.num_steps > 0
    assert card["training"]["settings"]["seed"] == 3
    assert card["options"]["hidden_sizes"] == [64, 64]
    assert card["weights_sha256"] == model.weights_sha256()
    assert policy.observation_space == model.observation_space
    state = model.policy.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_it_runs_without_torch() -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from grpo_gym.inference import NumpyPolicy
policy = NumpyPolicy.load({str(router_file({"preset": "fleets"}))!r})
print(policy.kind, policy.predict(np.zeros(217, np.float32))[0], len(policy.scores(np.zeros(37))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["servers", "0", "4"]


def test_observations_and_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    policy = exported(make_model("servers", SERVERS, FOUR), tmp_path)
    with pytest.raises(ConfigError, match=r"observation must have shape \(26,\), got \(25,\)"):
        policy.scores(np.zeros(25, np.float32))
    with pytest.raises(ConfigError, match=r"mask must be bool of shape \(4,\), got bool of shape"):
        policy.scores(np.zeros(26, np.float32), np.ones(5, np.bool_))
    with pytest.raises(ConfigError, match="mask must allow an action, got none"):
        policy.scores(np.zeros(26, np.float32), np.zeros(4, np.bool_))
    with pytest.raises(ConfigError, match="observation must be finite"):
        policy.scores(np.full(26, np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="outputs must be finite"):
        policy.scores(np.full(26, 3e38, np.float32))
    with pytest.raises(ConfigError, match="observation must be finite"):
        policy.predict(np.full(26, np.inf, np.float32))
    box = exported(make_model("linear", VECTOR, HALF_BOUNDED), tmp_path)
    with pytest.raises(ConfigError, match="actions must be choices"):
        box.scores(np.zeros(12, np.float32))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    model = make_model("board", spaces.Box(0.0, 1.0, (3, 3)), spaces.Discrete(9))
    with pytest.raises(CheckpointError, match=r"must be one of linear, mlp, servers .* 'board'"):
        exported(model, tmp_path)


def test_a_checkpoint_whose_spaces_tell_too_little_asks_for_an_export(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    make_model("mlp", MIXED, FOUR).save(path)
    with pytest.raises(CheckpointError, match=r"without torch: load it with GRPO and export it"):
        NumpyPolicy.load(path)
