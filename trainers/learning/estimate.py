"""From a rollout to the advantages that an update learns from.

Shapes: T steps, G groups, K members; time-major (T, G, K).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.config import AdvantageConfig
from grpo_gym.trainers.learning.advantages import (
    compute_returns,
    group_advantages,
    informative_groups,
    rounding_errors,
)
from grpo_gym.trainers.learning.state_bins import anchor_advantages, state_bins


@dataclass(frozen=True)
class AdvantageEstimate:
    """Returns and advantages of a rollout.

    Attributes:
        returns: Of each step, shape (T, G, K), float64.
        advantages: Of each step, shape (T, G, K), float32; 0 where not credited.
        informative: Groups with any advantage other than 0, shape (G,), bool.
        discount: That the returns were computed with.
    """

    returns: Tensor
    advantages: Tensor
    informative: Tensor
    discount: float

    @property
    def uniform_groups(self) -> float:
        """Fraction of groups whose returns are all equal, so that nothing is learned from them."""
        return 1.0 - float(self.informative.float().mean())


def estimate_advantages(
    rollout: GroupedRollout,
    config: AdvantageConfig,
    discount: float,
    features: Tensor | None = None,
    values: Tensor | None = None,
) -> AdvantageEstimate:
    """Estimate the advantage of every step.

    Args:
        rollout: T steps of G groups of K members.
        config: The settings.
        discount: Discount factor in use, per step.
        features: Observations as the network sees them, shape (T, G, K, D), float32; only used,
            and then needed, where states are compared (`AdvantageConfig.compares_states`).
        values: Predictions of a learned baseline, shape (T, G, K), float64, which are subtracted
            from the returns; None: nothing is.
    """
    returns = compute_returns(rollout.rewards, rollout.alive, config.returns, discount)
    bins = None
    if config.compares_states and features is not None:
        bins = state_bins(features, config.state_bin_width)
    compute = partial(
        group_advantages,
        alive=rollout.credited,
        baseline=config.baseline,
        center=config.center,
        bins=bins,
        tolerance=rounding_errors(rollout.rewards, rollout.alive, config.returns),
    )
    if values is None:
        advantages = compute(returns, scale=config.scale)
    else:
        values = torch.where(rollout.alive, values, 0.0)
        advantages = compute(returns - values, scale=config.scale)
        if config.baseline != "none":
            # Equal returns carry no information, even if the predictions differ.
            informative = informative_groups(compute(returns, scale="none"))
            advantages = torch.where(informative[None, :, None], advantages, 0.0)
    if config.anchor_weight > 0.0 and bins is not None:
        to_go = compute_returns(
            rollout.rewards, rollout.alive, "reward_to_go", config.anchor_discount
        )
        errors = rounding_errors(rollout.rewards, rollout.alive, "reward_to_go")
        anchored = anchor_advantages(to_go, rollout.credited, bins, config.scale, errors)
        advantages = advantages + config.anchor_weight * anchored
    advantages = advantages.to(torch.float32)
    return AdvantageEstimate(returns, advantages, informative_groups(advantages), discount)
