"""A policy that plays in groups of environments and can return to an earlier state.

Shapes: B environments, M of them, W numbers of a row, H frames of a history, A choices.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.randomness import ActionNoise
from grpo_gym.rollouts.rollout import StepTensors
from grpo_gym.rollouts.spaces import stack_frames


class SamplingPolicy(Protocol):
    """What playing needs of a policy, such as `policies.network.Policy`."""

    @property
    def head(self) -> Any:
        """Its `to_environment(actions)` gives actions in the environment's form."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def __call__(self, observations: Tensor, /) -> Tensor:
        """Distribution parameters, shape (B, P), for observations as rows (B, W)."""

    def distribution(self, outputs: Tensor, masks: Tensor | None, /) -> Any:
        """The action distribution; its `draw(noise)` gives actions and their log-probabilities."""


@dataclass(frozen=True)
class PlayerState:
    """The state of M environments and what the policy has seen of them.

    Attributes:
        environments: Their snapshot; None if M is 0.
        frames: Histories of observations, shape (M, H, W).
        masks: Legal actions, shape (M, A), bool, or None.
        elapsed: Steps since the reset.
    """

    environments: Any
    frames: np.ndarray
    masks: np.ndarray | None
    elapsed: int


class Player:
    """A policy that plays in all environments at once.

    Attributes:
        env: The environments.
        noise: Determines the sampled actions.
        infos: Means of the quantities they report.
        alive: Episodes that have not ended, shape (B,), bool.
        truncated: Episodes that were cut off, shape (B,), bool.
    """

    def __init__(
        self,
        policy: SamplingPolicy,
        env: EnvGroups,
        noise: ActionNoise,
        max_steps: int | None,
        frame_history: int,
    ) -> None:
        self.env = env
        self.infos = InfoMeans()
        self._policy = policy
        self.noise = noise
        self._max_steps = max_steps
        self._frame_history = frame_history

    def reset(self, seeds: np.ndarray) -> None:
        """Start an episode in every environment; seeds as for `EnvGroups.reset`."""
        observations, self._masks = self.env.reset(seeds)
        self._frames = stack_frames(None, observations, self._frame_history)
        self._elapsed = 0
        self.alive = np.ones(len(observations), np.bool_)
        self.truncated = np.zeros(len(observations), np.bool_)

    @torch.inference_mode()
    def play(self, count: int | None = None, noise: ActionNoise | None = None) -> list[StepTensors]:
        """Play until every episode has ended, or for `count` steps, perhaps with other noise."""
        noise, device = noise or self.noise, self._policy.device
        steps: list[StepTensors] = []
        while self.alive.any() and len(steps) != count:
            self.env.batch.check_ending(self._elapsed)
            features = torch.from_numpy(self._frames.reshape(len(self._frames), -1))
            masks = None if self._masks is None else torch.from_numpy(self._masks)
            outputs = self._policy(features.to(device))
            legal = None if masks is None else masks.to(device)
            distribution = self._policy.distribution(outputs, legal)
            drawn = distribution.draw(torch.from_numpy(noise.draw()).to(device))
            actions, log_probs, outputs = (each.cpu() for each in (*drawn, outputs))
            result = self.env.batch.step(self._policy.head.to_environment(actions), self.alive)
            rewards = torch.from_numpy(np.where(self.alive, result.rewards, 0.0))
            alive = torch.from_numpy(self.alive)
            steps.append(
                StepTensors(features, actions, log_probs, outputs, rewards, alive, alive, masks)
            )
            self.infos.add(result.infos, self.alive)
            self._elapsed += 1
            cut = result.truncated | (self._elapsed == self._max_steps)
            self.truncated |= self.alive & cut & ~result.terminated
            self.alive = self.alive & ~(result.terminated | cut)
            self._frames = stack_frames(self._frames, result.observations, self._frame_history)
            self._masks = result.action_masks
        return steps

    def snapshot(self, members: np.ndarray) -> PlayerState:
        """Save the states of these environments, shape (M,), int64."""
        masks = None if self._masks is None else self._masks[members]
        environments = self.env.batch.snapshot(members) if len(members) else None
        return PlayerState(environments, self._frames[members], masks, self._elapsed)

    def restore(self, state: PlayerState, groups: np.ndarray) -> None:
        """Put all members of the i-th of these groups into the i-th saved state.

        All other episodes are over.
        """
        self._elapsed = state.elapsed
        self.alive = np.zeros_like(self.alive)
        if len(groups) == 0:
            return
        members = self.env.members(groups)
        self.env.batch.restore(state.environments, members)
        self.alive[members] = True
        self.truncated[members] = False
        # A new array: recorded steps share the memory of the old one.
        self._frames = self._frames.copy()
        self._frames[members] = state.frames[:, None]
        self._masks = None
        if state.masks is not None:
            self._masks = np.ones((len(self.alive), state.masks.shape[1]), np.bool_)
            self._masks[members] = state.masks[:, None]


class InfoMeans:
    """Means of the per-step quantities that an environment reports."""

    def __init__(self) -> None:
        self._reported: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, infos: dict[str, np.ndarray], alive: np.ndarray) -> None:
        """Note one step of the environments that are alive; arrays of shape (B,)."""
        for name, values in infos.items():
            self._reported[name].append(values[alive])  # a copy: environments may reuse theirs

    def means(self) -> dict[str, float]:
        """Means over all steps that reported a finite value."""
        return {name: float(np.mean(values)) for name, values in self._finite().items()}

    def counts(self) -> dict[str, int]:
        """How many steps reported a finite value, where any did."""
        return {name: len(values) for name, values in self._finite().items()}

    def _finite(self) -> dict[str, np.ndarray]:
        """The finite values of what was reported, where there are any."""
        joined = {name: np.concatenate(each) for name, each in self._reported.items()}
        finite = {name: values[np.isfinite(values)] for name, values in joined.items()}
        return {name: values for name, values in finite.items() if len(values)}
