"""What all simulators share: seeding, episodes, snapshots and copies of B environments.

Simulators import neither Gymnasium nor torch. The same kernels serve one environment and
thousands: every array starts with B.

Shapes: B environments, M members (chosen environments), R = B rows of traces.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from grpo_gym.envs.randomness import episode_seeds
from grpo_gym.settings import to_mapping

Observations = Any
"""Of B environments: an array, or for a Dict space a dictionary of arrays; first axis B."""
Infos = dict[str, np.ndarray]
"""Arrays by name, first axis B. They may be views into the simulator: copy what you keep."""
Rule = tuple[str, np.ndarray]
"""What every state has, and where it holds: first axis M, bool."""

FINGERPRINT = "fingerprint"
"""Part of each state: which settings it belongs to."""
_LAST_EPISODE = 2**62


class BatchSimulator(ABC):
    """B environments under one configuration, stepped together.

    Attributes:
        config: The settings.
        num_envs: B.
        episodes: Records with the fields `base_seed`, `episode` and `step`, shape (B,). A simulator
            with traces has `trace_row` as well: environments that are reset together with equal
            seeds share one row of each trace array.
        observation_shape: Shape of one observation, without parts such as a history.
    """

    state_names: tuple[str, ...]
    """Arrays with one row per environment that decide how it continues."""
    trace_names: tuple[str, ...] = ()
    """Arrays of what an episode draws at reset; environment b reads row `trace_row` of b."""
    config: Any
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

    @property
    def nbytes(self) -> int:
        """Memory of all states and traces."""
        arrays = [getattr(self, name) for name in (*self.state_names, *self.trace_names)]
        return sum(each.nbytes for each in {id(array): array for array in arrays}.values())

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
        """Infos about the current state, which resets report."""

    def state_infos_of_step(self) -> Infos:
        """Those that steps report: all of them, unless settings say otherwise."""
        return self.state_infos()

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
        state[FINGERPRINT] = np.full(len(members), self._fingerprint)
        return state

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments (default: all) into a state that `get_state` returned.

        Wherever the state comes from, the episodes can be played to their ends.

        Raises:
            ValueError: If the state is not one of M environments with these settings, or breaks a
                rule of `state_rules`; then nothing has changed.
        """
        members = self._all if members is None else _check_members(members, self.num_envs)
        self.check_state(state, len(members))
        self.restore(state, members)

    def restore(self, state: Mapping[str, np.ndarray], members: np.ndarray) -> None:
        """`set_state` without its checks, for a state of `get_state` that nobody else has had."""
        rows = self._free_rows(members, len(members)) if self.trace_names else members
        for name in self.state_names:
            _as_bytes(getattr(self, name))[members] = _as_bytes(state[name])
        for name in self.trace_names:
            _as_bytes(getattr(self, name))[rows] = _as_bytes(state[name])
        if self.trace_names:
            self.episodes["trace_row"][members] = rows

    def check_state(self, state: Mapping[str, np.ndarray], count: int) -> None:
        """Refuse a state that `get_state` of an environment with these settings cannot return.

        Args:
            state: Anything.
            count: M.

        Raises:
            ValueError: If an array is missing or has another shape or dtype, if the settings are
                others, or if a rule is broken.
        """
        for name in (*self.state_names, *self.trace_names):
            own = getattr(self, name)
            _check_array(state, name, (count, *own.shape[1:]), own.dtype)
        _check_array(state, FINGERPRINT, (count,), np.dtype(np.uint64))
        if (state[FINGERPRINT] != self._fingerprint).any():
            raise ValueError(
                "state must be of an environment with the same settings: make one with those that "
                "get_state was called under"
            )
        for rule, holds in self._all_rules(state):
            rows = holds.reshape(count, math.prod(holds.shape[1:]))
            broken = np.flatnonzero(~rows.all(axis=1))
            if len(broken):
                raise ValueError(
                    f"state must have {rule}, but that of member {broken[0]} has not: restore only "
                    "what get_state returned"
                )

    def state_rules(self, state: Mapping[str, np.ndarray]) -> Iterator[Rule]:
        """What holds in every state that an episode can be in, each rule given those before it.

        Together they keep kernels inside their arrays and their loops finite.

        Args:
            state: Arrays of the right shapes and dtypes with any content, first axis M.
        """
        yield from ()

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

    def _settings(self) -> Any:
        """What decides how a state continues, in plain types; states hold for equal ones."""
        return to_mapping(self.config)

    @cached_property
    def _fingerprint(self) -> np.uint64:
        text = json.dumps([type(self).__name__, self._settings()], sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint64)[0]

    def _all_rules(self, state: Mapping[str, np.ndarray]) -> Iterator[Rule]:
        for name in (*self.state_names, *self.trace_names):
            array = state[name]
            for field in array.dtype.names or ():
                if array.dtype[field] == np.bool_:
                    bits = array[field].view(np.uint8)  # other bytes would be neither
                    yield f"true or false in {name}.{field}", bits <= 1
        episode = state["episodes"]["episode"]
        yield "an episode that has begun", (episode >= 0) & (episode < _LAST_EPISODE)
        yield from self.state_rules(state)


def _check_members(members: Any, num_envs: int) -> np.ndarray:
    members = np.asarray(members)
    if members.ndim != 1 or members.dtype.kind not in "iu":
        raise ValueError(f"members must be integers of shape (M,), got {members!r}")
    inside = ((members >= 0) & (members < num_envs)).all()
    if not inside or len(np.unique(members)) < len(members):
        raise ValueError(f"members must be different, from 0 to {num_envs - 1}, got {members}")
    return members.astype(np.int64)


def _check_array(state: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    given = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(given, np.ndarray) or (given.shape, given.dtype) != (shape, dtype):
        raise ValueError(
            f"state[{name!r}] must be an array of shape {shape} as get_state returns it: "
            "restore a state only into environments with the same configuration"
        )


def within(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Where low <= value <= high; nowhere for NaN."""
    inside: np.ndarray = (values >= low) & (values <= high)
    return inside


def _as_bytes(records: np.ndarray) -> np.ndarray:
    """Each environment's records as one row of bytes, which NumPy copies 20 times faster.

    Args:
        records: Shape (B, ...). Where it is contiguous, the result is a view.
    """
    size = records.dtype.itemsize * math.prod(records.shape[1:])
    return np.ascontiguousarray(records).view(np.uint8).reshape(len(records), size)
