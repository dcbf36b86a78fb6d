"""Batches of environments of one kind: stepped, saved and restored together.

Environments of ours share one drawn trace where they are reset with equal seeds; any other
Gymnasium environment is made B times.

Shapes: B environments, D features of a flattened observation, A choices, M saved environments,
K copies of each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import TimeLimit

from grpo_gym.rollouts.snapshots import EnvSnapshot, layers, restore_snapshot, take_snapshot
from grpo_gym.rollouts.spaces import flat_size, flatten_batch, validate_action_space
from grpo_gym.settings.config import ConfigError

ENDLESS = 50_000
"""Steps after which an episode without a limit of time is taken for endless."""
_NUMBER = (bool, int, float, np.bool_, np.integer, np.floating)
EnvSource = str | gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True)
class BatchStep:
    """What one step of B environments gave.

    Attributes:
        observations: Flattened, shape (B, D), float32.
        rewards: Shape (B,), float64; 0 where no step was taken.
        terminated: Shape (B,), bool.
        truncated: Shape (B,), bool.
        infos: Per-step quantities by name, shape (B,), float64; NaN where an environment gave
            none, as where no step was taken.
        action_masks: Legal actions, shape (B, A), bool, or None if the environment has no mask;
            members that have ended may do anything.
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
    has_time_limit: bool

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Start an episode per environment: observations (B, D) float32 and action masks."""

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """Step the environments that are alive, shape (B,), bool; the others stay as they are."""

    def snapshot(self, members: np.ndarray) -> Any:
        """Save the states of the given environments, any of them.

        Args:
            members: Which, shape (M,), int64.
        """

    def restore(self, snapshot: Any, members: np.ndarray) -> None:
        """Put environments where others were saved, to go on exactly as those would have.

        That includes what the outside world will do, and the steps left until a limit of time.

        Args:
            snapshot: Of M environments; it can be restored any number of times.
            members: The environments to put at the i-th saved state are members[i]; shape (M, K),
                int64, all distinct.
        """

    def close(self) -> None:
        """Free what the environments hold."""


class SnapshotVectorEnv(Protocol):
    """What native vector environments can do beyond Gymnasium's interface."""

    def step_alive(self, actions: np.ndarray, alive: np.ndarray) -> tuple[Any, Any, Any, Any, Any]:
        """Step some environments; infos `_name` are false where nothing was done."""

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A copy of all that decides how environments go on; the first axis is theirs."""

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put environments at a state."""

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments go on as others do, in the same outside world."""


class NativeBatch:
    """A vector environment of ours, where equal seeds share one outside world."""

    has_time_limit = True

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wrap a native vector environment made with autoreset disabled.

        Args:
            env: It has the methods of `SnapshotVectorEnv` as well.
        """
        self.env = env
        self._members = cast(SnapshotVectorEnv, env)
        self.num_envs = env.num_envs
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """See `EnvBatch.reset`."""
        one_each: Any = [int(seed) for seed in seeds]  # Gymnasium's annotation has only one for all
        observations, infos = self.env.reset(seed=one_each)
        flat = flatten_batch(self.single_observation_space, observations)
        return flat, _action_masks(infos.get("action_mask"))

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """See `EnvBatch.step`."""
        observations, rewards, terminated, truncated, infos = self._members.step_alive(
            actions, alive
        )
        numbers = {
            name: np.where(infos[f"_{name}"], values, np.nan)
            for name, values in infos.items()
            if isinstance(values, np.ndarray) and values.ndim == 1 and not name.startswith("_")
        }
        return BatchStep(
            flatten_batch(self.single_observation_space, observations),
            np.asarray(rewards, np.float64),
            terminated,
            truncated,
            numbers,
            _free(_action_masks(infos.get("action_mask")), ~alive | terminated | truncated),
        )

    def snapshot(self, members: np.ndarray) -> dict[str, np.ndarray]:
        """See `EnvBatch.snapshot`."""
        return self._members.get_state(members)

    def restore(self, snapshot: dict[str, np.ndarray], members: np.ndarray) -> None:
        """See `EnvBatch.restore`; the K copies of a state share their outside world in memory."""
        first, others = members[:, 0], members[:, 1:]
        self._members.set_state(snapshot, first)
        self._members.copy_members(np.repeat(first, others.shape[1]), others.reshape(-1))

    def close(self) -> None:
        """See `EnvBatch.close`."""
        self.env.close()

    def __str__(self) -> str:
        return _name(self.env)


