"""Collecting grouped rollouts: a policy acts in a `GroupedVectorEnv` until every episode ends.

With branching, groups start not only at a reset: every few steps all members of a group are put
where one of them is, and go on from there as a new group in the same outside world.

Shapes: T steps, G groups, K members, D features, P distribution parameters, C action
components, A choices. Rollouts are time-major, (T, G, K, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grpo_gym.batches import BatchStep
from grpo_gym.frame_history import as_features, stack_frames
from grpo_gym.groups import GroupedVectorEnv
from grpo_gym.policies.network import Policy
from grpo_gym.randomness import ActionNoise

TrunkKind = Literal["random", "first", "best"]
_FIELDS = ("observations", "actions", "log_probs", "outputs", "rewards", "alive", "credited")


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


@dataclass(frozen=True)
class Branching:
    """When and where groups branch.

    Attributes:
        every: Steps from one branching to the next.
        lookahead: Further steps that each member takes, for the sake of the returns, before
            its group goes on from where its trunk was.
        trunk: The member that the group goes on from: a random one, the first, or the one with
            the highest return since the last branching; of those whose episode goes on.
        generators: One per group; they decide random trunks.
    """

    every: int
    lookahead: int
    trunk: TrunkKind
    generators: Sequence[np.random.Generator]


def collect(
    policy: Policy,
    env: GroupedVectorEnv,
    seeds: np.ndarray,
    noise: ActionNoise,
    max_steps: int | None = None,
    branching: Branching | None = None,
    frame_history: int = 1,
) -> GroupedRollout:
    """Play one episode per member, or with branching one per group.

    Args:
        policy: Acts.
        env: G groups of K members.
        seeds: As for `GroupedVectorEnv.reset`.
        noise: Decides the actions.
        max_steps: Truncates episodes after so many steps.
        branching: When groups branch; None: never.
        frame_history: Observations that the policy sees at once.

    Raises:
        GroupError: If members of a group do not share their start.
    """
    player = _Player(policy, env, noise, max_steps, frame_history)
    player.reset(seeds)
    with torch.inference_mode():
        if branching is not None:
            return _collect_branches(player, branching)
        steps = player.play()
    rollout = steps.stack(env, np.arange(env.num_groups))
    truncated = torch.from_numpy(player.truncated)
    episodes = Episodes(rollout.returns.reshape(-1), rollout.lengths.reshape(-1), truncated)
    return replace(rollout, episodes=episodes, infos=player.infos.means())


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
        **{name: joined(name) for name in _FIELDS},
        action_masks=_joined_masks(rollouts, length),
        episodes=Episodes(episodes("returns"), episodes("lengths"), episodes("truncated")),
        infos={name: _weighted_mean(name, rollouts) for name in sorted(names)},
    )


def _collect_branches(player: "_Player", branching: Branching) -> GroupedRollout:
    env = player.env
    trunks = _Trunks(env.num_groups)
    parts = []
    groups = np.arange(env.num_groups)
    while len(groups):
        steps = player.play(branching.every)
        members = _choose_members(branching, steps, player, groups)
        trunks.add(steps, player.truncated, groups, members)
        lives = player.alive.reshape(env.num_groups, -1)[groups].any(axis=1)
        moment = player.snapshot(members[lives])
        if branching.lookahead:
            steps.extend_uncredited(player.play(branching.lookahead))
        parts.append(steps.stack(env, groups))
        groups = groups[lives]
        player.restore(moment, groups)
    return replace(concatenate(parts), episodes=trunks.episodes(), infos=player.infos.means())


def _choose_members(
    branching: Branching, steps: "_Steps", player: "_Player", groups: np.ndarray
) -> np.ndarray:
    """The environment that each of these groups goes on from, or ended with, shape (M,)."""
    size = player.env.group_size
    returns = steps.returns()
    chosen = []
    for group in groups.tolist():
        members = np.arange(group * size, (group + 1) * size)
        living = members[player.alive[members]]
        candidates = living if len(living) else members
        if branching.trunk == "first":
            chosen.append(candidates[0])
        elif branching.trunk == "best":
            chosen.append(candidates[returns[candidates].argmax()])
        else:
            chosen.append(branching.generators[group].choice(candidates))
    return np.array(chosen, np.int64)


class _Trunks:
    """The episode of each group, put together from the members it branched from."""

    def __init__(self, num_groups: int) -> None:
        self._returns = np.zeros(num_groups)
        self._lengths = np.zeros(num_groups, np.int64)
        self._truncated = np.zeros(num_groups, np.bool_)

    def add(
        self, steps: "_Steps", truncated: np.ndarray, groups: np.ndarray, members: np.ndarray
    ) -> None:
        """Add what the chosen member, one for each of these groups, did."""
        self._returns[groups] += steps.returns()[members]
        self._lengths[groups] += steps.lengths()[members]
        self._truncated[groups] = truncated[members]

    def episodes(self) -> Episodes:
        return Episodes(
            torch.from_numpy(self._returns),
            torch.from_numpy(self._lengths),
            torch.from_numpy(self._truncated),
        )


@dataclass(frozen=True)
class _Moment:
    """Where some environments are, and what the policy had seen of them."""

    environments: Any
    frames: np.ndarray
    masks: np.ndarray | None
    elapsed: int


class _Player:
    """A policy at play in all environments."""

    def __init__(
        self,
        policy: Policy,
        env: GroupedVectorEnv,
        noise: ActionNoise,
        max_steps: int | None,
        frame_history: int,
    ) -> None:
        self.env = env
        self.infos = _InfoMeans()
        self._policy = policy
        self._noise = noise
        self._max_steps = max_steps
        self._frame_history = frame_history

    def reset(self, seeds: np.ndarray) -> None:
        observations, self._masks = self.env.reset(seeds)
        self._frames = stack_frames(None, observations, None, self._frame_history)
        self._elapsed = 0
        self.alive = np.ones(len(observations), np.bool_)
        self.truncated = np.zeros(len(observations), np.bool_)

    def play(self, count: int | None = None) -> "_Steps":
        """Go on until every episode has ended, or for so many steps."""
        steps = _Steps()
        while self.alive.any() and len(steps) != count:
            features = torch.from_numpy(as_features(self._frames))
            legal = None if self._masks is None else torch.from_numpy(self._masks)
            outputs = self._policy(features)
            distribution = self._policy.distribution(outputs, legal)
            actions = distribution.sample(torch.from_numpy(self._noise.draw()))
            log_probs = distribution.log_prob(actions)
            step = self.env.step(self._policy.head.to_environment(actions), self.alive)
            steps.add(features, actions, log_probs, outputs, step.rewards, self.alive, legal)
            self.infos.add(step.infos, self.alive)
            self._advance(step)
        return steps

    def _advance(self, step: BatchStep) -> None:
        self._elapsed += 1
        cut = step.truncated | (self._elapsed == self._max_steps)
        self.truncated |= self.alive & cut & ~step.terminated
        self.alive = self.alive & ~(step.terminated | cut)
        self._frames = stack_frames(self._frames, step.observations, None, self._frame_history)
        self._masks = step.action_masks

    def snapshot(self, members: np.ndarray) -> _Moment:
        """Where these environments are, shape (M,), int64."""
        masks = None if self._masks is None else self._masks[members]
        environments = self.env.batch.snapshot(members) if len(members) else None
        return _Moment(environments, self._frames[members], masks, self._elapsed)

    def restore(self, moment: _Moment, groups: np.ndarray) -> None:
        """Put all members of the i-th of these groups where the i-th environment was."""
        self._elapsed = moment.elapsed
        self.alive[:] = False
        if len(groups) == 0:
            return
        members = self.env.members(groups)
        self.env.batch.restore(moment.environments, members)
        self.alive = np.zeros_like(self.alive)
        self.alive[members] = True
        self.truncated[members] = False
        # Copies: the arrays there were are part of the rollout.
        self._frames = self._frames.copy()
        self._frames[members] = moment.frames[:, None]
        self._masks = None
        if moment.masks is not None:
            self._masks = np.ones((len(self.alive), moment.masks.shape[1]), np.bool_)
            self._masks[members] = moment.masks[:, None]


class _InfoMeans:
    """Running means of the per-step quantities that an environment reports."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, infos: dict[str, np.ndarray], alive: np.ndarray) -> None:
        for name, values in infos.items():
            counted = alive & np.isfinite(values)
            self._sums[name] = self._sums.get(name, 0.0) + float(values[counted].sum())
            self._counts[name] = self._counts.get(name, 0) + int(counted.sum())

    def means(self) -> dict[str, float]:
        return {
            name: total / self._counts[name]
            for name, total in self._sums.items()
            if self._counts[name]
        }


