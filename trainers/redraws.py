"""Workers that are lost in a rollout: their groups start again from other seeds."""

import logging

import numpy as np

from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.rollouts.randomness import redrawn_seeds
from grpo_gym.rollouts.workers.pool import WorkersLostError
from grpo_gym.trainers.config import GRPOConfig

_log = logging.getLogger(__name__)

MOST_LOST = 10
"""Workers that may be lost in one rollout: by chance, and not because of what is played."""


class Redraws:
    """Which groups of a rollout were lost, and how often.

    Shapes: G groups, K members.
    """

    def __init__(self, iteration: int, groups: range, config: GRPOConfig) -> None:
        """Begin with none.

        Args:
            iteration: Counts from 0.
            groups: By their indices in the iteration.
            config: The settings.
        """
        self._iteration = iteration
        self._groups = groups
        self._config = config
        self._losses = np.zeros(len(groups), np.int64)
        self._lost_workers = 0

    def note(self, error: WorkersLostError) -> None:
        """Take the groups of lost workers for lost, and say so.

        Raises:
            EnvError: If these are more workers than may be lost.
        """
        for worker in error.lost:
            self._lost_workers += 1
            if self._lost_workers > MOST_LOST:
                raise EnvError(
                    f"a rollout must not lose more than {MOST_LOST} workers, lost one more: "
                    f"{worker}. Look there for what its environments do, or train with workers=0"
                ) from error
            groups = np.unique(np.array(worker.part) // self._config.group_size)
            self._losses[groups] += 1
            _log.warning(
                "iteration %d: %s; another takes its place, and its groups, %d of %d, start again "
                "from other seeds",
                self._iteration + 1,
                worker,
                len(groups),
                len(self._groups),
            )

    def applied(self, seeds: np.ndarray) -> np.ndarray:
        """The seeds of a rollout in which nothing is lost, with others where groups were lost.

        Shape (G,), or (G, K) for unrelated episodes.
        """
        seed, members = self._config.seed, None if seeds.ndim == 1 else seeds.shape[1]
        changed = seeds.copy()
        for place in np.flatnonzero(self._losses).tolist():
            key = (seed, self._iteration, self._groups[place], int(self._losses[place]))
            changed[place] = redrawn_seeds(*key, members)
        return changed
