"""Nothing in a policy or its loss is made on the CPU where its weights are not.

The device `meta` stands for all of them: it computes shapes alone, and refuses to mix with the CPU.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym.policies.network import Policy
from grpo_gym.policies.registry import make_policy
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch, transformed
from grpo_gym.trainers.learning.loss import policy_loss

COUNT = 6
META = torch.device("meta")
NUMBERS = spaces.Box(-1.0, 1.0, (8,), np.float32)
LARGE = spaces.Box(-1e9, 1e9, (8,), np.float64)
IMAGE = spaces.Box(0, 255, (12, 12, 1), np.uint8)
CHOICE = spaces.Discrete(4)
PARTS = spaces.MultiDiscrete([3, 3])  # of one size: masks ask for numbers
TENSION = spaces.Box(-1.0, 1.0, (2,), np.float32)
CASES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("linear", NUMBERS, CHOICE, {}),
    ("mlp", NUMBERS, PARTS, {}),
    ("mlp", LARGE, TENSION, {}),
    ("mlp", NUMBERS, CHOICE, {"frame_history": 2, "activation": "silu"}),
    ("cnn", IMAGE, CHOICE, {}),
    ("combined", spaces.Dict({"image": IMAGE, "numbers": NUMBERS}), CHOICE, {}),
    ("board", spaces.Box(0.0, 1.0, (3, 2, 2), np.float32), CHOICE, {"channels": 4, "blocks": 1}),
    ("servers", NUMBERS, CHOICE, {"normalise_observations": True}),
    ("gru", NUMBERS, CHOICE, {"frame_history": 3}),
    ("temporal", NUMBERS, CHOICE, {"frame_history": 3}),
]


def policy_of(name: str, observations: Any, actions: Any, options: dict[str, Any]) -> Policy:
    config = GRPOConfig(hidden_sizes=(8,), **options)
    return make_policy(name, observations, actions, config, {})


def batch_of(policy: Policy) -> TrainingBatch:
    width = policy.frame_history * policy.rows.width
    rows = torch.zeros(COUNT, width, dtype=getattr(torch, policy.rows.dtype.name), device=META)
    outputs = policy(rows)
    assert outputs.device == META
    distribution = policy.distribution(outputs)
    noise = torch.zeros(COUNT, policy.head.num_components, device=META)
    actions = distribution.sample(noise)
    each = torch.zeros(COUNT, device=META)
    sequences = torch.zeros(COUNT, dtype=torch.int64)
    log_probs = distribution.log_prob(actions).detach()
    batch = TrainingBatch(
        rows, actions.detach(), log_probs, outputs.detach(), each, each, None, None, None
    )
    return replace(batch, sequences=sequences.to(META))


@pytest.mark.parametrize(("name", "observations", "actions", "options"), CASES)
def test_policies_follow_their_weights(
    name: str, observations: Any, actions: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which servers are there is asked of their numbers, of which this device has none.
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: name == "servers")
    policy = policy_of(name, observations, actions, options)
    policy.observe(torch.ones(3, policy.frame_history * policy.rows.width).to(torch.uint8))
    before = policy.state_dict()
    policy.to(META)
    assert policy.device == META and list(policy.state_dict()) == list(before)
    for key, value in policy.state_dict().items():
        statistic = before[key].dtype == torch.float64
        assert value.device.type == ("cpu" if statistic else "meta"), key
    batch = batch_of(policy)
    loss = policy_loss(policy, batch, None, GRPOConfig(entropy_coefficient=0.1))
    gradients = torch.autograd.grad(loss.total, list(policy.parameters()), allow_unused=True)
    assert all(each is None or each.device == META for each in gradients)
    for symmetry in policy.symmetries[1:]:
        policy_loss(policy, transformed(batch, symmetry), None, GRPOConfig())


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "unclipped"},
        {"objective": "upper_clipped"},
        {"objective": "cispo"},
        {"objective": "reinforce"},
        {"dual_clip": 3.0},
        {"kl_coefficient": 0.1, "kl_estimator": "exact"},
        {"kl_coefficient": 0.1, "kl_estimator": "k3_plus", "kl_reference": "collection"},
    ],
)
def test_losses_follow_their_steps(settings: dict[str, Any]) -> None:
    policy = policy_of("mlp", NUMBERS, PARTS, {}).to(META)
    config = GRPOConfig(**settings)
    reference = policy if config.kl_reference == "initial" else None
    loss = policy_loss(policy, batch_of(policy), reference, config)
    assert loss.total.device == META
    assert all(each.device == META for each in loss.sums.values())


def test_statistics_are_those_of_the_cpu() -> None:
    here, there = (policy_of("mlp", LARGE, CHOICE, {}) for _ in range(2))
    normaliser = there.to(META).normaliser
    rows = 1e6 + torch.arange(24, dtype=torch.float64).reshape(3, 8)
    for policy in (here, there):
        policy.observe(rows)
    assert normaliser is not None and here.normaliser is not None
    assert normaliser.shift.device == META
    for name in ("count", "mean", "sum_of_squares"):
        assert torch.equal(getattr(normaliser, name), getattr(here.normaliser, name))
