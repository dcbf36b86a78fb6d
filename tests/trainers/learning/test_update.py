import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.storage.checkpoint import weights_sha256
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning.batch import Minibatch, TrainingBatch, training_batch
from grpo_gym.trainers.learning.batch import minibatches as parts_of
from grpo_gym.trainers.learning.objectives import log_ratios
from grpo_gym.trainers.learning.update import UpdateStats, update_policy
from probe_envs import BestAction, Context, Countdown, OneStep, Recall

SMALL: dict[str, Any] = {"num_groups": 3, "group_size": 4, "hidden_sizes": (8,), "epochs": 1}


def make(env: Any = Recall, **config: Any) -> GRPO:
    return GRPO("mlp", env, **{**SMALL, **config})


def prepared(model: GRPO) -> tuple[GroupedRollout, torch.Tensor]:
    rollout, estimate = model._collect()
    return rollout, estimate.advantages


def update(model: GRPO, seed: int = 0) -> UpdateStats | None:
    batch = training_batch(*prepared(model), model.config)
    return update_policy(
        model.policy,
        model.optimizer,
        batch,
        model.reference,
        model.config,
        torch.Generator().manual_seed(seed),
    )


def gradients_of(model: GRPO) -> list[torch.Tensor]:
    """Gradients that the optimizer is handed, one for each of its steps, which it does not make."""
    seen: list[torch.Tensor] = []
    step = lambda weights, gradient: seen.append(gradient.clone())  # noqa: E731
    model.optimizer.step = step
    update(model)
    return seen


# Weights of steps


@pytest.mark.parametrize(
    ("kind", "wholes"),
    [
        *[(kind, None) for kind in ("per_step", "per_sequence", "per_group", "constant")],
        *[("per_group", wholes) for wholes in ("trajectories", "time_steps", "groups")],
    ],
)
def test_minibatches_are_unbiased(kind: Any, wholes: Any) -> None:
    """With equal minibatches their mean gradient is that of the whole batch."""
    settings = {"loss_normalisation": kind, "max_grad_norm": 1e9, "drop_uniform_groups": False}
    settings |= {"minibatches": wholes}
    settings |= {"num_groups": 4, "group_size": 6, "entropy_coefficient": 0.1}
    whole = gradients_of(make(num_minibatches=1, **settings))
    halves = gradients_of(make(num_minibatches=4, **settings))
    assert (len(whole), len(halves)) == (1, 4)  # 120 steps in 4 times 30
    torch.testing.assert_close(torch.stack(halves).mean(dim=0), whole[0], atol=1e-6, rtol=1e-4)
    assert float((halves[0] - whole[0]).abs().max()) > 1e-4


def weight_of(batch: TrainingBatch, part: Minibatch) -> float:
    return sum(float(batch.take(shard, part.scale).weights.sum()) for shard in part.shards)


KEPT: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {
    "steps": lambda t, g, k: (t, g, k),
    "trajectories": lambda t, g, k: (g, k),
    "time_steps": lambda t, g, k: (t, g),
    "groups": lambda t, g, k: (g,),
}
"""What stays whole, by time, group and member."""


@pytest.mark.parametrize("minibatches", KEPT)
def test_minibatches_split_nothing_that_is_to_stay_whole(minibatches: Any) -> None:
    """Of episodes that differ in length, with one group that does not take part."""
    model = make(Countdown, num_groups=7, minibatches=minibatches, num_minibatches=3)
    rollout, advantages = prepared(model)
    advantages[:, 2] = 0.0
    used = rollout.alive.clone()
    used[:, 2] = False
    kept = [KEPT[minibatches](*step) for step in used.nonzero().tolist()]
    batch = training_batch(rollout, advantages, model.config)
    assert len(set(rollout.lengths.flatten().tolist())) > 1
    seen, weight = [], 0.0
    for part in parts_of(batch, model.config, torch.Generator().manual_seed(0)):
        rows = torch.cat(list(part.shards)).tolist()
        here = {kept[row] for row in rows}
        assert sorted(rows) == [row for row, whole in enumerate(kept) if whole in here]
        shards = [{kept[row] for row in shard.tolist()} for shard in part.shards]
        assert sum(map(len, shards)) == len(here)
        # As much heavier as there are wholes to stand for.
        weight += weight_of(batch, part) * len(here) / len(set(kept))
        seen += rows
    assert sorted(seen) == list(range(len(batch)))
    assert weight == pytest.approx(float(batch.weights.sum()))


