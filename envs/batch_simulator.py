"""What all simulators share: seeding, episodes, snapshots and copies of B environments.

Simulators import neither Gymnasium nor torch. The same kernels serve one environment and
thousands: every array starts with B.

Shapes: B environments, M members (chosen environments), R = B rows of traces.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from grpo_gym.envs.randomness import episode_seeds

Observations = Any
"""Of B environments: an array, or for a Dict space a dictionary of arrays; first axis B."""
Infos = dict[str, np.ndarray]
"""Arrays by name, first axis B. They may be views into the simulator: copy what you keep."""


class BatchSimulator(ABC):
    """B environments under one configuration, stepped together.

    Attributes:
        num_envs: B.
        episodes: Records with the fields `base_seed`, `episode` and `step`, shape (B,). A simulator
            with traces has `trace_row` as well: environments that are reset together with equal
            seeds share one row of each trace array.
        observation_shape: Shape of one observation, without parts such as a history.
    """

    state_names: ClassVar[tuple[str, ...]]
    """Arrays with one row per environment that decide how it continues."""
    trace_names: ClassVar[tuple[str, ...]] = ()
    """Arrays of what an episode draws at reset; environment b reads row `trace_row` of b."""
    observation_shape: tuple[int, ...]

    def __init__(self, num_envs: int, episode: np.dtype[Any]) -> None:
        """Allocate the episodes.

        Args:
            num_envs: B.
            episode: The record of one episode.
        """
        self.num_envs = num_envs
        self.episodes = np.zeros(num_envs, episode)
        self._all = np.arange(num_envs)
        self._no_skip = np.zeros(0, np.bool_)

    @abstractmethod
    def reset(self, members: np.ndarray | None = None) -> None:
        """Draw the next episode of the given environments (default: all) and start it.

        Args:
            members: Shape (M,), int64.
        """

    @abstractmethod
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> Observations:
        """Step every environment; finished ones stay as they are, with reward 0.

        Args:
            actions: First axis B, int64, all of them legal.
            skip: Environments to leave untouched, shape (B,), bool.

        Returns:
            Observations of all environments, float32; new arrays.
        """

    @abstractmethod
    def observe(self) -> Observations:
        """Current observations of all environments, float32; new arrays."""

    @abstractmethod
    def rewards(self) -> np.ndarray:
        """Rewards of the last step, shape (B,), float64: a copy."""

    @abstractmethod
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Which environments are terminated and which truncated, each of shape (B,), bool."""

    @abstractmethod
    def state_infos(self) -> Infos:
        """Infos about the current state, which resets and steps report."""

    @abstractmethod
    def step_infos(self, actions: np.ndarray) -> Infos:
        """Infos about the last step.

        Args:
            actions: What `step` took.
        """

    def elapsed(self) -> np.ndarray:
        """Steps since the reset, shape (B,), int64."""
        steps: np.ndarray = self.episodes["step"]
        return steps

    def seed(self, seeds: np.ndarray, members: np.ndarray | None = None) -> None:
        """Set the seeds of the given environments (default: all); the next reset is episode 0.

        Args:
            seeds: Shape (M,), uint64.
            members: Shape (M,), int64.
        """
        members = self._all if members is None else members
        self.episodes["base_seed"][members] = seeds
        self.episodes["episode"][members] = -1

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A copy of everything that decides how the given environments (default: all) continue.

        Returns:
            Arrays whose first axis is M; `set_state` takes them back.
        """
        members = self._all if members is None else members
        state = {name: getattr(self, name)[members] for name in self.state_names}
        for name in self.trace_names:
            state[name] = getattr(self, name)[self.episodes["trace_row"][members]]
        return state

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments (default: all) into a state that `get_state` returned.

        Raises:
            ValueError: If the state is not one of M environments with this configuration.
        """
        members = self._all if members is None else members
        self._check_state(state, len(members))
        rows = self._free_rows(members, len(members)) if self.trace_names else members
        for name in self.state_names:
            _as_bytes(getattr(self, name))[members] = _as_bytes(state[name])
        for name in self.trace_names:
            _as_bytes(getattr(self, name))[rows] = _as_bytes(state[name])
        if self.trace_names:
            self.episodes["trace_row"][members] = rows

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` continue exactly as `source` would, on the same trace.

        Args:
            source: Environments to copy from, shape (M,), int64.
            target: Environments to overwrite, shape (M,), int64.
        """
        arrays = [getattr(self, name) for name in self.state_names]
        for array in {id(array): array for array in arrays}.values():  # two names may share one
            rows = _as_bytes(array)
            rows[target] = rows[source]

    def _begin_episodes(self, members: np.ndarray) -> np.ndarray:
        """Count the members' episodes up; the seeds of the new ones, shape (M,), uint64."""
        self.episodes["episode"][members] += 1
        seeds = np.empty(len(members), np.uint64)
        episode_seeds(self.episodes["base_seed"][members], self.episodes["episode"][members], seeds)
        return seeds

    def _free_rows(self, members: np.ndarray, count: int) -> np.ndarray:
        """Trace rows that only `members` use, or nobody: with R = B there are always enough."""
        others = np.ones(self.num_envs, np.bool_)
        others[members] = False
        used = np.zeros(self.num_envs, np.bool_)
        used[self.episodes["trace_row"][others]] = True
        return np.flatnonzero(~used)[:count]

    def _check_state(self, state: Mapping[str, np.ndarray], count: int) -> None:
        for name in (*self.state_names, *self.trace_names):
            own = getattr(self, name)
            given = state.get(name) if isinstance(state, Mapping) else None
            shape = (count, *own.shape[1:])
            expected = shape, own.dtype
            if not isinstance(given, np.ndarray) or (given.shape, given.dtype) != expected:
                raise ValueError(
                    f"state[{name!r}] must be an array of shape {shape} as get_state returns it: "
                    "restore a state only into environments with the same configuration"
                )


def _as_bytes(records: np.ndarray) -> np.ndarray:
    """Each environment's records as one row of bytes, which NumPy copies 20 times faster.

    Args:
        records: Shape (B, ...). Where it is contiguous, the result is a view.
    """
    size = records.dtype.itemsize * math.prod(records.shape[1:])
    return np.ascontiguousarray(records).view(np.uint8).reshape(len(records), size)