class EnumeratedBatch(NativeBatch):
    """Environments that play given outside worlds, one by one: all of them, where they are few.

    Their number stands where that of a seed does elsewhere.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wrap a native vector environment that can list its worlds.

        Raises:
            ConfigError: If it cannot.
        """
        super().__init__(env)
        if not hasattr(env, "count_initial_states"):
            raise ConfigError(f"{self} has no list of all its outside worlds to play")
        self.num_initial_states: int = env.count_initial_states()

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Begin these worlds; beyond the last one, it again."""
        worlds = np.minimum(np.asarray(seeds), self.num_initial_states - 1)
        observations, infos = self.env.reset(seed=0, options={"layout": worlds})
        flat = flatten_batch(self.single_observation_space, observations)
        return flat, _action_masks(infos.get("action_mask"))


class LoopBatch:
    """Separate Gymnasium environments, stepped one after the other."""

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        """Wrap B environments of one kind."""
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.has_time_limit = any(isinstance(layer, TimeLimit) for layer in layers(envs[0]))
        self._size = flat_size(self.single_observation_space)
        self._observations = np.zeros((self.num_envs, self._size), np.float32)

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """See `EnvBatch.reset`."""
        results = [env.reset(seed=int(seed)) for env, seed in zip(self.envs, seeds, strict=True)]
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
            _free(_stack_masks(infos), ~alive | terminated | truncated),
        )

    def snapshot(self, members: np.ndarray) -> tuple[list[EnvSnapshot], np.ndarray]:
        """See `EnvBatch.snapshot`."""
        saved = [take_snapshot(self.envs[b]) for b in members.tolist()]
        return saved, self._observations[members]

    def restore(self, snapshot: tuple[list[EnvSnapshot], np.ndarray], members: np.ndarray) -> None:
        """See `EnvBatch.restore`."""
        saved, observations = snapshot
        for one, observation, copies in zip(saved, observations, members.tolist(), strict=True):
            for b in copies:
                self.envs[b] = restore_snapshot(one, self.envs[b])
            self._observations[copies] = observation

    def close(self) -> None:
        """See `EnvBatch.close`."""
        for env in self.envs:
            env.close()

    def __str__(self) -> str:
        return _name(self.envs[0])

    def _flatten(self, observations: list[Any]) -> np.ndarray:
        space = self.single_observation_space
        if isinstance(space, gym.spaces.Box):
            return np.asarray(observations, np.float32).reshape(len(observations), self._size)
        flat = [gym.spaces.flatten(space, observation) for observation in observations]
        return np.asarray(flat, np.float32).reshape(len(observations), self._size)


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
        envs = [make() for _ in range(num_envs)]
        if len({id(one.unwrapped) for one in envs}) < num_envs:
            raise ConfigError("env must make a new environment at every call, got the same again")
        batch = LoopBatch(envs)
    flat_size(batch.single_observation_space)
    validate_action_space(batch.single_action_space)
    return batch


def make_enumerated(env_id: str, env_kwargs: Mapping[str, Any], most: int) -> EnumeratedBatch:
    """Make environments that play an environment's outside worlds, all of them.

    Args:
        env_id: A registered id.
        env_kwargs: Its arguments.
        most: Environments side by side at most.

    Raises:
        ConfigError: If its worlds cannot be listed.
    """
    batch = make_batch(env_id, env_kwargs, 1)
    if not isinstance(batch, NativeBatch):
        raise ConfigError(f"{batch} has no list of all its outside worlds to play")
    count = EnumeratedBatch(batch.env).num_initial_states
    many = cast(NativeBatch, make_batch(env_id, env_kwargs, min(count, most)))
    return EnumeratedBatch(many.env)


def check_ending(batch: EnvBatch, steps: int) -> None:
    """Refuse to go on with episodes that seem to have no end.

    Args:
        batch: The environments.
        steps: How long an episode has been going on.

    Raises:
        ConfigError: If that is long, and nothing limits it.
    """
    if steps >= ENDLESS and not batch.has_time_limit:
        raise ConfigError(
            f"episodes of {batch} must end, got one of {steps:,} steps: limit them with "
            "env_kwargs max_episode_steps=..., or a TimeLimit wrapper"
        )


def _is_native(env_id: str) -> bool:
    """Whether an id has a vector environment in which equal seeds share one outside world."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_module(module)
        entry_point = gym.spec(name).vector_entry_point
    except (gym.error.Error, ImportError) as error:
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
        if not callable(env):
            raise ConfigError(
                f"env must be an id, an environment or a function that makes one, got {env!r}"
            )
        return env
    spec = env.spec
    if spec is None:
        raise ConfigError(
            "env must have a spec, so that a group can be made of it: register it and use "
            "gym.make, or pass a function that makes it"
        )
    # The copies are not looked at: a window for each of them would open otherwise.
    unseen = {"render_mode": None} if "render_mode" in spec.kwargs else {}

    def make() -> gym.Env[Any, Any]:
        try:
            return gym.make(spec, disable_env_checker=True, **unseen)
        except ValueError as error:
            raise ConfigError(
                f"env cannot be made again from its spec: {error} Pass a function that makes it"
            ) from error

    return make


def _name(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """What to call environments of this kind in a message."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


def _action_masks(masks: Any) -> np.ndarray | None:
    return None if masks is None else np.array(masks, np.bool_)


def _stack_masks(infos: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Action masks of all environments; those that give none may do anything."""
    masks = [_one_mask(info.get("action_mask")) for info in infos]
    given = next((mask for mask in masks if mask is not None), None)
    if given is None:
        return None
    return np.stack([np.ones_like(given) if mask is None else mask for mask in masks])


def _one_mask(mask: Any) -> np.ndarray | None:
    """A mask as one row; Gymnasium gives those of a MultiDiscrete as a tuple of its parts."""
    if isinstance(mask, tuple):
        return np.concatenate([np.asarray(part, np.bool_) for part in mask])
    return None if mask is None else np.asarray(mask, np.bool_)


def _free(masks: np.ndarray | None, ended: np.ndarray) -> np.ndarray | None:
    """Allow everything where an episode has ended: often no action is legal there."""
    if masks is not None:
        masks[ended] = True
    return masks


def _numbers(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = {name for info in infos for name, value in info.items() if isinstance(value, _NUMBER)}
    return {name: np.array([_number(info.get(name)) for info in infos]) for name in sorted(names)}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, _NUMBER) else np.nan
