"""From a grouped rollout to what an update learns from: advantages, the steps that count, parts.

Shapes: T steps, G groups, K members; M steps that take part.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.advantages import (
    compute_returns,
    group_advantages,
    informative_groups,
)
from grpo_gym.trainers.learning.objectives import step_weights
from grpo_gym.trainers.learning.state_bins import anchor_advantages, state_bins


@dataclass(frozen=True)
class TrainingBatch:
    """The M steps of a rollout that take part in an update.

    Attributes:
        observations: Shape (M, D), float32.
        actions: Shape (M, C).
        old_log_probs: Shape (M,), float32.
        old_outputs: Distribution parameters of the policy that acted, shape (M, P), float32.
        advantages: Shape (M,), float32.
        weights: Share of each step in the loss, shape (M,), float32.
        sequences: Number of the trajectory that each step belongs to, shape (M,), int64.
        wholes: Number of what minibatches do not split that each step belongs to, shape (M,),
            int64; None where that is the step itself.
        action_masks: Shape (M, A), bool, or None.
    """

    observations: Tensor
    actions: Tensor
    old_log_probs: Tensor
    old_outputs: Tensor
    advantages: Tensor
    weights: Tensor
    sequences: Tensor
    wholes: Tensor | None
    action_masks: Tensor | None

    def __len__(self) -> int:
        return len(self.advantages)

    def __getitem__(self, index: Tensor) -> "TrainingBatch":
        return TrainingBatch(
            self.observations[index],
            self.actions[index],
            self.old_log_probs[index],
            self.old_outputs[index],
            self.advantages[index],
            self.weights[index],
            self.sequences[index],
            None if self.wholes is None else self.wholes[index],
            None if self.action_masks is None else self.action_masks[index],
        )


def compute_advantages(
    rollout: GroupedRollout, features: Tensor, config: GRPOConfig, values: Tensor | None = None
) -> Tensor:
    """Group-relative advantages of every step, shape (T, G, K), float32; 0 where not credited.

    Args:
        rollout: T steps of G groups of K members.
        features: Observations as the policy's network sees them, shape (T, G, K, D), float32.
        config: The settings.
        values: Of a learned baseline, subtracted from the returns, shape (T, G, K), float64.

    Raises:
        FloatingPointError: If a reward or an observation is not finite.
    """
    for name, numbers in (("rewards", rollout.rewards), ("observations", rollout.observations)):
        if not bool(torch.isfinite(numbers[rollout.alive]).all()):
            raise FloatingPointError(
                f"{name} must be finite, got nan or inf: look at the environment"
            )
    returns = compute_returns(rollout.rewards, rollout.alive, config.returns, config.discount)
    bins = None
    if config.baseline == "state_bin" or config.anchor_weight > 0.0:
        bins = state_bins(features, config.state_bin_width)
    compare = partial(
        group_advantages,
        alive=rollout.credited,
        baseline=config.baseline,
        center=config.center,
        bins=bins,
    )
    if values is None:
        advantages = compare(returns, scale=config.scale)
    else:
        advantages = compare(returns - torch.where(rollout.alive, values, 0.0), scale=config.scale)
        if config.baseline != "none":
            # Equal returns tell nothing, however the values differ that were subtracted.
            telling = informative_groups(compare(returns, scale="none"))[None, :, None]
            advantages = torch.where(telling, advantages, 0.0)
    if config.anchor_weight > 0.0 and bins is not None:
        to_go = compute_returns(
            rollout.rewards, rollout.alive, "reward_to_go", config.anchor_discount
        )
        anchored = anchor_advantages(to_go, rollout.credited, bins, config.scale)
        advantages = advantages + config.anchor_weight * anchored
    return advantages.to(torch.float32)


def training_batch(
    rollout: GroupedRollout, advantages: Tensor, config: GRPOConfig
) -> TrainingBatch:
    """Select and weigh the steps that take part in the update."""
    used = rollout.credited
    if config.drop_uniform_groups:
        used = used & informative_groups(advantages)[None, :, None]
    if config.min_advantage > 0.0:
        used = used & (advantages.abs() >= config.min_advantage)
    constant = config.loss_constant or float(len(rollout.alive))
    weights = step_weights(used, config.loss_normalisation, constant)
    _, groups, members = used.shape
    sequences = torch.arange(groups * members).reshape(groups, members).expand_as(used)
    wholes = _wholes(used, config)
    return TrainingBatch(
        rollout.observations[used],
        rollout.actions[used],
        rollout.log_probs[used],
        rollout.outputs[used],
        advantages[used],
        weights[used],
        sequences[used],
        None if wholes is None else wholes[used],
        None if rollout.action_masks is None else rollout.action_masks[used],
    )


def turned(batch: TrainingBatch, symmetry: Symmetry) -> TrainingBatch:
    """The batch as it would have been on a turned board.

    There the policy that acted is the turned one, so `old_log_probs` stay and `old_outputs`
    turn: ratios to them are right, if not 1 at first where the policy is not symmetric.
    """
    return replace(
        batch,
        observations=batch.observations[:, symmetry.observations],
        actions=symmetry.moved[batch.actions],
        old_outputs=batch.old_outputs[:, symmetry.cells],
        action_masks=None if batch.action_masks is None else batch.action_masks[:, symmetry.cells],
    )


def minibatches(
    batch: TrainingBatch, config: GRPOConfig, generator: torch.Generator
) -> Iterator[TrainingBatch]:
    """Parts of a batch in random order, each weighted to stand for the whole.

    What `config.minibatches` keeps whole lies in one part.
    """
    whole = None
    count = len(batch)
    if batch.wholes is not None:
        distinct, whole = torch.unique(batch.wholes, return_inverse=True)
        count = len(distinct)
    parts = config.num_minibatches
    if config.minibatch_size is not None:
        most = max(1, config.minibatch_size * count // len(batch))
        parts = max(parts, math.ceil(count / most))
    chosen = torch.randperm(count, generator=generator).chunk(min(parts, count))
    for wholes, steps in zip(chosen, _steps_of(chosen, whole), strict=True):
        part = batch[steps]
        yield replace(part, weights=part.weights * (count / len(wholes)))


def _wholes(used: Tensor, config: GRPOConfig) -> Tensor | None:
    """Numbers of what minibatches do not split, shape (T, G, K), int64; None for single steps."""
    kind = config.minibatches or ("steps" if config.ratio == "step" else "trajectories")
    if kind == "steps":
        return None
    steps, groups, members = used.shape
    shape = {
        "trajectories": (1, groups, members),
        "time_steps": (steps, groups, 1),
        "groups": (1, groups, 1),
    }[kind]
    return torch.arange(math.prod(shape)).reshape(shape).expand_as(used)


def _steps_of(chosen: Sequence[Tensor], whole: Tensor | None) -> Sequence[Tensor]:
    """The steps of each part, for the numbers of the wholes in it; `whole` is each step's, (M,)."""
    if whole is None:
        return chosen
    part_of_whole = torch.empty(sum(map(len, chosen)), dtype=torch.int64)
    for number, wholes in enumerate(chosen):
        part_of_whole[wholes] = number
    part = part_of_whole[whole]
    lengths = torch.bincount(part, minlength=len(chosen))
    return torch.argsort(part, stable=True).split(lengths.tolist())