class _Steps:
    """Steps of all environments, one after the other."""

    def __init__(self) -> None:
        self._fields: dict[str, list[Tensor]] = {name: [] for name in _FIELDS}
        self._masks: list[Tensor | None] = []

    def __len__(self) -> int:
        return len(self._masks)

    def add(
        self,
        observations: Tensor,
        actions: Tensor,
        log_probs: Tensor,
        outputs: Tensor,
        rewards: np.ndarray,
        alive: np.ndarray,
        masks: Tensor | None,
    ) -> None:
        counted = torch.from_numpy(np.where(alive, rewards, 0.0))
        living = torch.from_numpy(alive)
        values = (observations, actions, log_probs, outputs, counted, living, living)
        for name, value in zip(_FIELDS, values, strict=True):
            self._fields[name].append(value)
        self._masks.append(masks)

    def extend_uncredited(self, others: "_Steps") -> None:
        """Append steps that nothing is learned from but what they returned."""
        for name in _FIELDS:
            self._fields[name] += others._fields[name]
        for index in range(len(self), len(self) + len(others)):
            self._fields["credited"][index] = torch.zeros_like(self._fields["alive"][index])
        self._masks += others._masks

    def returns(self) -> np.ndarray:
        """Sum of the rewards of each environment, shape (B,), float64."""
        return np.sum([rewards.numpy() for rewards in self._fields["rewards"]], axis=0)

    def lengths(self) -> np.ndarray:
        """Steps of each environment, shape (B,), int64."""
        return np.sum([alive.numpy() for alive in self._fields["alive"]], axis=0)

    def stack(self, env: GroupedVectorEnv, groups: np.ndarray) -> GroupedRollout:
        """The trajectories of these groups; whole episodes and infos are left empty."""
        chosen = torch.from_numpy(groups)
        everyone = len(groups) == env.num_groups

        def grouped(steps: list[Tensor]) -> Tensor:
            stacked = torch.stack(steps).unflatten(1, (env.num_groups, env.group_size))
            return stacked if everyone else stacked[:, chosen]

        masks = self._all_masks()
        return GroupedRollout(
            **{name: grouped(steps) for name, steps in self._fields.items()},
            action_masks=None if masks is None else grouped(masks),
            episodes=Episodes(torch.empty(0), torch.empty(0), torch.empty(0)),
            infos={},
        )

    def _all_masks(self) -> list[Tensor] | None:
        """One mask a step, or None if there was none; without one everything is legal."""
        given = next((mask for mask in self._masks if mask is not None), None)
        if given is None:
            return None
        return [torch.ones_like(given) if mask is None else mask for mask in self._masks]


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