@pytest.mark.parametrize(
    ("minibatches", "size", "sizes"),
    [
        ("time_steps", 64, [64] * 5),  # 8 groups of 8 members at one time step
        ("time_steps", 24, [24] * 13 + [8]),
        ("time_steps", 31, [24] * 13 + [8]),
        ("steps", 31, [30] * 10 + [20]),
        ("trajectories", 12, [10] * 32),
        ("groups", 64, [40] * 8),
        ("groups", 80, [80] * 4),
        ("groups", 1, [40] * 8),  # a group is never split
        ("steps", 1000, [160] * 2),
    ],
)
def test_minibatches_of_a_size(minibatches: Any, size: int, sizes: list[int]) -> None:
    """8 groups of 8 members for 5 steps."""
    model = make(
        num_groups=8, group_size=8, minibatches=minibatches, num_minibatches=2, minibatch_size=size,
        drop_uniform_groups=False,
    )  # fmt: skip
    batch = training_batch(*prepared(model), model.config)
    parts = list(parts_of(batch, model.config, torch.Generator()))
    assert [len(part) for part in parts] == sizes
    if len(set(sizes)) == 1:
        assert [weight_of(batch, part) for part in parts] == pytest.approx([1.0] * len(sizes))


@pytest.mark.parametrize("ratio", ["step", "sequence", "sequence_mean"])
@pytest.mark.parametrize("minibatches", [None, "trajectories", "groups"])
def test_ratios_in_minibatches_are_those_of_the_whole_batch(ratio: Any, minibatches: Any) -> None:
    """1 at first; once the policy has moved, the product needs all steps of a trajectory."""
    model = make(Countdown, num_groups=6, ratio=ratio, minibatches=minibatches, num_minibatches=4)
    batch = training_batch(*prepared(model), model.config)
    moved = batch.old_log_probs + torch.randn(len(batch), generator=torch.Generator())
    for now in (batch.old_log_probs, moved):
        wanted = log_ratios(now, batch.old_log_probs, batch.sequences, ratio)
        assert bool((wanted == 0.0).all()) == (now is batch.old_log_probs)
        for part in parts_of(batch, model.config, torch.Generator()):
            for rows in part.shards:
                taken = batch.take(rows)
                found = log_ratios(now[rows], taken.old_log_probs, taken.sequences, ratio)
                torch.testing.assert_close(found, wanted[rows])


