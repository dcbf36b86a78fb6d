"""Networks with a structure of their own in training, up to a file and back."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_gym import GRPO
from memory_envs import Amount, Delay, Echo, Parts
from probe_envs import Extreme

BOARDS: dict[str, Any] = {"preset": "microgrpo-5x5", "reward": "hits"}
SHORT: dict[str, Any] = {"episode_length": 25}
SMALL: dict[str, dict[str, Any]] = {
    "board": {"env": "Battleship-v0", "env_kwargs": BOARDS, "channels": 6, "blocks": 2},
    "servers": {"env": "LoadBalancer-v0", "env_kwargs": SHORT, "server_width": 8},
    "gru": {"env": Echo, "gru_width": 12, "hidden_sizes": (12,)},
    "temporal": {
        "env": Echo, "lstm_width": 12, "lstm_layers": 1, "attention_heads": 2,
        "transformer_heads": 3, "feedforward_width": 8,
    },
}  # fmt: skip
ON_BOARDS: list[dict[str, Any]] = [
    {"blocks": 1},
    {"augment_symmetries": True},
    {"frame_history": 3, "normalise_observations": True},
    {"preset": "trust_region"},
    {
        "env_kwargs": {
            "board_size": (3, 6), "fleet": (3, 2), "allow_touch": False, "reward": "shots",
        }
    },
    {"env_kwargs": {"preset": "uniform-5x5", "mask_repeats": False}},
    {"env_kwargs": {"board_size": 6, "observation": "planes_density", "fleet": (3, 2)}},
]  # fmt: skip
ON_SERVERS: list[dict[str, Any]] = [
    {},
    {"frame_history": 3, "normalise_observations": True, "kl_coefficient": 0.1},
    {"preset": "trust_region"},
    {"learned_baseline": True},
    {"env": Extreme, "env_kwargs": {}, "preset": "trust_region"},
    {"env": Extreme, "env_kwargs": {}, "normalise_observations": True, "entropy_coefficient": 0.01},
]
ON_HISTORIES: list[dict[str, Any]] = [
    {},
    {"normalise_observations": False, "kl_coefficient": 0.1, "preset": "dapo"},
    {"preset": "trust_region"},
    {"learned_baseline": True},
    {"env": Parts, "ratio": "sequence", "entropy_coefficient": 0.01},
    {"env": Amount, "preset": "trust_region"},
    {"env": Delay, "frame_history": 3},
    {"env": Delay, "frame_history": 3, "preset": "vine", "branch_every": 2},
]
SETTINGS = [
    *(("board", options) for options in ON_BOARDS),
    *(("servers", options) for options in ON_SERVERS),
    *((policy, options) for policy in ("gru", "temporal") for options in ON_HISTORIES),
]
IDLE = {"board": "network.5.bias", "servers": "none", "gru": "none", "temporal": "key.bias"}
"""Weights that add the same to all cells, or to all scores of a query, so that nothing changes."""


def small(policy: str, **options: Any) -> GRPO:
    return GRPO(policy, **{"num_groups": 4, "group_size": 4, **SMALL[policy], **options})


@pytest.mark.parametrize(("policy", "options"), SETTINGS)
def test_two_iterations(policy: str, options: dict[str, Any]) -> None:
    model = small(policy, **options)
    digests = {model.weights_sha256()}
    for _ in range(2):
        stats = model.train_iteration()
        assert stats.update is not None
        values = [stats.update.loss, stats.update.kl, stats.update.gradient_norm]
        assert all(map(math.isfinite, values))
        digests.add(model.weights_sha256())
    assert len(digests) == 3
    assert math.isfinite(model.evaluate(4).mean_return)


@pytest.mark.parametrize("policy", SMALL)
def test_every_weight_learns(policy: str) -> None:
    model = small(policy, num_groups=6)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    for _ in range(2):
        model.train_iteration()
    for name, parameter in model.policy.named_parameters():
        if not name.endswith(IDLE[policy]):
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("policy", SMALL)
def test_equal_seeds_learn_alike(policy: str) -> None:
    digests = [small(policy, seed=seed).learn(150).weights_sha256() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("policy", SMALL)
def test_saved_and_loaded_it_plays_and_learns_on_the_same(policy: str, tmp_path: Path) -> None:
    # Slowly: the policy stays unsure of its actions, so that groups go on to differ.
    model = small(policy, learning_rate=1e-3).learn(50)
    digest = model.save(tmp_path / "model.grpo")
    loaded = GRPO.load(tmp_path / "model.grpo", env=SMALL[policy]["env"])
    assert (loaded.policy_source, loaded.config) == (policy, model.config)
    assert loaded.weights_sha256() == digest == model.weights_sha256()
    for deterministic in (True, False):
        returns = [one.evaluate(9, deterministic=deterministic).returns for one in (model, loaded)]
        assert returns[0].tolist() == returns[1].tolist()
    for one in (model, loaded):
        assert one.train_iteration().update is not None
    assert loaded.weights_sha256() == model.weights_sha256() != digest
