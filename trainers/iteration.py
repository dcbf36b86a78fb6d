"""What an iteration of training reports, and who listens."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.schedule import Schedule

if TYPE_CHECKING:
    from grpo_gym.trainers.learning.update import UpdateStats


@dataclass(frozen=True)
class IterationStats:
    """Statistics of one iteration.

    Attributes:
        iteration: Number of the iteration, from 1.
        num_steps: Environment steps since the start of training.
        rollout_steps: Environment steps of this iteration.
        rollout: `rollout/` metrics by name.
        update: Metrics of the update; None if no group had returns that differ.
        uniform_groups: Fraction of groups whose returns were all equal.
        explained_variance: Fraction of the returns' variance that a baseline predicted from the
            states, the learned one or "state"; NaN without one.
        discount: Discount factor in use.
        collect_seconds: Time spent collecting and estimating advantages.
        update_seconds: Time spent updating.
        unchanged_iterations: How many iterations in a row, up to this one, left the weights as they
            were.
        explained_variance_time_step: That of the baseline "time_step", where "auto" compared them;
            else NaN.
    """

    iteration: int
    num_steps: int
    rollout_steps: int
    rollout: dict[str, float]
    update: "UpdateStats | None"
    uniform_groups: float
    explained_variance: float
    discount: float
    collect_seconds: float
    update_seconds: float
    unchanged_iterations: int = 0
    explained_variance_time_step: float = math.nan


class Learner(Protocol):
    """What reporters read of a model in training.

    Attributes:
        num_steps: Environment steps taken in training.
        schedule: The environment steps that the call of `learn` spans.
    """

    num_steps: int
    schedule: Schedule


Callback = Callable[[Any, IterationStats], bool | None]
"""Called as callback(model, stats) after each iteration; False stops training."""


def rollout_metrics(rollout: GroupedRollout) -> dict[str, float]:
    """The `rollout/` metrics by name."""
    returns = rollout.episodes.returns
    return {
        **rollout.infos,  # ours take precedence over an info of the same name
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std(correction=0)),
        "return_group_std": float(rollout.returns.std(dim=1, correction=0).mean()),
        "length_mean": float(rollout.episodes.lengths.double().mean()),
        "truncated_share": float(rollout.episodes.truncated.double().mean()),
    }
