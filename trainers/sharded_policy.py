"""A policy that plays in shards, so that its outputs do not depend on who else plays beside them.

A matrix product of other size may round otherwise: with Intel's MKL the row of one, two or three is
not the row of four. So the outputs of a rollout are, by definition, those of its shards' forward
passes. Where the network gives the same bits for all rows at once, one pass makes them all: that
is tried on a whole rollout, and its products are then of the same sizes again.

Shapes: B environments, W numbers of a row, P distribution parameters, A choices, T steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grpo_gym.policies.distributions import Distribution
from grpo_gym.policies.heads import ActionHead
from grpo_gym.policies.network import Policy
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.learning.fused.networks import forward_of

Forward = Callable[[Tensor], Tensor]
_PASSES_TRIED = 32


class PlayedShards:
    """How B environments are cut into shards, and whether they may be passed all at once.

    Attributes:
        rows: Environments of each shard, none of them 0.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self._all_at_once: bool | None = None
        """None: not tried yet."""

    def outputs(self, forward: Forward, observations: Tensor) -> Tensor:
        """Distribution parameters, shape (B, P), at observations (B, W), shard by shard."""
        if self._all_at_once:
            return forward(observations)
        return torch.cat([forward(part) for part in observations.split(self.rows)])

    @torch.inference_mode()
    def try_all_at_once(self, policy: Policy, rollout: GroupedRollout) -> None:
        """Find out, once, with the steps of a rollout of these environments.

        Their number of rows is all that tells the passes apart: the order of additions within a
        product depends on its size and not on its numbers, and if it were another one, it would
        show in some of so many.
        """
        if self._all_at_once is not None:
            return
        if len(self.rows) == 1:
            self._all_at_once = True
            return
        size = sum(self.rows)
        forward = forward_of(policy)
        observations = rollout.observations.flatten(0, 2).to(policy.device)
        passes = observations[: len(observations) // size * size].split(size)
        # A list: a generator would turn a network's StopIteration into another error.
        self._all_at_once = all(
            [
                torch.equal(forward(rows), self.outputs(forward, rows))
                for rows in passes[:: -(-len(passes) // _PASSES_TRIED)]
            ]
        )


class ShardedPolicy:
    """A policy as `rollouts.collection` asks for it, which plays in shards."""

    def __init__(self, policy: Policy, shards: PlayedShards) -> None:
        self._policy, self._shards = policy, shards
        self._forward = forward_of(policy)

    @property
    def head(self) -> ActionHead:
        """Of the policy."""
        return self._policy.head

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._policy.device

    def __call__(self, observations: Tensor) -> Tensor:
        """Distribution parameters, shape (B, P), at observations (B, W)."""
        return self._shards.outputs(self._forward, observations)

    def distribution(self, outputs: Tensor, masks: Tensor | None = None) -> Distribution:
        """The action distribution for outputs (B, P) and legal actions (B, A)."""
        return self._policy.distribution(outputs, masks)
