"""Collecting grouped rollouts: a policy acts in a `EnvGroups` until every episode ends.

With branching, groups start not only at a reset: every few steps all members of a group are put
where one of them is, and go on from there as a new group in the same outside world.

Shapes: T steps, G groups, K members, B = G*K environments, M chosen groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from grpo_gym.policies.network import Policy
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.player import Player, Steps
from grpo_gym.rollouts.randomness import ActionNoise
from grpo_gym.rollouts.rollout import Episodes, GroupedRollout, concatenate

TrunkKind = Literal["random", "first", "best"]


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
    env: EnvGroups,
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
        seeds: As for `EnvGroups.reset`.
        noise: Decides the actions.
        max_steps: Truncates episodes after so many steps.
        branching: When groups branch; None: never.
        frame_history: Observations that the policy sees at once.

    Raises:
        GroupError: If members of a group do not share their start.
    """
    player = Player(policy, env, noise, max_steps, frame_history)
    player.reset(seeds)
    with torch.inference_mode():
        if branching is not None:
            return _collect_branches(player, branching)
        steps = player.play()
    rollout = steps.stack(env, np.arange(env.num_groups))
    truncated = torch.from_numpy(player.truncated)
    episodes = Episodes(rollout.returns.reshape(-1), rollout.lengths.reshape(-1), truncated)
    return replace(rollout, episodes=episodes, infos=player.infos.means())


def _collect_branches(player: Player, branching: Branching) -> GroupedRollout:
    env = player.env
    trunks = _Trunks(env.num_groups)
    parts = []
    groups = np.arange(env.num_groups)
    while len(groups):
        steps = player.play(branching.every)
        members = _choose_members(branching, steps, player, groups)
        trunks.add(steps, player.truncated, groups, members)
        lives = player.alive.reshape(env.num_groups, -1)[groups].any(axis=1)
        state = player.snapshot(members[lives])
        if branching.lookahead:
            steps.extend_uncredited(player.play(branching.lookahead))
        parts.append(steps.stack(env, groups))
        groups = groups[lives]
        player.restore(state, groups)
    return replace(concatenate(parts), episodes=trunks.episodes(), infos=player.infos.means())


def _choose_members(
    branching: Branching, steps: Steps, player: Player, groups: np.ndarray
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
        self, steps: Steps, truncated: np.ndarray, groups: np.ndarray, members: np.ndarray
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
