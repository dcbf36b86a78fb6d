"""Collecting grouped rollouts: a policy plays in `EnvGroups` until every episode has ended.

With branching, groups start not only at a reset: every few steps all members of a group are put
into the state of one of them, the trunk, and continue as a new group on the same trace.

Shapes: T steps, G groups, K members, B = G*K environments, M of the groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.player import Player, SamplingPolicy
from grpo_gym.rollouts.randomness import ActionNoise
from grpo_gym.rollouts.rollout import (
    Episodes,
    GroupedRollout,
    StepTensors,
    join_groups,
    stack_steps,
)

TrunkKind = Literal["random", "first", "best"]


@dataclass(frozen=True)
class Branching:
    """When and where groups branch.

    Attributes:
        every: Steps from one branching to the next.
        lookahead: Further steps that each member takes, only for the sake of its return, before
            its group branches.
        trunk: The member from which the group continues: a random one, the first, or the one with
            the highest return since the last branching; of those whose episode has not ended.
        generators: One per group; they choose random trunks.
    """

    every: int
    lookahead: int
    trunk: TrunkKind
    generators: Sequence[np.random.Generator]


def collect(
    policy: SamplingPolicy,
    env: EnvGroups,
    seeds: np.ndarray,
    noise: ActionNoise,
    max_steps: int | None = None,
    branching: Branching | None = None,
    frame_history: int = 1,
) -> GroupedRollout:
    """Play one episode per member, or with branching one per group.

    Args:
        policy: Chooses actions.
        env: G groups of K members.
        seeds: As for `EnvGroups.reset`.
        noise: Determines the sampled actions.
        max_steps: Truncates episodes after this number of steps.
        branching: When groups branch; None: never.
        frame_history: Number of observations that the policy sees at once.

    Raises:
        GroupError: If members of a group do not start from the same state.
        EnvError: If an environment fails, or returns what it must not.
        FloatingPointError: If the policy's outputs are not finite.
    """
    player = Player(policy, env, noise, max_steps, frame_history)
    player.reset(seeds)
    trajectories, episodes, branchings = (
        _play_episodes(player) if branching is None else _play_branches(player, branching)
    )
    # Whatever is not finite in an output is so in the probability of the action, and that is small.
    if not bool(torch.isfinite(trajectories.log_probs).all()):
        raise FloatingPointError(
            "the policy's outputs must be finite, got nan or inf: lower learning_rate, or look for "
            "very large observations"
        )
    return GroupedRollout(
        **vars(trajectories),
        episodes=episodes,
        infos=player.infos.means(),
        info_counts=player.infos.counts(),
        branchings=branchings,
    )


def _play_episodes(player: Player) -> tuple[StepTensors, Episodes, Tensor]:
    trajectories = stack_steps(player.play(), player.env.num_groups)
    episodes = Episodes(
        returns=trajectories.rewards.sum(dim=0).reshape(-1),
        lengths=trajectories.alive.sum(dim=0).reshape(-1),
        truncated=torch.from_numpy(player.truncated),
    )
    return trajectories, episodes, torch.zeros(player.env.num_groups, dtype=torch.int64)


def _play_branches(player: Player, branching: Branching) -> tuple[StepTensors, Episodes, Tensor]:
    env = player.env
    returns = np.zeros(env.num_groups)
    lengths = np.zeros(env.num_groups, np.int64)
    truncated = np.zeros(env.num_groups, np.bool_)
    segments: list[StepTensors] = []
    branchings = []
    groups = np.arange(env.num_groups)
    while len(groups):
        steps = player.play(branching.every)
        trunks = _choose_trunks(branching, steps, player, groups)
        returns[groups] += _returns(steps)[trunks]
        lengths[groups] += np.sum([step.alive.numpy()[trunks] for step in steps], axis=0)
        truncated[groups] = player.truncated[trunks]
        continues = player.alive[env.members(groups)].any(axis=1)
        branch_points = player.snapshot(trunks[continues])
        for step in player.play(branching.lookahead, player.noise.aside(len(segments))):
            steps.append(replace(step, credited=torch.zeros_like(step.alive)))
        branchings.append(torch.full((len(groups),), len(segments)))
        segments.append(stack_steps(steps, env.num_groups, groups))
        groups = groups[continues]
        player.restore(branch_points, groups)
    episodes = Episodes(*map(torch.from_numpy, (returns, lengths, truncated)))
    return join_groups(segments), episodes, torch.cat(branchings)


def _choose_trunks(
    branching: Branching, steps: Sequence[StepTensors], player: Player, groups: np.ndarray
) -> np.ndarray:
    """The environment from which each of these groups continues or with which it ends, (M,)."""
    returns = _returns(steps)
    chosen = []
    for group, members in zip(groups.tolist(), player.env.members(groups), strict=True):
        alive = members[player.alive[members]]
        candidates = alive if len(alive) else members
        if branching.trunk == "first":
            chosen.append(candidates[0])
        elif branching.trunk == "best":
            chosen.append(candidates[returns[candidates].argmax()])
        else:
            chosen.append(branching.generators[group].choice(candidates))
    return np.array(chosen, np.int64)


def _returns(steps: Sequence[StepTensors]) -> np.ndarray:
    """Sum of the rewards of each environment, shape (B,), float64."""
    return np.sum([step.rewards.numpy() for step in steps], axis=0)
