"""A policy at play in a batch of environments, which can be put back to where they were.

Shapes: T steps, G groups, K members, B = G*K environments, D features, C action components.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo_gym.policies.network import Policy
from grpo_gym.rollouts.batches import BatchStep, check_ending
from grpo_gym.rollouts.frame_history import as_features, stack_frames
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.randomness import ActionNoise
from grpo_gym.rollouts.rollout import STEP_FIELDS, Episodes, GroupedRollout


@dataclass(frozen=True)
class PlayerState:
    """Where M environments are, and what the policy had seen of them.

    Attributes:
        environments: Their snapshot.
        frames: Histories of observations, shape (M, H, D), float32.
        masks: Legal actions, shape (M, A), bool, or None.
        elapsed: Steps since the reset.
    """

    environments: Any
    frames: np.ndarray
    masks: np.ndarray | None
    elapsed: int


class Player:
    """A policy at play in all environments.

    Attributes:
        env: The environments.
        infos: Means of what they report.
        alive: Episodes that go on, shape (B,), bool.
        truncated: Episodes that were cut off, shape (B,), bool.
    """

    def __init__(
        self,
        policy: Policy,
        env: EnvGroups,
        noise: ActionNoise,
        max_steps: int | None,
        frame_history: int,
    ) -> None:
        self.env = env
        self.infos = InfoMeans()
        self._policy = policy
        self._noise = noise
        self._max_steps = max_steps
        self._frame_history = frame_history

    def reset(self, seeds: np.ndarray) -> None:
        """Start an episode in every environment; seeds as for `EnvGroups.reset`."""
        observations, self._masks = self.env.reset(seeds)
        self._frames = stack_frames(None, observations, None, self._frame_history)
        self._elapsed = 0
        self.alive = np.ones(len(observations), np.bool_)
        self.truncated = np.zeros(len(observations), np.bool_)

    def play(self, count: int | None = None) -> "Steps":
        """Go on until every episode has ended, or for so many steps."""
        steps = Steps()
        while self.alive.any() and len(steps) != count:
            check_ending(self.env.batch, self._elapsed)
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

    def snapshot(self, members: np.ndarray) -> PlayerState:
        """Where these environments are, shape (M,), int64."""
        masks = None if self._masks is None else self._masks[members]
        environments = self.env.batch.snapshot(members) if len(members) else None
        return PlayerState(environments, self._frames[members], masks, self._elapsed)

    def restore(self, state: PlayerState, groups: np.ndarray) -> None:
        """Put all members of the i-th of these groups where the i-th environment was."""
        self._elapsed = state.elapsed
        self.alive = np.zeros_like(self.alive)
        if len(groups) == 0:
            return
        members = self.env.members(groups)
        self.env.batch.restore(state.environments, members)
        self.alive[members] = True
        self.truncated[members] = False
        # Copies: the arrays there were are part of the rollout.
        self._frames = self._frames.copy()
        self._frames[members] = state.frames[:, None]
        self._masks = None
        if state.masks is not None:
            self._masks = np.ones((len(self.alive), state.masks.shape[1]), np.bool_)
            self._masks[members] = state.masks[:, None]


class InfoMeans:
    """Running means of the per-step quantities that an environment reports."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, infos: dict[str, np.ndarray], alive: np.ndarray) -> None:
        """Count what the environments that are alive report, each shape (B,)."""
        for name, values in infos.items():
            counted = alive & np.isfinite(values)
            self._sums[name] = self._sums.get(name, 0.0) + float(values[counted].sum())
            self._counts[name] = self._counts.get(name, 0) + int(counted.sum())

    def means(self) -> dict[str, float]:
        """Means over all steps in which there was a number."""
        return {
            name: total / self._counts[name]
            for name, total in self._sums.items()
            if self._counts[name]
        }


class Steps:
    """Steps of all environments, one after the other."""

    def __init__(self) -> None:
        self._fields: dict[str, list[Tensor]] = {name: [] for name in STEP_FIELDS}
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
        """Append a step of all B environments; rewards count where they are alive."""
        counted = torch.from_numpy(np.where(alive, rewards, 0.0))
        living = torch.from_numpy(alive)
        values = (observations, actions, log_probs, outputs, counted, living, living)
        for name, value in zip(STEP_FIELDS, values, strict=True):
            self._fields[name].append(value)
        self._masks.append(masks)

    def extend_uncredited(self, others: "Steps") -> None:
        """Append steps that nothing is learned from but what they returned."""
        for name in STEP_FIELDS:
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

    def stack(self, env: EnvGroups, groups: np.ndarray) -> GroupedRollout:
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
