"""Gradients by hand are those of autograd."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_gym import GRPO
from grpo_gym.policies.network import Policy
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.registry import make_policy
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import TrainingBatch
from grpo_gym.trainers.learning.fused import products, shard_gradient
from grpo_gym.trainers.learning.fused.gradient import Fused, is_covered
from grpo_gym.trainers.learning.fused.networks import Network, forward_of, make_network
from grpo_gym.trainers.learning.fused.products import _HAS_ONEDNN, outer_product, product
from grpo_gym.trainers.learning.gradients import EXTRA, Autograd
from grpo_gym.trainers.learning.vectors import as_vector
from probe_envs import Countdown

FEATURES, STEPS = 7, 120
ACTIONS: dict[str, spaces.Space[Any]] = {
    "two choices": spaces.Discrete(2),
    "nine choices": spaces.Discrete(9, start=3),
    "components of unequal size": spaces.MultiDiscrete([3, 2, 5]),
    "bits": spaces.MultiBinary(3),
}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(policy: Policy, seed: int) -> Policy:
    """A copy with other weights, whose probabilities differ."""
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        for number, weights in enumerate(twin.parameters()):
            weights.add_(random(seed + number, *weights.shape) / weights.shape[-1] ** 0.5)
    return twin


def masks_of(space: spaces.Space[Any]) -> Tensor:
    """Random legal choices, at least one of each component."""
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [2, 2, 2]
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.tolist()
    parts = []
    for number, size in enumerate(sizes):
        part = random(40 + number, STEPS, size) > 0.0
        part[torch.arange(STEPS), torch.arange(STEPS) % size] = True
        parts.append(part)
    return torch.cat(parts, dim=1)


def case(
    config: GRPOConfig, policy: str, space: spaces.Space[Any], masked: bool = False
) -> tuple[Policy, TrainingBatch, Policy]:
    """A policy, a batch that another one acted in, and a reference."""
    observations = spaces.Box(-9.0, 9.0, (FEATURES,), np.float32)
    masks = masks_of(space) if masked else None
    return played(config, policy, observations, space, random(3, STEPS, FEATURES), masks)


def played(
    config: GRPOConfig,
    policy: str,
    observations: spaces.Space[Any],
    space: spaces.Space[Any],
    rows: Tensor,
    masks: Tensor | None,
) -> tuple[Policy, TrainingBatch, Policy]:
    """The same, for given steps."""
    torch.manual_seed(0)
    acted = make_policy(policy, observations, space, config, {})
    acted.observe(3.0 * random(1, *rows.shape) + 1.0)
    acted = moved(acted, 2)
    with torch.no_grad():
        outputs = acted(rows)
        old = acted.distribution(outputs, masks)
        noise = torch.rand(STEPS, acted.head.num_components, generator=torch.Generator())
        actions = old.sample(noise)
    advantages = random(4, STEPS)
    advantages[::7] = 0.0
    weights = random(5, STEPS).abs() / STEPS
    log_probs = old.log_prob(actions)
    batch = TrainingBatch(rows, actions, log_probs, outputs, advantages, weights, None, None, masks)
    return moved(acted, 20), batch, moved(acted, 30)


def both(
    config: GRPOConfig, policy: Policy, batch: TrainingBatch, reference: Policy | None
) -> tuple[Tensor, Tensor]:
    """What the gradient by hand and autograd find in a shard of some steps."""
    parameters = list(policy.parameters())
    assert is_covered(policy, parameters, config)
    steps = torch.randperm(STEPS, generator=torch.Generator())[:93]
    weights = as_vector(parameters)
    fused = Fused(policy, batch, reference, config, weights)
    autograd = Autograd(policy, parameters, batch, reference, config, weights)
    fused(steps[:5], 1.0, None)  # memory is used again
    return fused(steps, 1.7, None), autograd(steps, 1.7, None)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    gradient, wanted_gradient = found[:-EXTRA], wanted[:-EXTRA]
    assert float(wanted_gradient.norm()) > 1e-3
    assert float((gradient - wanted_gradient).norm() / wanted_gradient.norm()) < 1e-5
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[-EXTRA:], wanted[-EXTRA:], rtol=1e-5, atol=1e-5)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "clipped": {},
    "dual clip": {"dual_clip": 1.3},
    "clipped above only": {"clip_low": 1.0, "clip_high": 0.1},
    "unclipped": {"objective": "unclipped"},
    "upper clipped": {"objective": "upper_clipped"},
    "cispo": {"objective": "cispo"},
    "reinforce": {"objective": "reinforce"},
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("space", ACTIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives(objective: str, space: str, masked: bool) -> None:
    config = GRPOConfig(**OBJECTIVES[objective], entropy_coefficient=0.05, hidden_sizes=(16,))
    policy, batch, _ = case(config, "mlp", ACTIONS[space], masked)
    found, wanted = both(config, policy, batch, None)
    assert_same(found, wanted)
    low, high = wanted[-2:].tolist()
    assert (low > 0.0) == (objective in ("clipped", "dual clip", "cispo"))
    assert (high > 0.0) == (objective not in ("unclipped", "reinforce"))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("kind", ["exact", "k1", "k2", "k3", "k3_plus"])
@pytest.mark.parametrize("space", ["nine choices", "components of unequal size"])
def test_kl_penalties(kind: Any, reference: bool, space: str, masked: bool) -> None:
    config = GRPOConfig(kl_coefficient=0.7, kl_estimator=kind, hidden_sizes=(16,))
    policy, batch, other = case(config, "mlp", ACTIONS[space], masked)
    found, wanted = both(config, policy, batch, other if reference else None)
    assert_same(found, wanted)
    assert abs(float(wanted[-4])) > 1e-2  # the penalty
    if reference:
        assert float((both(config, policy, batch, None)[0] - found).norm()) > 1e-2


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("hidden_sizes", [(8,), (16, 8), (8, 16, 8)])
def test_networks(hidden_sizes: tuple[int, ...], activation: Any) -> None:
    config = GRPOConfig(hidden_sizes=hidden_sizes, activation=activation)
    policy, batch, _ = case(config, "mlp", ACTIONS["nine choices"])
    assert_same(*both(config, policy, batch, None))


@pytest.mark.parametrize("normalise", [False, True])
def test_a_linear_policy(normalise: bool) -> None:
    config = GRPOConfig(normalise_observations=normalise)
    policy, batch, _ = case(config, "linear", ACTIONS["two choices"])
    assert_same(*both(config, policy, batch, None))


SERVERS = 5


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(
    ("shared", "settings"),
    [
        (0, {}),
        (2, {"normalise_observations": True, "kl_coefficient": 0.3}),
        (1, {"frame_history": 2, "server_width": 8}),
    ],
)
def test_servers(shared: int, settings: dict[str, Any], absent: bool) -> None:
    """Some of which are absent, and some alike, so that they share the maximum."""
    config = GRPOConfig(shared_features=shared, **settings)
    frames, size = config.frame_history, SERVERS * 3 + shared
    rows = random(3, STEPS, frames, size)
    rows[::3, :, 3:6] = rows[::3, :, :3]
    masks = None
    if absent:
        masks = torch.ones(STEPS, SERVERS, dtype=torch.bool)
        for server, every in ((1, 2), (4, 5)):
            rows[::every, :, server * 3 : server * 3 + 3] = -1.0
            masks[::every, server] = False
    space = spaces.Box(-9.0, 9.0, (size,), np.float32)
    policy, batch, other = played(
        config, "servers", space, spaces.Discrete(SERVERS), rows.flatten(1), masks
    )
    assert_same(*both(config, policy, batch, other))
    if absent:  # and where nothing says that their actions are illegal
        batch = TrainingBatch(**{**vars(batch), "action_masks": None})
        assert_same(*both(config, policy, batch, other))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ratios_beyond_any_bound(objective: str) -> None:
    """Where exp would overflow the ratio is constant, for autograd too."""
    config = GRPOConfig(
        **OBJECTIVES[objective], kl_coefficient=0.1, kl_estimator="k3", max_grad_norm=1e9
    )
    policy, batch, other = case(config, "mlp", ACTIONS["nine choices"])
    far = torch.tensor([-30.0, 0.0, 30.0]).repeat(STEPS // 3)
    batch = TrainingBatch(**{**vars(batch), "old_log_probs": batch.old_log_probs + far})
    found, wanted = both(config, policy, batch, other)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=1e-5 * float(wanted.norm()))


# Which policies


class Net(nn.Sequential):
    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        assert isinstance(action_space, spaces.Discrete)
        super().__init__(nn.Linear(1, int(action_space.n)))


Case = tuple[Any, Any, dict[str, Any]]
COVERED: list[Case] = [
    ("linear", Countdown, {}),
    ("mlp", Countdown, {"objective": "cispo", "minibatches": "groups"}),
    ("mlp", "CartPole-v1", {"frame_history": 3}),
    ("servers", "LoadBalancer-v0", {}),
]
OTHERS: list[Case] = [
    (Net, Countdown, {}),
    ("gru", Countdown, {"frame_history": 2}),
    ("mlp", "Pendulum-v1", {}),
    ("mlp", Countdown, {"ratio": "sequence"}),
]


@pytest.mark.parametrize("kind", [*COVERED, *OTHERS], ids=str)
def test_what_is_covered(kind: Case) -> None:
    policy, env, settings = kind
    model = GRPO(policy, env, num_groups=2, group_size=2, **settings)
    parameters = model.optimizer.trainable
    assert is_covered(model.policy, parameters, model.config) == (kind in COVERED)


def test_what_a_user_changed_is_not_covered() -> None:
    def covered(model: GRPO) -> bool:
        return is_covered(model.policy, model.optimizer.trainable, model.config)

    def fresh() -> GRPO:
        return GRPO("mlp", Countdown, num_groups=2, group_size=2)

    assert covered(fresh())
    frozen, precise, deeper = fresh(), fresh(), fresh()
    frozen.policy.network[0].requires_grad_(False)
    precise.policy.double()
    deeper.policy.network.insert(1, nn.LayerNorm(64))
    assert [covered(model) for model in (frozen, precise, deeper)] == [False] * 3


@pytest.mark.parametrize(
    ("policy", "env"), [("linear", Countdown), ("mlp", Countdown), ("servers", "LoadBalancer-v0")]
)
def test_training_is_that_of_autograd_but_for_rounding(
    policy: str, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> Tensor:
        model = GRPO(policy, env, num_groups=6, group_size=4, max_episode_steps=9, seed=1)
        for _ in range(2):
            model.train_iteration()
        return as_vector(list(model.policy.parameters()))

    found = trained()
    used: list[type] = []

    def by_autograd(policy: Any, parameters: Any, batch: Any, *arguments: Any) -> Any:
        gradient = shard_gradient(policy, parameters, batch, *arguments)
        used.append(type(gradient))
        return Autograd(policy, parameters, batch, *arguments)

    monkeypatch.setattr("grpo_gym.trainers.learning.update.shard_gradient", by_autograd)
    torch.testing.assert_close(found, trained(), rtol=1e-3, atol=1e-4)
    assert used == [Fused] * 2


# Outputs without a graph


@pytest.mark.parametrize(
    ("policy", "space", "settings"),
    [
        ("linear", spaces.Discrete(3), {}),
        ("mlp", spaces.MultiDiscrete([2, 4]), {"normalise_observations": False}),
        ("mlp", spaces.Discrete(3), {"activation": "relu"}),
        ("mlp", spaces.Box(-1.0, 1.0, (2,), np.float32), {"activation": "silu"}),
        ("servers", spaces.Discrete(7), {"shared_features": 0}),
    ],
)
def test_outputs(policy: str, space: spaces.Space[Any], settings: dict[str, Any]) -> None:
    """They follow the weights, and are not numbers where a weight is none."""
    observations = spaces.Box(-9.0, 9.0, (FEATURES,), np.float32)
    made = make_policy(policy, observations, space, GRPOConfig(**settings), {})
    forward, rows = forward_of(made), random(0, 20, FEATURES)
    assert forward is not made
    made.observe(3.0 * random(1, 99, FEATURES) + 1.0)
    with torch.inference_mode():
        for weights in (None, *made.parameters()):
            if weights is not None:
                weights.add_(random(2, *weights.shape))
            torch.testing.assert_close(forward(rows), made(rows), rtol=1e-4, atol=1e-4)
        for weights in made.parameters():
            kept = weights.clone()
            weights.fill_(torch.nan)
            assert not bool(torch.isfinite(forward(rows)).all())
            weights.copy_(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_the_policys_to_the_last_bit(dtype: torch.dtype) -> None:
    policy = make_policy(
        "linear", spaces.Box(-9.0, 9.0, (33,)), spaces.Discrete(3), GRPOConfig(), {}
    )
    normaliser = policy.normaliser
    assert normaliser is not None
    normaliser.update(3.0 * random(1, 50, 33) + 2.0)
    rows = (40.0 * random(2, 800, 33)).to(dtype)
    rows[:3, :2] = torch.tensor([torch.nan, torch.inf])
    assert int((policy.features(rows).abs() == normaliser.clip).sum()) > 100
    network = network_of(policy)
    for _ in range(2):
        found, wanted = network.pack(rows), policy.features(rows)
        assert found.dtype == wanted.dtype
        assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))
        normaliser.update(rows[3:])  # which the network follows


def test_a_normaliser_of_a_user_is_asked() -> None:
    policy = make_policy("mlp", spaces.Box(-9.0, 9.0, (3,)), spaces.Discrete(3), GRPOConfig(), {})
    policy.normaliser = Halved(3)
    network = network_of(policy)
    assert torch.equal(network.pack(torch.ones(2, 3)), torch.full((2, 3), 0.5))


def network_of(policy: Policy) -> Network:
    weights: dict[Tensor, Tensor] = {each: each.detach() for each in policy.parameters()}
    return make_network(policy, weights, weights)


class Halved(RunningNormaliser):
    def forward(self, observations: Tensor) -> Tensor:
        return 0.5 * observations


def test_outputs_of_other_policies_are_their_own() -> None:
    model = GRPO("gru", Countdown, num_groups=2, group_size=2, frame_history=2)
    assert forward_of(model.policy) is model.policy
    precise = GRPO("mlp", Countdown, num_groups=2, group_size=2).policy.double()
    assert forward_of(precise) is precise


# Products


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(5, 3, 4), (803, 64, 64), (700, 80, 64)])
def test_products_are_those_of_torch(rows: int, inputs: int, outputs: int) -> None:
    """Small and large ones."""
    left, weights = random(0, rows, inputs), random(1, outputs, inputs)
    slopes = random(2, rows, outputs)
    torch.testing.assert_close(product(left, weights), left @ weights.t(), rtol=1e-4, atol=1e-4)
    back = product(slopes, weights.t())
    torch.testing.assert_close(back, slopes @ weights, rtol=1e-4, atol=1e-4)
    found = torch.empty(outputs, inputs)
    outer_product(slopes, left, found)
    torch.testing.assert_close(found, slopes.t() @ left, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not _HAS_ONEDNN, reason="this build of torch has no oneDNN")
def test_large_products_are_made_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    multiplied = products._multiplied

    def spy(rows: Tensor, weights: Tensor) -> Tensor:
        calls.append(rows.shape)
        return multiplied(rows, weights)

    monkeypatch.setattr(products, "_multiplied", spy)
    rows, wide = random(0, 700, 64), random(1, 700, 80)
    weights = random(2, 64, 64)
    product(rows, weights)
    product(wide[:, :64], weights)  # not contiguous
    product(rows[:9], weights)
    outer_product(rows, rows, torch.empty(64, 64))
    assert calls == [rows.shape, (64, 700)]
