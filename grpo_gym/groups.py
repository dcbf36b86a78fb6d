"""Groups of environments that start from one state and meet one outside world.

A group is K environments reset with one seed. Environments of ours share one drawn trace;
any other Gymnasium environment is made K times and reset with the group's seed.

Shapes: G groups, K members, B = G*K environments (member k of group g is number g*K + k),
D features of a flattened observation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from grpo_gym.config import ConfigError
from grpo_gym.spaces import flat_size, flatten_batch, validate_action_space

EnvSource = str | gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]]


class GroupError(RuntimeError):
    """Members of a group did not start from the same state, so comparing them is not fair."""


@dataclass(frozen=True)
class BatchStep:
    """What one step of B environments gave.

    Attributes:
        observations: Flattened, shape (B, D), float32.
        rewards: Shape (B,), float64; 0 where no step was taken.
        terminated: Shape (B,), bool.
        truncated: Shape (B,), bool.
        infos: Per-step quantities by name, shape (B,); NaN where an environment gave none.
        action_masks: Legal actions, shape (B, A), bool, or None if the environment has no mask.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, np.ndarray]
    action_masks: np.ndarray | None


class EnvBatch(Protocol):
    """B environments, each reset from a seed of its own and stepped while it is alive."""

    num_envs: int
    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Start an episode per environment: observations (B, D) float32 and action masks."""

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """Step the environments that are alive, shape (B,), bool."""

    def close(self) -> None:
        """Free what the environments hold."""


class NativeBatch:
    """A vector environment of ours, where equal seeds share one outside world."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wrap a native vector environment made with autoreset disabled."""
        self.env = env
        self.num_envs = env.num_envs
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """See `EnvBatch.reset`."""
        observations, infos = self.env.reset(seed=[int(seed) for seed in seeds])
        flat = flatten_batch(self.single_observation_space, observations)
        return flat, _action_masks(infos.get("action_mask"))

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """See `EnvBatch.step`."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        numbers = {
            name: values.astype(np.float64)
            for name, values in infos.items()
            if isinstance(values, np.ndarray) and values.ndim == 1 and not name.startswith("_")
        }
        return BatchStep(
            flatten_batch(self.single_observation_space, observations),
            np.asarray(rewards, np.float64),
            terminated,
            truncated,
            numbers,
            _action_masks(infos.get("action_mask")),
        )

    def close(self) -> None:
        """See `EnvBatch.close`."""
        self.env.close()


class LoopBatch:
    """Separate Gymnasium environments, stepped one after the other."""

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        """Wrap B environments of one kind."""
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self._size = flat_size(self.single_observation_space)

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """See `EnvBatch.reset`."""
        results = [
            env.reset(seed=int(seed)) for env, seed in zip(self.envs, seeds, strict=True)
        ]
        self._observations = self._flatten([observation for observation, _ in results])
        return self._observations.copy(), _stack_masks([info for _, info in results])

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """See `EnvBatch.step`; environments that are not alive keep their last observation."""
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
        return BatchStep(
            self._observations.copy(),
            rewards,
            terminated,
            truncated,
            _numbers(infos),
            _stack_masks(infos),
        )

    def close(self) -> None:
        """See `EnvBatch.close`."""
        for env in self.envs:
            env.close()

    def _flatten(self, observations: list[Any]) -> np.ndarray:
        space = self.single_observation_space
        if isinstance(space, gym.spaces.Box):
            return np.asarray(observations, np.float32).reshape(len(observations), self._size)
        flat = [gym.spaces.flatten(space, observation) for observation in observations]
        return np.asarray(flat, np.float32).reshape(len(observations), self._size)


class GroupedVectorEnv:
    """G groups of K environments, each group reset to one state.

    Attributes:
        num_groups: G.
        group_size: K.
        batch: The B = G*K environments.
    """

    def __init__(self, batch: EnvBatch, group_size: int) -> None:
        """Group the environments of a batch, K neighbours at a time.

        Raises:
            ConfigError: If B is not a multiple of K.
        """
        if batch.num_envs % group_size:
            raise ConfigError(
                f"group_size must divide the number of environments ({batch.num_envs}), got "
                f"{group_size}"
            )
        self.batch = batch
        self.group_size = group_size
        self.num_groups = batch.num_envs // group_size

    def reset(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reset every group from its seed.

        Args:
            seeds: One per group, shape (G,), or one per member, shape (G, K), for groups of
                unrelated episodes; integers >= 0.

        Returns:
            Observations, shape (B, D), float32, and action masks (B, A), bool, or None.

        Raises:
            GroupError: If members that share a seed do not start with the same observation.
        """
        seeds = np.asarray(seeds)
        shared = seeds.ndim == 1
        members = np.repeat(seeds, self.group_size) if shared else seeds.reshape(-1)
        observations, masks = self.batch.reset(members.tolist())
        if shared:
            self._check_starts(observations)
        return observations, masks

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """Step the members that are alive; see `EnvBatch.step`."""
        return self.batch.step(actions, alive)

    def _check_starts(self, observations: np.ndarray) -> None:
        grouped = observations.reshape(self.num_groups, self.group_size, -1)
        same = (grouped == grouped[:, :1]) | (np.isnan(grouped) & np.isnan(grouped[:, :1]))
        if not same.all():
            group = int(np.flatnonzero(~same.all(axis=(1, 2)))[0])
            raise GroupError(
                f"members of group {group} were reset with one seed and started differently: the "
                "environment must draw all its randomness from its seed (self.np_random)"
            )


