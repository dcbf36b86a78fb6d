"""The steps of a rollout that an update learns from, and their minibatches.

Shapes: T steps, G groups, K members; M steps that take part; S shards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
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
        sequences: Index of each step's trajectory, shape (M,), int64; None where ratios are those
            of steps, which need none.
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
    sequences: Tensor | None
    units: Tensor | None
    action_masks: Tensor | None

    def __len__(self) -> int:
        return len(self.advantages)

    def take(self, steps: Tensor, scale: float = 1.0) -> "TrainingBatch":
        """Some of its steps, by their indices (int64), with `scale` times their weights."""
        part = self._each(lambda rows: rows.index_select(0, steps))
        return replace(part, weights=part.weights * scale)

    def cut(self, count: int) -> "list[TrainingBatch]":
        """Its steps, in order, in so many parts of about the same size."""
        bounds = [part * len(self) // count for part in range(count + 1)]
        return [
            self._each(lambda rows, start=start, end=end: rows[start:end])  # type: ignore[misc]
            for start, end in pairwise(bounds)
        ]

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on a device."""
        return self._each(lambda rows: rows.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        parts: dict[str, Any] = {
            name: None if rows is None else change(rows) for name, rows in vars(self).items()
        }
        return TrainingBatch(**parts)


@dataclass(frozen=True)
class Minibatch:
    """A minibatch of a batch.

    Attributes:
        shards: The steps of each of its S shards, int64, at least one.
        scale: What weights are multiplied by, so that it estimates the whole batch.
    """

    shards: Sequence[Tensor]
    scale: float

    def __len__(self) -> int:
        return sum(map(len, self.shards))


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
    whole = config.ratio != "step"
    parts = {
        "observations": rollout.observations,
        "actions": rollout.actions,
        "old_log_probs": rollout.log_probs,
        "old_outputs": rollout.outputs,
        "advantages": advantages,
        "weights": weights,
        "sequences": _indices(used, time=False, members=True) if whole else None,
        "units": _units(used, config),
        "action_masks": rollout.action_masks,
    }
    taken: dict[str, Any] = {
        name: None if values is None else steps_of(values, used) for name, values in parts.items()
    }
    return TrainingBatch(**taken)


def steps_of(values: Tensor, used: Tensor) -> Tensor:
    """Values (T, G, K, ...) of the steps that are used (T, G, K), bool; a view if all are."""
    rows = values.flatten(0, 2)
    if bool(used.all()):
        return rows
    return rows.index_select(0, used.flatten().nonzero().squeeze(1))


def transformed(batch: TrainingBatch, symmetry: Symmetry) -> TrainingBatch:
    """The batch on a rotated or mirrored board.

    The policy that acted there is the transformed one, so `old_log_probs` stay and `old_outputs`
    are transformed: ratios to them are valid, though not 1 at first unless the policy is symmetric.
    """
    return replace(
        batch,
        observations=batch.observations[:, symmetry.observations],
        actions=symmetry.moved.to(batch.actions.device)[batch.actions],
        old_outputs=batch.old_outputs[:, symmetry.cells],
        action_masks=None if batch.action_masks is None else batch.action_masks[:, symmetry.cells],
    )


def minibatches(
    batch: TrainingBatch, config: GRPOConfig, generator: torch.Generator
) -> Iterator[Minibatch]:
    """Minibatches in random order, each cut into `gradient_shards` of about the same size.

    All steps of an indivisible unit, see `UpdateConfig.minibatches`, lie in one shard; of fewer
    units there are fewer shards.
    """
    unit_of_step = None
    num_units = len(batch)
    if batch.units is not None:
        distinct, unit_of_step = torch.unique(batch.units.cpu(), return_inverse=True)
        num_units = len(distinct)
    parts = config.num_minibatches
    if config.minibatch_size is not None:
        units_each = max(1, config.minibatch_size * num_units // len(batch))
        parts = max(parts, math.ceil(num_units / units_each))
    chosen = torch.randperm(num_units, generator=generator).chunk(min(parts, num_units))
    cut = [units.tensor_split(min(config.gradient_shards, len(units))) for units in chosen]
    steps = iter(_steps_of([shard for shards in cut for shard in shards], unit_of_step))
    for units, shards in zip(chosen, cut, strict=True):
        yield Minibatch(list(islice(steps, len(shards))), num_units / len(units))


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
    """The steps of each part, given its units and each step's unit, shape (M,)."""
    if unit_of_step is None:
        return chosen
    part_of_unit = torch.empty(sum(map(len, chosen)), dtype=torch.int64)
    for number, units in enumerate(chosen):
        part_of_unit[units] = number
    part = part_of_unit[unit_of_step]
    lengths = torch.bincount(part, minlength=len(chosen))
    return torch.argsort(part, stable=True).split(lengths.tolist())