def test_first_gradient_is_the_policy_gradient() -> None:
    """At ratio 1 the surrogate's gradient is that of sum(weight * advantage * log-probability)."""
    model = make(Countdown, num_minibatches=1, max_grad_norm=1e9, loss_normalisation="per_sequence")
    twin = make(Countdown, num_minibatches=1, max_grad_norm=1e9, loss_normalisation="per_sequence")
    batch = training_batch(*prepared(twin), twin.config)
    outputs = twin.policy(batch.observations)
    log_probs = twin.policy.distribution(outputs).log_prob(batch.actions)
    (-(batch.weights * batch.advantages * log_probs).sum()).backward()
    wanted = torch.cat([p.grad.ravel() for p in twin.policy.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients_of(model)[0], wanted, atol=1e-6, rtol=1e-4)


def test_small_advantages_are_left_out() -> None:
    model = make(min_advantage=0.8, scale="none", baseline="trajectory", returns="outcome")
    rollout, advantages = prepared(model)
    batch = training_batch(rollout, advantages, model.config)
    assert 0 < len(batch) < rollout.num_steps
    assert float(batch.advantages.abs().min()) >= 0.8
    assert len(batch) == int((advantages.abs() >= 0.8).sum())
    assert float(batch.weights.sum()) == pytest.approx(1.0)


def test_the_constant_is_the_longest_episode_unless_given() -> None:
    for constant, wanted in ((None, 5.0), (50.0, 50.0)):
        settings = {"loss_normalisation": "constant", "loss_constant": constant}
        model = make(drop_uniform_groups=False, **settings)
        batch = training_batch(*prepared(model), model.config)
        assert batch.weights.tolist() == pytest.approx([1 / wanted / 12] * 60)


# Groups without anything to compare


class AllTheSame(OneStep):
    action_space: Any = BestAction.action_space

    def reward(self, action: Any) -> float:
        return 0.3


@pytest.mark.parametrize("preset", ["default", "grpo", "dr_grpo", "loop", "magistral", "dapo"])
def test_uniform_groups_change_nothing(preset: str) -> None:
    pulls = {"kl_coefficient": 1.0, "entropy_coefficient": 1.0}
    model = make(AllTheSame, preset=preset, normalise_observations=False, **pulls)
    before = model.weights_sha256()
    seen: list[IterationStats] = []
    model.learn(40, callback=lambda _, stats: seen.append(stats))
    assert model.weights_sha256() == before
    assert [stats.update for stats in seen] == [None] * (1 if preset == "dapo" else 4)
    assert [stats.rollout_steps for stats in seen] == ([48] if preset == "dapo" else [12] * 4)
    assert seen[0].uniform_groups == 1.0
    assert seen[0].rollout["return_mean"] == pytest.approx(0.3)


def test_uniform_groups_are_dropped_with_their_kl_and_entropy() -> None:
    model = make(num_groups=8, group_size=2, entropy_coefficient=0.5)
    rollout, advantages = prepared(model)
    uniform = (advantages == 0.0).all(dim=2).all(dim=0)
    assert 0 < int(uniform.sum()) < 8
    batch = training_batch(rollout, advantages, model.config)
    assert len(batch) == 5 * 2 * int((~uniform).sum())
    kept = training_batch(rollout, advantages, make(drop_uniform_groups=False).config)
    assert len(kept) == rollout.num_steps


def test_uniform_groups_that_stay_feel_the_pull_of_entropy() -> None:
    model = make(AllTheSame, entropy_coefficient=1.0, drop_uniform_groups=False)
    with torch.no_grad():  # where the policy is uniform there is no pull
        model.policy.network[-1].bias[0] += 1.0
    before, after = update(model), update(model)
    assert before is not None
    assert after is not None
    assert after.entropy > before.entropy


# KL and entropy


def pulled(reference: Any, coefficient: float) -> tuple[float, GRPO]:
    """KL(policy, reference) after training with nothing to gain but nearness to it."""
    model = make(
        Context, kl_coefficient=coefficient, kl_reference=reference, drop_uniform_groups=False,
        learning_rate=0.02, learning_rate_schedule="constant", epochs=2,
    )  # fmt: skip
    origin = copy.deepcopy(model.policy)
    with torch.no_grad():
        model.policy.network[-1].bias.add_(torch.tensor([2.0, 0.0, -2.0]))
    for _ in range(30):
        rollout, advantages = prepared(model)
        batch = training_batch(rollout, torch.zeros_like(advantages), model.config)
        generator = torch.Generator().manual_seed(model.iteration)
        update_policy(
            model.policy, model.optimizer, batch, model.reference, model.config, generator
        )
        model.iteration += 1
    observations = torch.eye(3)
    with torch.no_grad():
        ours = model.policy.distribution(model.policy(observations))
        theirs = origin.distribution(origin(observations))
        return float(ours.kl(theirs).mean()), model


def test_kl_penalty_pulls_to_the_reference() -> None:
    far, _ = pulled("initial", 0.0)
    near, model = pulled("initial", 1.0)
    assert model.reference is not None
    assert far > 0.5
    assert near < 0.02
    # The policy that collected is no anchor: it moves along.
    stays, model = pulled("collection", 1.0)
    assert model.reference is None
    assert stays == pytest.approx(far, rel=0.05)


def test_kl_is_exact_and_zero_before_anything_has_moved() -> None:
    model = make(Context, kl_coefficient=0.5, num_minibatches=1)
    first, second = update(model), update(model)
    assert first is not None
    assert second is not None
    assert first.reference_kl == pytest.approx(0.0, abs=1e-7)
    assert second.reference_kl > 1e-6
    # Each minibatch's, before its step.
    assert (first.kl, second.kl) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_statistics_by_hand() -> None:
    model = make(Context, num_minibatches=1)
    rollout, advantages = prepared(model)
    batch = training_batch(rollout, advantages, model.config)
    stats = update(model)
    assert stats is not None
    assert stats.loss == pytest.approx(-float((batch.weights * batch.advantages).sum()), abs=1e-6)
    assert stats.entropy == pytest.approx(math.log(3), abs=1e-3)
    assert (stats.clip_low_share, stats.clip_high_share, stats.epochs) == (0.0, 0.0, 1)
    assert stats.advantage_mean == pytest.approx(float(batch.advantages.mean()))
    assert stats.advantage_std == pytest.approx(float(batch.advantages.std(correction=0)))
    assert stats.learning_rate == model.config.learning_rate


# The size of steps


def test_target_kl_stops_the_passes() -> None:
    settings = {"epochs": 20, "learning_rate": 0.05, "num_minibatches": 1}
    free, bound = update(make(**settings)), update(make(target_kl=0.01, **settings))
    assert free is not None
    assert bound is not None
    assert free.epochs == 20
    assert 1 <= bound.epochs < 20
    assert free.kl > bound.kl > 0.01  # the pass that went too far was the last


def test_gradients_are_clipped_by_their_norm() -> None:
    free = gradients_of(make(max_grad_norm=1e9))
    clipped = gradients_of(make(max_grad_norm=1e-3))
    for whole, cut in zip(free, clipped, strict=True):
        assert float(whole.norm()) > 1e-3
        assert float(cut.norm()) == pytest.approx(1e-3, rel=1e-3)
        torch.testing.assert_close(cut / cut.norm(), whole / whole.norm(), atol=1e-4, rtol=1e-3)
    stats = update(make(max_grad_norm=1e-3, num_minibatches=1))
    assert stats is not None
    assert stats.gradient_norm > 1e-3  # reported before clipping


def test_learning_rate_falls_with_environment_steps() -> None:
    rates: list[tuple[int, float]] = []

    def watch(model: GRPO, stats: IterationStats) -> None:
        assert stats.update is not None
        rates.append((stats.num_steps - stats.rollout_steps, stats.update.learning_rate))

    settings = {"learning_rate": 0.1, "learning_rate_schedule": "linear"}
    settings["drop_uniform_groups"] = False
    make(Countdown, final_learning_rate=0.2, **settings).learn(200, callback=watch)
    # Episodes differ in length, so iterations are not equal steps along the schedule.
    assert len({b - a for (a, _), (b, _) in itertools.pairwise(rates)}) > 1
    assert [rate for _, rate in rates] == pytest.approx(
        [0.1 * (1 - 0.8 * n / 200) for n, _ in rates]
    )


# What is not finite


class Broken(Countdown):
    """Gives `value` as reward, or observes it, in the second step of one group's seed."""

    def __init__(self, value: float, place: str) -> None:
        super().__init__()
        self.value, self.place = value, place

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        if self.time == 2 and self.place == "observation":
            observation = np.full(1, self.value, np.float32)
        return observation, self.value if self.place == "reward" else reward, *rest


@pytest.mark.parametrize("place", ["reward", "observation"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("preset", ["default", "dr_grpo"])
def test_what_is_not_finite_is_refused_before_anything_is_learned(
    preset: str, value: float, place: str
) -> None:
    model = make(lambda: Broken(value, place), preset=preset, num_minibatches=8)
    before = model.weights_sha256()
    with pytest.raises(FloatingPointError, match=f"{place}s must be finite"):
        model.learn(100)
    assert model.weights_sha256() == before
    assert (model.iteration, model.num_steps) == (0, 0)


def test_a_gradient_that_is_not_finite_is_not_taken() -> None:
    model = make()
    rollout, advantages = prepared(model)
    batch = training_batch(rollout, advantages * 1e38 * 1e38, model.config)
    before = weights_sha256(model.policy.state_dict())
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        update_policy(model.policy, model.optimizer, batch, None, model.config, torch.Generator())
    assert weights_sha256(model.policy.state_dict()) == before
