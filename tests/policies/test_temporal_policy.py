"""The policies that read a history: `gru` and `temporal`."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_gym import GRPO
from grpo_gym.policies import history
from grpo_gym.policies.gru import GRUPolicy
from grpo_gym.policies.history import (
    HistoryLayout,
    HistoryNormaliser,
    HistoryPolicy,
    find_history,
    orthogonal_recurrence,
)
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.policies.options import GRUOptions, NetworkConfig, TemporalOptions
from grpo_gym.policies.registry import make_policy, policy_names
from grpo_gym.policies.temporal import Attention, TemporalPolicy, TransformerLayer
from grpo_gym.rollouts.spaces import flatten_one
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.learning.batch import training_batch
from grpo_gym.trainers.learning.trust_region import fisher_product
from grpo_gym.trainers.presets import make_config
from memory_envs import METRICS, STEPS, Amount, Delay, Echo, Parts

KINDS = ["gru", "temporal"]
SMALL: dict[str, Any] = {
    "num_groups": 2, "group_size": 4, "gru_width": 12, "hidden_sizes": (12,), "lstm_width": 12,
    "lstm_layers": 1, "attention_heads": 2, "transformer_heads": 3, "feedforward_width": 8,
}  # fmt: skip


def make(kind: str, env: gym.Env[Any, Any] | None = None, **options: Any) -> HistoryPolicy:
    """A small policy whose scores are not near zero any more."""
    torch.set_num_threads(1)  # as GRPO does
    torch.manual_seed(0)
    seen = env or Echo()
    policy: HistoryPolicy
    if kind == "gru":
        gru = GRUOptions(**{"gru_width": 12, **options})
        policy = GRUPolicy(seen.observation_space, seen.action_space, gru)
    else:
        sizes = {"lstm_width": 12, "attention_heads": 2, "transformer_heads": 3}
        temporal = TemporalOptions(**{**sizes, "transformer_layers": 2, **options})
        policy = TemporalPolicy(seen.observation_space, seen.action_space, temporal)
    last: Any = policy.network[-1]
    with torch.no_grad():
        last.weight.mul_(100.0)
    return policy


def scores(policy: HistoryPolicy, rows: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = policy(rows)
    return found


# Where the history lies


def test_a_dict_is_split_into_history_and_current_features() -> None:
    space = Echo.observation_space
    layout = find_history(space, 1, "gru")
    assert layout == HistoryLayout(steps=STEPS, metrics=METRICS, start=1, size=1 + 12 + 2)
    seen = {"current": [7.0], "history": np.arange(12.0).reshape(6, 2), "nothing": 1}
    past, current = layout.split(torch.from_numpy(flatten_one(space, seen)))
    assert past.tolist() == [seen["history"].tolist()]  # type: ignore[attr-defined]
    assert current.tolist() == [[7.0, 0.0, 1.0]]
    assert layout.current_size == 3


@pytest.mark.parametrize(
    ("space", "frames", "steps", "metrics"),
    [
        (spaces.Box(-1.0, 1.0, (5, 3)), 1, 5, 3),
        (spaces.Dict({"past": spaces.Box(-1.0, 1.0, (5, 3))}), 1, 5, 3),
        (spaces.Box(-1.0, 1.0, (3,)), 5, 5, 3),
        (spaces.Box(-1.0, 1.0, (1, 3)), 5, 5, 3),
        (spaces.Discrete(3), 5, 5, 3),
        (spaces.Dict({"a": spaces.Box(0.0, 1.0, (1,)), "b": spaces.Discrete(2)}), 5, 5, 3),
        (spaces.Box(-1.0, 1.0, (2, 2, 3)), 5, 5, 12),
    ],
)
def test_without_anything_else_the_last_step_is_current(
    space: gym.Space[Any], frames: int, steps: int, metrics: int
) -> None:
    layout = find_history(space, frames, "gru")
    assert layout == HistoryLayout(steps, metrics, 0, steps * metrics)
    rows = torch.arange(2.0 * steps * metrics).reshape(2, -1)
    past, current = layout.split(rows)
    assert torch.equal(past.flatten(1), rows)
    assert torch.equal(past[1, 1], rows[1, metrics : 2 * metrics])
    assert torch.equal(current, rows[:, -metrics:])
    assert layout.current_size == metrics


TWO = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (5, 3)), "b": spaces.Box(-1.0, 1.0, (4, 3))})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "space", [spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3), TWO, spaces.Box(0.0, 1.0, (1, 3))]
)
def test_no_history_is_refused(kind: str, space: gym.Space[Any]) -> None:
    def build(frame_history: int) -> HistoryPolicy:
        options = NetworkConfig(frame_history=frame_history)
        policy = make_policy(kind, space, spaces.Discrete(2), options, {})
        assert isinstance(policy, HistoryPolicy)
        return policy

    with pytest.raises(ConfigError, match=rf"exactly one history.*{kind}.*raise frame_history"):
        build(1)
    assert build(2).layout.steps == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_history_of_histories_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"frame_history must be 1 for .*{kind}.*got 3 with"):
        GRPO(kind, Echo, frame_history=3)


def test_settings_that_do_not_fit_are_refused() -> None:
    for name in ("attention_heads", "transformer_heads"):
        with pytest.raises(ConfigError, match=f"{name} must divide lstm_width 128, got 5: choose"):
            make_config(None, **{name: 5})
    with pytest.raises(ConfigError, match="attention_heads must divide lstm_width 10, got 4"):
        make_config(lstm_width=10)
    with pytest.raises(ConfigError, match="transformer_heads must divide lstm_width 12, got 5"):
        make("temporal", transformer_heads=5)
    for name, low in {"gru_width": 1, "lstm_layers": 1, "transformer_layers": 0}.items():
        with pytest.raises(ConfigError, match=f"{name} must be >= {low}"):
            make_config(None, **{name: low - 1})
    assert set(KINDS) < set(policy_names())


# The network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", [(), (0,), (1,), (6,), (4, 3), (2, 1, 3)])
def test_scores_have_the_leading_axes_of_observations(kind: str, leading: tuple[int, ...]) -> None:
    policy = make(kind)
    observations = torch.rand(*leading, 15)
    found = scores(policy, observations)
    assert found.shape == (*leading, 4)
    each = [scores(policy, row) for row in observations.reshape(-1, 15)]
    if each:
        torch.testing.assert_close(found.reshape(-1, 4), torch.stack(each), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_steps_matters(kind: str) -> None:
    """Also of those in the middle, which a look at first and last would not see."""
    policy = make(kind)
    rows = torch.rand(20, 15)
    before = scores(policy, rows)
    for order in ([0, 2, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5]):
        moved = rows.clone()
        past = rows[:, 1:13].unflatten(1, (STEPS, METRICS))
        moved[:, 1:13] = past[:, order].flatten(1)
        assert float((scores(policy, moved) - before).abs().max(dim=1).values.min()) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_matters(kind: str) -> None:
    """What is current, by itself, and each number of the history."""
    policy = make(kind)
    rows = torch.rand(5, 15).requires_grad_()
    (slope,) = torch.autograd.grad(policy(rows)[:, 0].sum(), rows)
    assert bool((slope.abs() > 1e-6).all())
    changed = rows.detach().clone()
    changed[:, 0] += 1.0
    difference = scores(policy, changed) - scores(policy, rows)
    assert float(difference.abs().min()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_nearly_uniform(kind: str) -> None:
    space = spaces.Dict(
        {
            "current_metrics": spaces.Box(-1.0, 1.0, (10,)),
            "metrics_history": spaces.Box(-1.0, 1.0, (60, 10)),
        }
    )
    torch.manual_seed(0)
    policy = make_policy(kind, space, spaces.MultiDiscrete([7, 7, 11]), NetworkConfig(), {})
    assert isinstance(policy, HistoryPolicy)
    found = scores(policy, torch.rand(50, 610) * 2.0 - 1.0)
    assert found.shape == (50, 25)
    assert 0.0 < float(found.abs().max()) < 0.1
    assert not [module for module in policy.modules() if isinstance(module, nn.Dropout)]


def test_weights_of_each_gate_are_orthogonal() -> None:
    for module in (nn.LSTM(3, 8, 2), nn.GRU(3, 8)):
        orthogonal_recurrence(module)  # type: ignore[type-var]
        for name, parameter in module.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.split(8):
                    torch.testing.assert_close(
                        gate.mT @ gate, torch.eye(gate.shape[1]), atol=1e-5, rtol=0.0
                    )
            else:
                kept = [0.0] * 8 + [float("bias_ih" in name)] * 8
                assert parameter.tolist() == kept + [0.0] * (len(parameter) - 16)


def test_recurrence_keeps_what_it_has_seen_at_first() -> None:
    """The bias of 1 is on the gate that keeps: with it the first step is felt much longer."""

    def felt(bias: float) -> list[float]:
        slopes = []
        kinds: tuple[Any, ...] = (nn.LSTM, nn.GRU)
        for kind in kinds:
            torch.manual_seed(0)
            module: Any = orthogonal_recurrence(kind(2, 16, batch_first=True))
            with torch.no_grad():
                module.bias_ih_l0[16:32] = bias
            past = (0.1 * torch.randn(8, 20, 2)).requires_grad_()
            (slope,) = torch.autograd.grad(module(past)[0][:, -1].square().sum().sqrt(), past)
            slopes.append(float(slope[:, 0].norm()))
        return slopes

    for with_bias, without in zip(felt(1.0), felt(0.0), strict=True):
        assert with_bias > 10.0 * without


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_attention_is_that_of_torch(heads: int) -> None:
    torch.manual_seed(heads)
    ours, theirs = Attention(12, heads), nn.MultiheadAttention(12, heads, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    queries, tokens = torch.randn(4, 3, 12), torch.randn(4, 7, 12)
    wanted, _ = theirs(queries, tokens, tokens)
    torch.testing.assert_close(ours(queries, tokens), wanted, atol=1e-5, rtol=1e-5)


def test_a_transformer_layer_is_that_of_torch_whatever_is_read_of_it() -> None:
    torch.manual_seed(0)
    ours = TransformerLayer(12, 3, 20)
    theirs = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True, norm_first=True)
    parts = (ours.attention.query, ours.attention.key, ours.attention.value)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    pairs = [
        (theirs.self_attn.out_proj, ours.attention.output),
        (theirs.norm1, ours.normalisation),
        (theirs.norm2, ours.feedforward[0]),
        (theirs.linear1, ours.feedforward[1]),
        (theirs.linear2, ours.feedforward[3]),
    ]
    for mine, yours in pairs:
        mine.load_state_dict(yours.state_dict())
    tokens = torch.randn(4, 7, 12)
    wanted = theirs(tokens)
    torch.testing.assert_close(ours(tokens), wanted, atol=1e-5, rtol=1e-5)
    ours.outputs = 2
    torch.testing.assert_close(ours(tokens), wanted[:, -2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("transformer_layers", [0, 1, 3])
def test_any_number_of_transformer_layers(transformer_layers: int) -> None:
    policy = make("temporal", transformer_layers=transformer_layers)
    assert scores(policy, torch.rand(4, 15)).shape == (4, 4)
    names = {name.split(".")[2] for name, _ in policy.named_parameters() if "transformer" in name}
    assert len(names) == transformer_layers


# Normalisation


def test_steps_of_a_metric_share_statistics() -> None:
    """Each value counts once, when it is the newest, as if the metrics had come one by one."""
    layout = HistoryLayout(steps=3, metrics=2, start=1, size=1 + 6 + 1)
    series = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([3.0, 0.1]) + 5.0
    rows = torch.stack(
        [
            torch.cat([torch.tensor([float(t)]), series[t : t + 3].flatten(), torch.tensor([-1.0])])
            for t in range(38)
        ]
    ).float()
    ours = HistoryNormaliser(layout)
    ours.update(rows[:20])
    ours.update(rows[20:])
    single = RunningNormaliser(2)
    single.update(series[2:].float())
    assert float(ours.count) == 38.0
    found = ours(rows)
    wanted = single(rows[:, 1:7].unflatten(1, (3, 2))).flatten(1)
    torch.testing.assert_close(found[:, 1:7], wanted, atol=1e-5, rtol=1e-5)
    assert float(found[:, 0].mean().abs()) < 1e-5, "what is current has statistics of its own"
    assert bool((found[:, 7] == -1.0).all()), "a constant stays as it is"
    other = HistoryNormaliser(layout)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(rows), found)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_statistics_unless_told_not_to(kind: Any) -> None:
    model = GRPO(kind, Echo, **SMALL)
    assert isinstance(model.policy.normaliser, HistoryNormaliser)
    model.train_iteration()
    assert float(model.policy.normaliser.count) == 8.0
    assert model.policy.normaliser.mean.shape == (1 + METRICS + 2,)
    assert GRPO(kind, Echo, normalise_observations=False, **SMALL).policy.normaliser is None


# In GRPO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("env", [Echo, Parts, Amount])
def test_the_first_ratio_is_one(kind: Any, env: Any) -> None:
    """Alone, and in minibatches of other sizes than those that acted."""
    model = GRPO(kind, env, learning_rate=0.01, **{**SMALL, "num_groups": 12, "group_size": 6})
    model.learn(150)  # the policy has moved
    rollout, estimate = model._collect()
    advantages = torch.ones_like(estimate.advantages)
    batch = training_batch(rollout, advantages, model.config)
    assert len(batch) == 72
    for size in (1, 7, 72):
        for part in torch.arange(72).split(size):
            minibatch = batch.take(part)
            now = model.policy.distribution(model.policy(minibatch.observations))
            ratio = (now.log_prob(minibatch.actions) - minibatch.old_log_probs).exp()
            torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=3e-5, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_large_minibatches_in_parts_are_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rows = make(kind), torch.rand(23, 15)

    def gradients() -> list[Tensor]:
        loss = policy(rows).square().mean()
        return list(torch.autograd.grad(loss, list(policy.parameters()), materialize_grads=True))

    found, whole = scores(policy, rows), gradients()
    monkeypatch.setattr(history, "_ROWS_AT_ONCE", 5)
    for again in (scores(policy, rows), policy(rows).detach()):
        torch.testing.assert_close(again, found, atol=1e-6, rtol=1e-5)
    for mine, yours in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("at_once", [4, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_the_change_of_the_gradient(
    kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a trust region needs, against finite differences, in float64."""
    monkeypatch.setattr(history, "_ROWS_AT_ONCE", at_once)
    policy = make(kind, normalise_observations=False).double()
    rows = torch.rand(9, 15, dtype=torch.float64)
    with torch.no_grad():
        old = policy.distribution(policy(rows))
    parameters = list(policy.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def slope(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.add_(along, alpha=step)
        loss = old.kl(policy.distribution(policy(rows))).mean()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.sub_(along, alpha=step)
        return torch.cat([each.ravel() for each in found])

    wanted = (slope(1e-8) - slope(-1e-8)) / 2e-8
    divergence = old.kl(policy.distribution(policy(rows))).mean()
    found = fisher_product(lambda _: divergence, parameters, damping=0.0)(
        torch.cat([along.ravel() for along in direction])
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert float(found.norm()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_predict_takes_one_dict_or_many(kind: Any) -> None:
    model = GRPO(kind, Echo, **SMALL)
    seen = [Echo().reset(seed=seed)[0] for seed in range(5)]
    many = {name: np.stack([each[name] for each in seen]) for name in seen[0]}
    actions, state = model.predict(many, deterministic=True)
    assert actions.shape == (5,)
    assert state is None
    assert actions.tolist() == [model.predict(each, deterministic=True)[0] for each in seen]
    assert model.probabilities(seen[0]).sum() == pytest.approx(1.0)


# Learning


LEARNING: dict[str, Any] = {
    "num_groups": 32, "group_size": 8, "gru_width": 16, "hidden_sizes": (16,), "lstm_width": 16,
    "lstm_layers": 1, "attention_heads": 2, "transformer_heads": 2, "feedforward_width": 16,
    "learning_rate_schedule": "constant", "entropy_coefficient": 0.01, "baseline": "time_step",
}  # fmt: skip
RATES = {"gru": 0.01, "temporal": 0.001}


def share_right(model: GRPO, most: float) -> float:
    return model.evaluate(200).mean_return / most


@pytest.mark.parametrize("kind", KINDS)
def test_it_remembers_a_history_that_is_observed(kind: Any) -> None:
    """And answers with components."""
    model = GRPO(kind, Parts, learning_rate=RATES[kind], **LEARNING).learn(3_000)
    assert share_right(model, 1.0) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_it_remembers_a_history_of_frames(kind: Any) -> None:
    # Of seeds 0 to 3 the first needs more steps.
    rate, steps = RATES[kind], 10_000 if kind == "gru" else 40_000
    model = GRPO(kind, Delay, frame_history=4, learning_rate=rate, seed=1, **LEARNING).learn(steps)
    assert share_right(model, 5.0) > 0.95


def test_what_cannot_be_seen_is_not_learned() -> None:
    """The probe is one: with two frames the bit of two steps ago is gone."""
    model = GRPO("gru", Delay, frame_history=2, learning_rate=0.01, **LEARNING).learn(20_000)
    assert share_right(model, 5.0) < 0.65
