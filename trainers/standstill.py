"""Whether training still gets anywhere: iterations that left the weights as they were.

Many of them are no fault: while a sparse reward has not been found, all returns of a group are
equal, and the policy explores on: see `trainers.advice`. Two kinds will never change a weight
again:

- the policy is certain: sampled again, it would take the actions that it took, so that groups,
  whose members share their trace, stay uniform. A far too high learning rate ends like this.
- an update was made, and the weights are the same but for rounding: the gradient is 0, as in a
  network that is saturated, or the learning rate is too small.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_gym.policies.heads import ActionHead
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.learning.update import UpdateStats

WARN_AFTER = 3
"""Iterations without a change, after which a warning is due."""
STOP_AFTER = 10
"""Iterations after which nothing will change, to end training."""
_CERTAIN = 0.01
"""Other actions to expect in an iteration, below which a policy is certain."""
_ROUNDING = 2.0**-24
_RATE_COUNTED = 0.01
"""Fraction of the learning rate down to which a schedule may fall before it excuses small steps."""


@dataclass(frozen=True)
class Standstill:
    """The latest iterations in a row that led nowhere.

    Attributes:
        unchanged: Iterations that left the weights as they were.
        hopeless: Those of them, counted from the last one back, after which nothing will change.
    """

    unchanged: int = 0
    hopeless: int = 0

    @property
    def is_noticed(self) -> bool:
        """Whether nothing will change, as far as one can tell."""
        return self.hopeless >= WARN_AFTER

    @property
    def is_final(self) -> bool:
        """Whether that has been so for long enough to end training."""
        return self.hopeless >= STOP_AFTER

    def __str__(self) -> str:
        """One in which nothing will change, in a sentence."""
        return (
            f"{self.hopeless} iterations in a row changed no weight, and no other will: the policy "
            "is certain of its actions, or its gradient is 0. If it has not learned its task, "
            "lower learning_rate, or set entropy_coefficient"
        )

    def after(self, changed: bool, hopeless: bool) -> "Standstill":
        """The state after one more iteration."""
        if changed:
            return Standstill()
        return Standstill(self.unchanged + 1, self.hopeless + 1 if hopeless else 0)

    def warning(self) -> str | None:
        """What to tell the user after this iteration, if anything."""
        if self.hopeless != WARN_AFTER:
            return None
        return f"{self}. Training ends after {STOP_AFTER} such iterations"


def weights_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the weights."""
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def have_changed(before: list[Tensor], parameters: Iterable[Tensor]) -> bool:
    """Whether a weight differs from its copy, by more than the largest weight is rounded."""
    pairs = zip(before, parameters, strict=True)
    step = max(float((new - old).abs().max()) for old, new in pairs)
    return not step <= _ROUNDING * max(float(old.abs().max()) for old in before)


def nothing_will_change(
    head: ActionHead, rollout: GroupedRollout, update: UpdateStats | None, full_rate: float
) -> bool:
    """Whether an iteration that changed no weight will be followed by others.

    Args:
        head: Of the policy that collected the rollout.
        rollout: Of the iteration.
        update: Metrics of its update by AdamW; None if there was none, or a trust region's, which
            may find an improvement in another rollout.
        full_rate: The learning rate of the start of the schedule.
    """
    if update is not None and update.learning_rate >= _RATE_COUNTED * full_rate:
        return True
    chances = head.chances_of_others(rollout.actions, rollout.log_probs)
    return float(chances[rollout.alive].double().sum()) < _CERTAIN
