"""A sequential test of whether the policy's outcomes are worse, valid after every block.

Each block is assigned to the policy with a known probability p. If the arms do not differ, the arm
A (1 for the policy) and the block's outcome Y are independent given the past, so that

    x = (A - p) * u,    u = Y - level, clipped to [low, high],

has conditional mean zero, where level, low, high and p depend on the past only; in general its
mean is p (1 - p) times the policy's effect on u. Betting a fraction b of the wealth on x < 0
multiplies the wealth by 1 - b * x / max(x), which is never negative. While the policy is no worse,
wealth is a supermartingale, and by Ville's inequality the probability that it ever reaches
1 / alpha is at most alpha times the initial wealth: over all time, for outcomes that are
correlated, drift, and depend on earlier actions. The initial wealth of 1 is spread evenly over
several fractions b, and over restarts every `restart_blocks`, the j-th with 1 / (j (j + 1)) of it.

"No worse" means: in every block, given the past, the policy's mean clipped outcome is at most
`tolerance` below the fallback's. This holds for every clipping if the policy's outcome is
stochastically no lower; without clipping it is a statement about the mean.

Source: betting, Waudby-Smith and Ramdas (2024, arXiv 2010.09686); tests from the probabilities of
assignment, Howard et al. (2021, arXiv 1810.08240) and Ham et al. (2022, arXiv 2210.08639); starts
over time, Shin et al. (2022, arXiv 2203.03532).
"""

import math
from dataclasses import dataclass, field

from grpo_gym.deployment.config import GuardConfig

BET_SIZES = (0.2, 0.5, 0.9)
"""Fractions of the wealth at stake in a block; small ones detect small differences in noise."""
Limits = tuple[float, float]


@dataclass
class OutcomeLevel:
    """Recent level and deviation of the outcomes, which make blocks comparable."""

    config: GuardConfig
    mean: float | None = None
    """Exponentially weighted mean of the outcomes; None before the first."""
    deviation: float = 0.0
    """Exponentially weighted mean distance from it."""

    def limits(self) -> Limits:
        """Smallest and largest residual of the next outcome; (0, 0) before the first."""
        if self.mean is None:
            return 0.0, 0.0
        low, high = self._bounded(-math.inf) - self.mean, self._bounded(math.inf) - self.mean
        if self.config.clip_deviations is None:
            return low, high
        reach = self.config.clip_deviations * self.deviation
        return max(low, -reach), min(high, reach)

    def residual(self, outcome: float) -> float:
        """The outcome minus the mean, clipped to `limits`."""
        low, high = self.limits()
        return 0.0 if self.mean is None else min(max(outcome - self.mean, low), high)

    def learn(self, outcome: float) -> None:
        """Move mean and deviation towards an outcome, clipped to limit the effect of outliers."""
        if self.mean is None:
            if math.isfinite(outcome):
                self.mean = self._bounded(outcome)
            return
        step = self.residual(outcome)
        if self.deviation == 0.0:
            # No deviation to clip by yet: the first distance initialises it.
            step = self._bounded(outcome) - self.mean if math.isfinite(outcome) else step
            self.deviation = abs(step)
        else:
            self.deviation += self.config.level_weight * (abs(step) - self.deviation)
        self.mean += self.config.level_weight * step

    def _bounded(self, outcome: float) -> float:
        minimum, maximum = self.config.outcome_minimum, self.config.outcome_maximum
        if minimum is not None:
            outcome = max(outcome, minimum)
        return outcome if maximum is None else min(outcome, maximum)


@dataclass
class OutcomeTest:
    """Wealth from bets that the policy's blocks are worse."""

    config: GuardConfig
    wealth: list[float] = field(default_factory=lambda: [0.0] * len(BET_SIZES))
    """Wealth of each bet size; the mean is the evidence."""
    blocks: int = 0
    """Number of bets so far."""

    @property
    def evidence(self) -> float:
        """Mean wealth, in multiples of the initial wealth; rarely above 1 if the arms are alike."""
        return math.fsum(self.wealth) / len(self.wealth)

    @property
    def has_alarmed(self) -> bool:
        """Whether the evidence suffices."""
        return self.evidence >= 1.0 / self.config.false_alarm_rate

    def update(self, policy_acted: bool, share: float, residual: float, limits: Limits) -> None:
        """Bet on one block, which was the policy's with probability `share`.

        Share, limits, and the level that `residual` is the outcome's difference from must have
        been fixed before the block.
        """
        if not 0.0 < share < 1.0 or limits[0] >= limits[1]:
            return
        blocks_per_start = self.config.restart_blocks
        if self.blocks % blocks_per_start == 0:
            start = self.blocks // blocks_per_start + 1
            self.wealth = [each + 1.0 / (start * (start + 1)) for each in self.wealth]
        self.blocks += 1
        loss = relative_loss(policy_acted, share, residual, limits, self.config.tolerance)
        self.wealth = [
            each * (1.0 - size * loss) for each, size in zip(self.wealth, BET_SIZES, strict=True)
        ]


def relative_loss(
    policy_acted: bool, share: float, residual: float, limits: Limits, tolerance: float
) -> float:
    """Loss of a bet that the policy is worse, relative to its largest loss; at most 1.

    Its mean over the assignment of the arm is zero if the residual does not depend on the arm and
    `tolerance` is 0, and >= 0 if the policy's mean is at most `tolerance` lower.
    """
    allowance = share * (1.0 - share) * tolerance
    loss = ((1.0 - share) if policy_acted else -share) * residual + allowance
    largest = max((1.0 - share) * limits[1], -share * limits[0]) + allowance
    # Rounding must not exceed the largest loss.
    return min(loss / largest, 1.0)


def cautious_share(share: float, evidence: float) -> float:
    """The policy's share of the blocks, reduced by the evidence against it.

    The evidence multiplies the fallback's odds, down to a share of one half, where the test is
    fastest. Evidence up to 1 has no effect. The test stays valid because the evidence is known
    before the block.
    """
    if share <= 0.5 or evidence <= 1.0:
        return share
    return max(0.5, share / (share + (1.0 - share) * evidence))
