"""Batches of separate Gymnasium environments, stepped one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from typing_extensions import override

from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch, env_name
from grpo_gym.rollouts.snapshots import EnvSnapshot, layers, restore_snapshot, take_snapshot
from grpo_gym.rollouts.spaces import flat_size

_NUMBER = (bool, int, float, np.bool_, np.integer, np.floating)


class LoopBatch(EnvBatch):
    """B environments of one kind.

    Attributes:
        envs: The environments.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.envs = list(envs)
        self.name = env_name(envs[0])
        self.num_envs = len(self.envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.has_time_limit = any(isinstance(layer, TimeLimit) for layer in layers(envs[0]))
        self._num_features = flat_size(self.single_observation_space)
        self._observations = np.zeros((self.num_envs, self._num_features), np.float32)

    @override
    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        results = [env.reset(seed=int(seed)) for env, seed in zip(self.envs, seeds, strict=True)]
        self._observations = self._flatten([observation for observation, _ in results])
        return self._observations.copy(), _stack_masks([info for _, info in results])

    @override
    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        infos: list[Mapping[str, Any]] = [{}] * self.num_envs
        members = np.flatnonzero(alive).tolist()
        observed = []
        for b in members:
            observation, reward, terminated[b], truncated[b], infos[b] = self.envs[b].step(
                actions[b]
            )
            rewards[b] = reward
            observed.append(observation)
        self._observations[members] = self._flatten(observed)
        masks = _stack_masks(infos)
        if masks is not None:
            masks[~alive | terminated | truncated] = True
        return BatchStep(
            observations=self._observations.copy(),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            infos=_stack_numbers(infos),
            action_masks=masks,
        )

    @override
    def snapshot(self, members: np.ndarray) -> tuple[list[EnvSnapshot], np.ndarray]:
        saved = [take_snapshot(self.envs[b]) for b in members.tolist()]
        return saved, self._observations[members]

    @override
    def restore(self, snapshot: tuple[list[EnvSnapshot], np.ndarray], members: np.ndarray) -> None:
        for saved, observation, copies in zip(*snapshot, members.tolist(), strict=True):
            for b in copies:
                self.envs[b] = restore_snapshot(saved, self.envs[b])
            self._observations[copies] = observation

    @override
    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _flatten(self, observations: list[Any]) -> np.ndarray:
        space = self.single_observation_space
        if not isinstance(space, gym.spaces.Box):
            observations = [gym.spaces.flatten(space, one) for one in observations]
        return np.asarray(observations, np.float32).reshape(len(observations), self._num_features)


def _stack_masks(infos: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Action masks, shape (B, A), all true for environments that report none."""
    masks = [_flat_mask(info.get("action_mask")) for info in infos]
    reported = next((mask for mask in masks if mask is not None), None)
    if reported is None:
        return None
    return np.stack([np.ones_like(reported) if mask is None else mask for mask in masks])


def _flat_mask(mask: Any) -> np.ndarray | None:
    """A mask as one row; Gymnasium's masks of a MultiDiscrete are tuples of parts."""
    if isinstance(mask, tuple):
        return np.concatenate([np.asarray(part, np.bool_) for part in mask])
    return None if mask is None else np.asarray(mask, np.bool_)


def _stack_numbers(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = {name for info in infos for name, value in info.items() if isinstance(value, _NUMBER)}
    return {name: np.array([_number(info.get(name)) for info in infos]) for name in sorted(names)}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, _NUMBER) else np.nan