def make_batch(env: EnvSource, env_kwargs: Mapping[str, Any] | None, num_envs: int) -> EnvBatch:
    """Make B environments of one kind.

    Args:
        env: A registered id, a made environment (which is made again from its spec), or a
            function that makes one.
        env_kwargs: Passed to the environment; only with an id.
        num_envs: B.

    Raises:
        ConfigError: If the environment cannot be made that often, or its spaces cannot be used.
    """
    kwargs = dict(env_kwargs or {})
    batch: EnvBatch
    if isinstance(env, str) and _is_native(env):
        batch = NativeBatch(
            gym.make_vec(env, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        )
    else:
        make = _maker(env, kwargs)
        batch = LoopBatch([make() for _ in range(num_envs)])
    flat_size(batch.single_observation_space)
    validate_action_space(batch.single_action_space)
    return batch


def _is_native(env_id: str) -> bool:
    """Whether an id has a vector environment in which equal seeds share one outside world."""
    try:
        entry_point = gym.spec(env_id).vector_entry_point
    except gym.error.Error as error:
        raise ConfigError(f"env must be a registered id, got {env_id!r}: {error}") from error
    if entry_point is None:
        return False
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return bool(getattr(creator, "metadata", {}).get("shares_outside_world", False))


def _maker(env: EnvSource, kwargs: dict[str, Any]) -> Callable[[], gym.Env[Any, Any]]:
    if isinstance(env, str):
        return lambda: gym.make(env, disable_env_checker=True, **kwargs)
    if kwargs:
        raise ConfigError("env_kwargs must be empty unless env is an id: set them when making it")
    if not isinstance(env, gym.Env):
        return env
    spec = env.spec
    if spec is None:
        raise ConfigError(
            "env must have a spec, so that a group can be made of it: register it and use "
            "gym.make, or pass a function that makes it"
        )
    return lambda: gym.make(spec, disable_env_checker=True)


def _action_masks(masks: Any) -> np.ndarray | None:
    return None if masks is None else np.asarray(masks, np.bool_)


def _stack_masks(infos: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Action masks of all environments; members that took no step may do anything."""
    masks = [info.get("action_mask") for info in infos]
    given = next((mask for mask in masks if mask is not None), None)
    if given is None:
        return None
    free = np.ones_like(np.asarray(given, np.bool_))
    return np.stack([free if mask is None else np.asarray(mask, np.bool_) for mask in masks])


def _numbers(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = {
        name
        for info in infos
        for name, value in info.items()
        if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating))
    }
    return {
        name: np.array([float(info.get(name, np.nan)) for info in infos]) for name in sorted(names)
    }
