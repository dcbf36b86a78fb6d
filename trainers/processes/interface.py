"""What training asks of the processes that share its work.

Work is cut into shards by the settings alone. Each process does some of them, one after the other,
and all processes get all results in the order of the shards: the bits of what is computed from them
do not depend on the number of processes.

Shapes: S shards, M of them this process's own.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from grpo_gym.rollouts.rollout import GroupedRollout


class Processes(Protocol):
    """The processes that train one policy, as one of them sees them.

    Every method but `mine` is called by all of them, in the same order.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0, the one that reports and writes."""

    @property
    def size(self) -> int:
        """How many there are."""

    def mine(self, shards: int) -> range:
        """The shards, out of S, that this process does; neighbours, and perhaps none."""

    def gather(self, parts: Tensor, shards: int) -> Tensor:
        """The results of all S shards, shape (S, ...), from each process's own, shape (M, ...)."""

    def gather_rollout(self, rollout: GroupedRollout | None) -> GroupedRollout:
        """All groups of the rollouts of all processes; None: this one has no groups."""

    def agree(self, number: int) -> int:
        """The largest number, at least 0, that a process brings: one that stops stops all."""


def deal(items: int, receivers: int, receiver: int) -> range:
    """The items of one receiver: neighbours, and as many as others get, or one more."""
    return range(items * receiver // receivers, items * (receiver + 1) // receivers)


@dataclass(frozen=True)
class _Alone:
    """One process that does everything."""

    rank: int = 0
    size: int = 1

    def mine(self, shards: int) -> range:
        return range(shards)

    def gather(self, parts: Tensor, shards: int) -> Tensor:
        return parts

    def gather_rollout(self, rollout: GroupedRollout | None) -> GroupedRollout:
        assert rollout is not None
        return rollout

    def agree(self, number: int) -> int:
        return number


ALONE: Processes = _Alone()
"""Training in a single process."""
