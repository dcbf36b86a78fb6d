"""A batch whose environments are stepped in processes: whole groups a worker.

Each worker has a `LoopBatch` of its part, writes results into shared arrays, and answers one
message a step; workers without an episode that goes on get none. What comes out does not depend on
the number of workers.

Shapes: B environments, M of them, K copies of each, A choices.
"""

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from typing_extensions import override

from grpo_gym.rollouts.env_batch import BatchStep
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.rollouts.returned import choices_of
from grpo_gym.rollouts.workers.pool import WorkerPool
from grpo_gym.rollouts.workers.sent import as_bytes
from grpo_gym.rollouts.workers.shared_arrays import ArrayKind


@dataclass(frozen=True)
class Workers:
    """Processes that step environments.

    Attributes:
        count: How many; 0: none. More than there are groups are not started.
        group_size: Environments that are in one process.
        timeout_s: How long a step of a worker may take.
    """

    count: int
    group_size: int
    timeout_s: float


class WorkerBatch(SeparateBatch):
    """B environments in processes."""

    def __init__(
        self,
        example: gym.Env[Any, Any],
        make: Callable[[], gym.Env[Any, Any]],
        num_envs: int,
        workers: Workers,
    ) -> None:
        """Start the workers.

        Args:
            example: One of the environments, which is closed.
            make: Makes one.
            num_envs: B.
            workers: How many, and of how many environments each.

        Raises:
            ConfigError: If environments cannot be made in other processes, or their spaces are not
                supported.
            EnvError: If a worker crashes or hangs in making them.
        """
        try:
            super().__init__(example, num_envs)
            sent = as_bytes(make, self.name)
        finally:
            example.close()
        groups = num_envs // workers.group_size
        shares = np.array_split(np.arange(groups), min(workers.count, groups))
        size = workers.group_size
        parts = [range(int(share[0]) * size, (int(share[-1]) + 1) * size) for share in shares]
        self._pool = WorkerPool(self.name, sent, parts, self._array_kinds(), workers.timeout_s)
        self._starts = np.array([part.start for part in parts])
        self._parts = [slice(part.start, part.stop) for part in parts]
        self._keys = itertools.count()
        self._dropped: list[int] = []

    @override
    def close(self) -> None:
        self._pool.close()

    @override
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        self._pool.replace_lost()
        each = [int(seed) for seed in seeds]
        masked = self._pool.ask({i: ("reset", each[own]) for i, own in enumerate(self._parts)})
        return self._pool.arrays["observations"].copy(), self._masks(masked)

    @override
    def _step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        arrays = self._pool.arrays
        arrays["actions"][:] = actions
        arrays["alive"][:] = alive
        busy = [i for i, own in enumerate(self._parts) if alive[own].any()]
        answers = self._pool.ask(dict.fromkeys(busy, ("step",)))
        return BatchStep(
            observations=arrays["observations"].copy(),
            rewards=np.where(alive, arrays["rewards"], 0.0),
            terminated=arrays["terminated"] & alive,
            truncated=arrays["truncated"] & alive,
            infos=self._infos({i: infos for i, (infos, _) in answers.items()}),
            action_masks=self._masks({i: masked for i, (_, masked) in answers.items()}),
        )

    @override
    def _snapshot(self, members: np.ndarray) -> "_SavedInWorkers":
        owners = self._owners(members)
        numbers = np.unique(owners).tolist()
        key = next(self._keys)
        if self._dropped:
            message = ("forget", self._dropped.copy())
            self._dropped.clear()
            self._pool.ask(dict.fromkeys(range(len(self._parts)), message))
        self._pool.ask(
            {i: ("snapshot", key, members[owners == i] - self._starts[i]) for i in numbers}
        )
        saved = _SavedInWorkers(key, owners)
        weakref.finalize(saved, self._dropped.append, key)
        return saved

    @override
    def _restore(self, states: "_SavedInWorkers", members: np.ndarray) -> None:
        messages = {}
        for i in np.unique(states.owners).tolist():
            own = states.owners == i
            copies = members[own]
            if not (self._owners(copies) == i).all():
                raise ValueError("a saved state must stay within a group, got one for another")
            messages[i] = ("restore", states.key, copies - self._starts[i])
        self._pool.ask(messages)

    def _owners(self, members: np.ndarray) -> np.ndarray:
        """The workers' numbers of environments of any shape."""
        return np.searchsorted(self._starts, members, side="right") - 1

    def _masks(self, masked: dict[int, bool]) -> np.ndarray | None:
        """Action masks, all true for workers that have none."""
        if not any(masked.values()):
            return None
        shared = self._pool.arrays["masks"]
        masks = np.ones_like(shared)
        for i, has_masks in masked.items():
            if has_masks:
                masks[self._parts[i]] = shared[self._parts[i]]
        return masks

    def _infos(self, parts: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        names = {name for infos in parts.values() for name in infos}
        merged = {name: np.full(self.num_envs, np.nan) for name in sorted(names)}
        for i, infos in parts.items():
            for name, values in infos.items():
                merged[name][self._parts[i]] = values
        return merged

    def _array_kinds(self) -> dict[str, ArrayKind]:
        space, count = self.single_action_space, self.num_envs
        flag = np.dtype(np.bool_)
        return {
            "actions": ((count, *(space.shape or ())), np.dtype(space.dtype)),
            "alive": ((count,), flag),
            "observations": ((count, self.rows.width), self.rows.dtype),
            "rewards": ((count,), np.dtype(np.float64)),
            "terminated": ((count,), flag),
            "truncated": ((count,), flag),
            "masks": ((count, sum(choices_of(space))), flag),
        }


@dataclass(frozen=True, eq=False)
class _SavedInWorkers:
    """States of environments (M,) that workers keep by a key, and the workers that have each."""

    key: int
    owners: np.ndarray
