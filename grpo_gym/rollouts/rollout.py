"""What a policy did in groups of environments, as tensors.

Shapes: T steps, B environments, G groups, K members, B = G*K, W numbers of a row, P distribution
parameters, C action components, A choices. Rollouts are time-major, (T, G, K, ...).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StepTensors:
    """Steps of environments: one step with leading axes (B,), or a rollout with (T, G, K).

    Attributes:
        observations: Rows, shape (..., W), as `rollouts.rows` stores them, not normalised.
        actions: Shape (..., C), int64 or float32.
        log_probs: Of the actions under the policy that acted, shape (...), float32.
        outputs: That policy's distribution parameters, shape (..., P), float32.
        rewards: Shape (...), float64; 0 after an episode's end.
        alive: Steps that were taken, shape (...), bool.
        credited: Steps to learn from, shape (...), bool: those taken, without lookahead.
        action_masks: Legal actions, shape (..., A), bool, or None.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    outputs: Tensor
    rewards: Tensor
    alive: Tensor
    credited: Tensor
    action_masks: Tensor | None


_ALWAYS_GIVEN = [field.name for field in fields(StepTensors) if field.name != "action_masks"]


@dataclass(frozen=True)
class Episodes:
    """Whole episodes of the policy.

    Attributes:
        returns: Undiscounted, shape (E,), float64.
        lengths: Steps, shape (E,), int64.
        truncated: Cut off by a time limit, shape (E,), bool.
    """

    returns: Tensor
    lengths: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class GroupedRollout(StepTensors):
    """Trajectories of G groups of K members, padded to the longest.

    Members of a group start from the same state. Trajectories are whole episodes or, with
    branching, their segments from one branching to the next, each segment a group of its own.

    Attributes:
        episodes: Every member's episode; with branching each group's trunk.
        infos: Mean of each per-step quantity that the environment reported.
        info_counts: How many steps reported it.
        branchings: How often each group had branched before, shape (G,), int64; 0 from a reset.
    """

    episodes: Episodes
    infos: dict[str, float]
    info_counts: dict[str, int]
    branchings: Tensor

    @property
    def num_steps(self) -> int:
        """Environment steps taken."""
        return int(self.alive.sum())

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each trajectory, shape (G, K), float64."""
        return self.rewards.sum(dim=0)

    @property
    def lengths(self) -> Tensor:
        """Steps of each trajectory, shape (G, K), int64."""
        return self.alive.sum(dim=0)


def stack_steps(
    steps: Sequence[StepTensors], num_groups: int, groups: np.ndarray | None = None
) -> StepTensors:
    """The trajectories (T, G, K) that T consecutive steps of all environments (B,) make up.

    If `groups` are given by their indices, shape (M,), int64, only those.
    """

    def grouped(tensors: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(tensors)).unflatten(1, (num_groups, -1))
        return stacked if groups is None else stacked[:, torch.from_numpy(groups)]

    return _combine(steps, grouped)


def join_groups(parts: Sequence[StepTensors]) -> StepTensors:
    """All groups of several trajectories (T, G, K), padded with zeros to the longest."""
    length = max(len(part.alive) for part in parts)

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([_padded(tensor, length) for tensor in tensors], dim=1)

    return _combine(parts, joined)


def concatenate(rollouts: Sequence[GroupedRollout]) -> GroupedRollout:
    """All groups of several rollouts."""
    names = {name for rollout in rollouts for name in rollout.infos}

    def episodes(name: str) -> Tensor:
        return torch.cat([getattr(rollout.episodes, name) for rollout in rollouts])

    return GroupedRollout(
        **vars(join_groups(rollouts)),
        episodes=Episodes(episodes("returns"), episodes("lengths"), episodes("truncated")),
        infos={name: _mean_info(name, rollouts) for name in sorted(names)},
        info_counts={name: sum(_counts(name, rollouts)) for name in sorted(names)},
        branchings=torch.cat([rollout.branchings for rollout in rollouts]),
    )


def _combine(
    parts: Sequence[StepTensors], combine: Callable[[Sequence[Tensor]], Tensor]
) -> StepTensors:
    """Combine the tensors of each field; where some parts have no masks, everything is legal."""
    given = [part.action_masks for part in parts if part.action_masks is not None]
    masks = None
    if given:
        choices = given[0].shape[-1:]
        masks = combine(
            [
                part.alive.new_ones(part.alive.shape + choices)
                if part.action_masks is None
                else part.action_masks
                for part in parts
            ]
        )
    return StepTensors(
        **{name: combine([getattr(part, name) for part in parts]) for name in _ALWAYS_GIVEN},
        action_masks=masks,
    )


def _padded(values: Tensor, length: int) -> Tensor:
    """Zeros up to `length` steps, also as action masks, which nobody reads there."""
    missing = length - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values


def _mean_info(name: str, rollouts: Sequence[GroupedRollout]) -> float:
    means = [rollout.infos.get(name, 0.0) for rollout in rollouts]
    counts = _counts(name, rollouts)
    return sum(mean * n for mean, n in zip(means, counts, strict=True)) / sum(counts)


def _counts(name: str, rollouts: Sequence[GroupedRollout]) -> list[int]:
    return [rollout.info_counts.get(name, 0) for rollout in rollouts]
