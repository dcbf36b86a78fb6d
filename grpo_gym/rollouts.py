"""Collecting grouped rollouts: a policy acts in a `GroupedVectorEnv` until every episode ends.

Shapes: T steps, G groups, K members, D features, P distribution parameters, C action
components, A choices. Rollouts are time-major, (T, G, K, ...).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_gym.groups import GroupedVectorEnv
from grpo_gym.policies.network import Policy
from grpo_gym.randomness import ActionNoise


@dataclass(frozen=True)
class GroupedRollout:
    """Whole episodes of G groups of K members, padded to the longest.

    Attributes:
        observations: Shape (T, G, K, D), float32, not normalised.
        actions: Shape (T, G, K, C), int64 or float32.
        log_probs: Of the actions under the policy that acted, shape (T, G, K), float32.
        outputs: That policy's distribution parameters, shape (T, G, K, P), float32.
        rewards: Shape (T, G, K), float64; 0 after a member's end.
        alive: Steps that were taken, shape (T, G, K), bool.
        action_masks: Legal actions, shape (T, G, K, A), bool, or None.
        truncated: Members cut off by a limit of time, shape (G, K), bool.
        infos: Mean of each per-step quantity that the environment reported.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    outputs: Tensor
    rewards: Tensor
    alive: Tensor
    action_masks: Tensor | None
    truncated: Tensor
    infos: dict[str, float]

    @property
    def num_steps(self) -> int:
        """Environment steps taken."""
        return int(self.alive.sum())

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each member, shape (G, K), float64."""
        return self.rewards.sum(dim=0)

    @property
    def lengths(self) -> Tensor:
        """Steps of each member, shape (G, K), int64."""
        return self.alive.sum(dim=0)


def collect(
    policy: Policy,
    env: GroupedVectorEnv,
    seeds: np.ndarray,
    noise: ActionNoise,
    max_steps: int | None = None,
) -> GroupedRollout:
    """Play one episode per member.

    Args:
        policy: Acts.
        env: G groups of K members.
        seeds: As for `GroupedVectorEnv.reset`.
        noise: Decides the actions.
        max_steps: Truncates episodes after so many steps.

    Raises:
        GroupError: If members of a group do not share their start.
    """
    observations, masks = env.reset(seeds)
    alive = np.ones(len(observations), np.bool_)
    truncated = np.zeros(len(observations), np.bool_)
    steps = _Steps()
    with torch.inference_mode():
        while alive.any():
            features = torch.from_numpy(observations)
            legal = None if masks is None else torch.from_numpy(masks)
            outputs = policy(features)
            distribution = policy.distribution(outputs, legal)
            actions = distribution.sample(torch.from_numpy(noise.draw()))
            log_probs = distribution.log_prob(actions)
            step = env.step(policy.head.to_environment(actions), alive)
            steps.add(features, actions, log_probs, outputs, step.rewards, alive, legal)
            steps.add_infos(step.infos, alive)
            cut = step.truncated | (len(steps) == max_steps)
            truncated |= alive & cut & ~step.terminated
            alive = alive & ~(step.terminated | cut)
            observations, masks = step.observations, step.action_masks
    return steps.stack(env.num_groups, env.group_size, truncated)


class _Steps:
    """The steps of a rollout under way."""

    def __init__(self) -> None:
        self._fields: list[list[Tensor]] = [[] for _ in range(6)]
        self._masks: list[Tensor | None] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._fields[0])

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
        values = (observations, actions, log_probs, outputs, counted, torch.from_numpy(alive))
        for field, value in zip(self._fields, values, strict=True):
            field.append(value)
        self._masks.append(masks)

    def add_infos(self, infos: dict[str, np.ndarray], alive: np.ndarray) -> None:
        for name, values in infos.items():
            counted = alive & np.isfinite(values)
            self._sums[name] = self._sums.get(name, 0.0) + float(values[counted].sum())
            self._counts[name] = self._counts.get(name, 0) + int(counted.sum())

    def stack(self, groups: int, members: int, truncated: np.ndarray) -> GroupedRollout:
        def grouped(steps: list[Tensor]) -> Tensor:
            return torch.stack(steps).unflatten(1, (groups, members))

        observations, actions, log_probs, outputs, rewards, alive = map(grouped, self._fields)
        masks = self._all_masks()
        return GroupedRollout(
            observations=observations,
            actions=actions,
            log_probs=log_probs,
            outputs=outputs,
            rewards=rewards,
            alive=alive,
            action_masks=None if masks is None else grouped(masks),
            truncated=torch.from_numpy(truncated).unflatten(0, (groups, members)),
            infos={
                name: total / self._counts[name]
                for name, total in self._sums.items()
                if self._counts[name]
            },
        )

    def _all_masks(self) -> list[Tensor] | None:
        """One mask a step, or None if there was none; without one everything is legal."""
        given = next((mask for mask in self._masks if mask is not None), None)
        if given is None:
            return None
        return [torch.ones_like(given) if mask is None else mask for mask in self._masks]
