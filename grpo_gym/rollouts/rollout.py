"""What a policy did in groups of environments, as tensors.

Shapes: T steps, G groups, K members, D features, P distribution parameters, C action
components, A choices. Rollouts are time-major, (T, G, K, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP_FIELDS = ("observations", "actions", "log_probs", "outputs", "rewards", "alive", "credited")


@dataclass(frozen=True)
class Episodes:
    """Whole episodes as the policy met them.

    Attributes:
        returns: Undiscounted, shape (E,), float64.
        lengths: Steps, shape (E,), int64.
        truncated: Cut off by a limit of time, shape (E,), bool.
    """

    returns: Tensor
    lengths: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class GroupedRollout:
    """Trajectories of G groups of K members, padded to the longest.

    Members of a group start from one state: trajectories are whole episodes or, with branching,
    their parts from one branching to the next, each part a group of its own.

    Attributes:
        observations: Shape (T, G, K, D), float32, not normalised.
        actions: Shape (T, G, K, C), int64 or float32.
        log_probs: Of the actions under the policy that acted, shape (T, G, K), float32.
        outputs: That policy's distribution parameters, shape (T, G, K, P), float32.
        rewards: Shape (T, G, K), float64; 0 after a member's end.
        alive: Steps that were taken, shape (T, G, K), bool.
        credited: Steps to learn from, shape (T, G, K), bool: those taken, but for the ones that
            only looked ahead.
        action_masks: Legal actions, shape (T, G, K, A), bool, or None.
        episodes: Every member's episode; with branching each group's trunk.
        infos: Mean of each per-step quantity that the environment reported.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    outputs: Tensor
    rewards: Tensor
    alive: Tensor
    credited: Tensor
    action_masks: Tensor | None
    episodes: Episodes
    infos: dict[str, float]

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


def concatenate(rollouts: Sequence[GroupedRollout]) -> GroupedRollout:
    """Rollouts side by side as one of more groups, padded to the longest."""
    if len(rollouts) == 1:
        return rollouts[0]
    length = max(len(rollout.alive) for rollout in rollouts)

    def joined(name: str) -> Tensor:
        return torch.cat([_padded(getattr(r, name), length) for r in rollouts], dim=1)

    def episodes(name: str) -> Tensor:
        return torch.cat([getattr(r.episodes, name) for r in rollouts])

    names = {rollout_name for rollout in rollouts for rollout_name in rollout.infos}
    return GroupedRollout(
        **{name: joined(name) for name in STEP_FIELDS},
        action_masks=_joined_masks(rollouts, length),
        episodes=Episodes(episodes("returns"), episodes("lengths"), episodes("truncated")),
        infos={name: _weighted_mean(name, rollouts) for name in sorted(names)},
    )


def _padded(values: Tensor, length: int) -> Tensor:
    """Zeros behind the last step, up to `length` steps; an action mask of zeros stands nowhere."""
    missing = length - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values


def _joined_masks(rollouts: Sequence[GroupedRollout], length: int) -> Tensor | None:
    """Action masks side by side; rollouts without any may do anything."""
    given = next((r.action_masks for r in rollouts if r.action_masks is not None), None)
    if given is None:
        return None
    masks = [
        given.new_ones(*r.alive.shape, given.shape[-1])
        if r.action_masks is None
        else r.action_masks
        for r in rollouts
    ]
    return torch.cat([_padded(mask, length) for mask in masks], dim=1)


def _weighted_mean(name: str, rollouts: Sequence[GroupedRollout]) -> float:
    values = [(r.infos[name], r.num_steps) for r in rollouts if name in r.infos]
    return sum(v * steps for v, steps in values) / sum(steps for _, steps in values)
