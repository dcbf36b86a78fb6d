"""Sums over the shards of a batch, in their order, whoever computes them.

Floating-point sums depend on their order. Shards are cut by the settings alone, so that a sum over
them has the same bits on any number of processes.

Shapes: S shards.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from grpo_gym.trainers.processes import ALONE, Processes


@dataclass(frozen=True)
class Shards:
    """S shards of a batch, of which each process computes some.

    Attributes:
        count: S.
        processes: Who share them.
    """

    count: int
    processes: Processes

    @property
    def mine(self) -> range:
        """Those of this process."""
        return self.processes.mine(self.count)

    def total(self, part: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """The sum over all shards of `part(shard)`, each with the shape and dtype of `like`."""
        parts = like.new_empty((len(self.mine), *like.shape))
        for row, shard in zip(parts, self.mine, strict=True):
            row.copy_(part(shard))
        first, *others = self.processes.gather(parts, self.count)
        total = first.clone()
        for other in others:
            total += other
        return total


WHOLE = Shards(1, ALONE)
"""A single shard."""
