"""From a rollout to the advantages that an update learns from.

Shapes: T steps, G groups, K members; time-major (T, G, K).
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.config import AdvantageConfig
from grpo_gym.trainers.learning.advantages import (
    BaselineKind,
    all_equal,
    compute_returns,
    group_advantages,
    informative_groups,
    rounding_errors,
    scaled,
)
from grpo_gym.trainers.learning.state_baseline import (
    explained_variance,
    exponential_advantages,
    state_values,
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
        explained_variance: Fraction of the returns' variance that each baseline explains which was
            considered, without the own return, by name; only with the baselines "state" and "auto".
    """

    returns: Tensor
    advantages: Tensor
    informative: Tensor
    discount: float
    explained_variance: dict[str, float] = field(default_factory=dict)

    @property
    def uniform_groups(self) -> float:
        """Fraction of groups whose returns are all equal, so that nothing is learned from them."""
        return 1.0 - float(self.informative.float().mean())


def estimate_advantages(
    rollout: GroupedRollout,
    config: AdvantageConfig,
    discount: float,
    features: Tensor | None = None,
    states: Tensor | None = None,
    values: Tensor | None = None,
) -> AdvantageEstimate:
    """Estimate the advantage of every step.

    Args:
        rollout: T steps of G groups of K members.
        config: The settings.
        discount: Discount factor in use, per step.
        features: Observations as the network sees them, shape (T, G, K, D), float32; only used,
            and then needed, where steps in similar states are compared (`bins_states`).
        states: What returns are fitted on, shape (T, G, K, S), float32; only used, and then needed,
            where they are (`fits_states`).
        values: Predictions of a learned baseline, shape (T, G, K), float64, which are subtracted
            from the returns; None: nothing is.
    """
    returns = compute_returns(rollout.rewards, rollout.alive, config.returns, discount)
    tolerance = rounding_errors(rollout.rewards, rollout.alive, config.returns)
    baseline = config.baseline
    explained: dict[str, float] = {}
    if baseline == "state" or baseline == "auto":
        advantages, explained = _state_advantages(
            rollout, returns, config, discount, _needed(states), tolerance
        )
    else:
        advantages = _group_advantages(
            rollout, returns, baseline, config, features, values, tolerance
        )
    if config.anchor_weight > 0.0:
        bins = state_bins(_needed(features), config.state_bin_width)
        to_go = compute_returns(
            rollout.rewards, rollout.alive, "reward_to_go", config.anchor_discount
        )
        errors = rounding_errors(rollout.rewards, rollout.alive, "reward_to_go")
        anchored = anchor_advantages(to_go, rollout.credited, bins, config.scale, errors)
        advantages = advantages + config.anchor_weight * anchored
    advantages = advantages.to(torch.float32)
    informative = informative_groups(advantages)
    return AdvantageEstimate(returns, advantages, informative, discount, explained)


def _group_advantages(
    rollout: GroupedRollout,
    returns: Tensor,
    baseline: BaselineKind,
    config: AdvantageConfig,
    features: Tensor | None,
    values: Tensor | None,
    tolerance: Tensor,
) -> Tensor:
    """Returns, perhaps minus learned values, compared with means; arguments as above."""
    bins = None
    if baseline == "state_bin":
        bins = state_bins(_needed(features), config.state_bin_width)
    compute = partial(
        group_advantages,
        alive=rollout.credited,
        baseline=baseline,
        center=config.center,
        bins=bins,
        tolerance=tolerance,
    )
    if values is None:
        return compute(returns, scale=config.scale)
    values = torch.where(rollout.alive, values, 0.0)
    advantages = compute(returns - values, scale=config.scale)
    if baseline == "none":
        return advantages
    # Equal returns carry no information, even if the predictions differ.
    informative = informative_groups(compute(returns, scale="none"))
    return torch.where(informative[None, :, None], advantages, 0.0)


def _state_advantages(
    rollout: GroupedRollout,
    returns: Tensor,
    config: AdvantageConfig,
    discount: float,
    features: Tensor,
    tolerance: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Returns compared with the states' values, or with "auto" perhaps with the time steps' means.

    Returns:
        The advantages, shape (T, G, K), and how much of the variance each baseline explains.
    """
    alive, credited = rollout.alive, rollout.credited
    values = state_values(features, alive, credited, returns, discount)
    explained = {"state": explained_variance(returns - values, returns, credited)}
    if config.baseline == "auto":
        of_others = group_advantages(
            returns,
            credited,
            baseline="time_step",
            center="leave_one_out",
            scale="none",
            tolerance=tolerance,
        )
        explained["time_step"] = explained_variance(of_others, returns, credited)
        if not explained["state"] > explained["time_step"]:
            advantages = _group_advantages(
                rollout, returns, "time_step", config, None, None, tolerance
            )
            return advantages, explained
    centred = exponential_advantages(rollout.rewards, values, alive, discount, config.gae_lambda)
    # If all members fare equally at all times there is no information, though predictions differ.
    equal = all_equal(returns, credited, (1, 2), tolerance).all()
    centred = torch.where(credited & ~equal, centred, 0.0)
    return scaled(centred, credited, config.scale), explained


def _needed(features: Tensor | None) -> Tensor:
    if features is None:
        raise ValueError("features must be given where states are compared, got None")
    return features
