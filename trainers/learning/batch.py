"""The steps of a rollout that an update learns from, and their minibatches.

Shapes: T steps, G groups, K members; M steps that take part.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_gym.policies.symmetries import Symmetry
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.advantages import informative_groups
from grpo_gym.trainers.learning.objectives import step_weights


@dataclass(frozen=True)
class TrainingBatch:
    """The M steps of a rollout that take part in an update.

    Attributes:
        observations: Rows, shape (M, W), as `rollouts.rows` stores them.
        actions: Shape (M, C).
        old_log_probs: Shape (M,), float32.
        old_outputs: Distribution parameters of the policy that acted, shape (M, P), float32.
        advantages: Shape (M,), float32.
        weights: Weight of each step in the loss, shape (M,), float32.
        sequences: Index of each step's trajectory, shape (M,), int64.
        units: Index of each step's indivisible unit, shape (M,), int64; None where the unit is
            the step itself.
        action_masks: Shape (M, A), bool, or None.
    """

    observations: Tensor
    actions: Tensor
    old_log_probs: Tensor
    old_outputs: Tensor
    advantages: Tensor
    weights: Tensor
    sequences: Tensor
    units: Tensor | None
    action_masks: Tensor | None

    def __len__(self) -> int:
        return len(self.advantages)

    def __getitem__(self, index: Tensor) -> "TrainingBatch":
        parts: dict[str, Any] = {
            name: None if rows is None else rows[index] for name, rows in vars(self).items()
        }
        return TrainingBatch(**parts)


def training_batch(
    rollout: GroupedRollout, advantages: Tensor, config: GRPOConfig
) -> TrainingBatch:
    """Select and weight the steps that take part in the update; advantages (T, G, K), float32."""
    used = rollout.credited
    if config.drop_uniform_groups:
        used = used & informative_groups(advantages)[None, :, None]
    if config.min_advantage > 0.0:
        used = used & (advantages.abs() >= config.min_advantage)
    constant = config.loss_constant or float(len(rollout.alive))
    weights = step_weights(used, config.loss_normalisation, constant)
    units = _units(used, config)
    return TrainingBatch(
        rollout.observations[used],
        rollout.actions[used],
        rollout.log_probs[used],
        rollout.outputs[used],
        advantages[used],
        weights[used],
        _indices(used, time=False, members=True)[used],
        None if units is None else units[used],
        None if rollout.action_masks is None else rollout.action_masks[used],
    )


def transformed(batch: TrainingBatch, symmetry: Symmetry) -> TrainingBatch:
    """The batch on a rotated or mirrored board.

    The policy that acted there is the transformed one, so `old_log_probs` stay and `old_outputs`
    are transformed: ratios to them are valid, though not 1 at first unless the policy is symmetric.
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
    """Minibatches in random order, each weighted to estimate the whole batch.

    All steps of an indivisible unit, see `UpdateConfig.minibatches`, lie in one minibatch.
    """
    unit_of_step = None
    num_units = len(batch)
    if batch.units is not None:
        distinct, unit_of_step = torch.unique(batch.units, return_inverse=True)
        num_units = len(distinct)
    parts = config.num_minibatches
    if config.minibatch_size is not None:
        units_each = max(1, config.minibatch_size * num_units // len(batch))
        parts = max(parts, math.ceil(num_units / units_each))
    chosen = torch.randperm(num_units, generator=generator).chunk(min(parts, num_units))
    for units, steps in zip(chosen, _steps_of(chosen, unit_of_step), strict=True):
        part = batch[steps]
        yield replace(part, weights=part.weights * (num_units / len(units)))


def _units(used: Tensor, config: GRPOConfig) -> Tensor | None:
    """Index of each step's indivisible unit, shape (T, G, K), int64; None for single steps."""
    kind = config.minibatches or ("steps" if config.ratio == "step" else "trajectories")
    if kind == "steps":
        return None
    return _indices(used, time=kind == "time_steps", members=kind == "trajectories")


def _indices(used: Tensor, time: bool, members: bool) -> Tensor:
    """An index per group, and if wanted per time step and member, expanded to (T, G, K), int64."""
    steps, groups, size = used.shape
    shape = (steps if time else 1, groups, size if members else 1)
    return torch.arange(math.prod(shape)).reshape(shape).expand_as(used)


def _steps_of(chosen: Sequence[Tensor], unit_of_step: Tensor | None) -> Sequence[Tensor]:
    """The steps of each minibatch, given its units and each step's unit, shape (M,)."""
    if unit_of_step is None:
        return chosen
    part_of_unit = torch.empty(sum(map(len, chosen)), dtype=torch.int64)
    for number, units in enumerate(chosen):
        part_of_unit[units] = number
    part = part_of_unit[unit_of_step]
    lengths = torch.bincount(part, minlength=len(chosen))
    return torch.argsort(part, stable=True).split(lengths.tolist())
