"""Is the policy's arm worse than the fallback's? A test that may be looked at after every block.

Each block is given to the policy with a known probability p. If the arms are alike, the arm A
(1 for the policy's) and the block's outcome Y have nothing to do with each other, so that

    x = (A - p) * u,    u = Y - level, clipped to [low, high],

has mean zero whatever the past was, where level, low, high and p depend on the past alone; in
general its mean is p (1 - p) times the policy's effect on u. Who bets a part b of their wealth on
x < 0 multiplies it by 1 - b * x / max(x), which is never negative. While the policy is no worse,
wealth is a supermartingale, and by Ville's inequality the chance that it ever reaches 1 / alpha
is at most alpha times what it started from: over all time, with outcomes that depend on each
other, drift, and depend on what the arms did before. Wealth is spread evenly over some parts b,
and over starts every `restart_blocks`, the j-th with 1 / (j (j + 1)) of it: all in all, one.

"No worse" means: in every block, given the past, the mean of the clipped outcome under the policy
is no lower than under the fallback by more than `tolerance`. It is so for every clipping if the
policy's outcome is stochastically no lower; inside the limits it says just that of the mean.

Source: betting, Waudby-Smith and Ramdas (2024, arXiv 2010.09686); tests from the probabilities of
assignment, Howard et al. (2021, arXiv 1810.08240) and Ham et al. (2022, arXiv 2210.08639); starts
over time, Shin et al. (2022, arXiv 2203.03532).
"""

import math
from typing import Any

BET_SIZES = (0.2, 0.5, 0.9)
"""Parts of the wealth at stake in a block: small ones find small differences in much noise."""
Limits = tuple[float, float]


class OutcomeLevel:
    """Where outcomes lie of late, and how far from there: what makes blocks comparable.

    Attributes:
        mean: Exponentially weighted mean of the outcomes; None before the first.
        deviation: Exponentially weighted mean distance from it.
    """

    def __init__(
        self,
        weight: float,
        clip_deviations: float | None,
        minimum: float | None,
        maximum: float | None,
    ) -> None:
        """Start without any outcome.

        Args:
            weight: Of the newest outcome, in (0, 1].
            clip_deviations: Deviations that an outcome may lie from the mean; None: any number.
            minimum: Lower bound of outcomes; None: none.
            maximum: Upper bound of outcomes; None: none.
        """
        self.mean: float | None = None
        self.deviation = 0.0
        self._weight = weight
        self._clip_deviations = clip_deviations
        self._minimum = -math.inf if minimum is None else minimum
        self._maximum = math.inf if maximum is None else maximum

    def limits(self) -> Limits:
        """Least and largest residual that the next outcome can have; (0, 0) before the first."""
        if self.mean is None:
            return 0.0, 0.0
        low, high = self._minimum - self.mean, self._maximum - self.mean
        if self._clip_deviations is None:
            return low, high
        reach = self._clip_deviations * self.deviation
        return max(low, -reach), min(high, reach)

    def residual(self, outcome: float) -> float:
        """The outcome less the mean, clipped to `limits`; -inf and inf are as far as can be."""
        low, high = self.limits()
        return 0.0 if self.mean is None else min(max(outcome - self.mean, low), high)

    def learn(self, outcome: float) -> None:
        """Move mean and deviation towards an outcome, clipped: one outlier does not blind us."""
        if self.mean is None:
            if math.isfinite(outcome):
                self.mean = self._bounded(outcome)
            return
        step = self.residual(outcome)
        if self.deviation == 0.0:
            # Nothing to clip by yet; the first distance is the first guess.
            step = self._bounded(outcome) - self.mean if math.isfinite(outcome) else step
            self.deviation = abs(step)
        else:
            self.deviation += self._weight * (abs(step) - self.deviation)
        self.mean += self._weight * step

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON's types."""
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.mean, self.deviation = state["mean"], state["deviation"]

    def _bounded(self, outcome: float) -> float:
        return min(max(outcome, self._minimum), self._maximum)


class OutcomeTest:
    """Wealth from bets that the policy's blocks turn out worse.

    Attributes:
        wealth: Of each bet size; their mean is the evidence.
        blocks: Bets so far.
    """

    def __init__(self, false_alarm_rate: float, tolerance: float, restart_blocks: int) -> None:
        """Start with no evidence.

        Args:
            false_alarm_rate: alpha, in (0, 1).
            tolerance: How much worse the policy may be, in the outcomes' unit, >= 0.
            restart_blocks: Bets from one start to the next, >= 1.
        """
        self.wealth = [0.0] * len(BET_SIZES)
        self.blocks = 0
        self._false_alarm_rate = false_alarm_rate
        self._tolerance = tolerance
        self._restart_blocks = restart_blocks

    @property
    def evidence(self) -> float:
        """Wealth in multiples of all that was ever put in; rarely above 1 if there is nothing."""
        return math.fsum(self.wealth) / len(self.wealth)

    @property
    def has_alarmed(self) -> bool:
        """Whether the evidence is enough now."""
        return self.evidence >= 1.0 / self._false_alarm_rate

    def update(self, policy_acted: bool, share: float, residual: float, limits: Limits) -> None:
        """Bet on one block.

        Args:
            policy_acted: Whether the block was the policy's.
            share: Probability with which it might have been, fixed before the block, in [0, 1].
            residual: The block's outcome against a level fixed before the block, within limits.
            limits: Least and largest residual, fixed before the block.
        """
        if not 0.0 < share < 1.0 or limits[0] >= limits[1]:
            return
        if self.blocks % self._restart_blocks == 0:
            start = self.blocks // self._restart_blocks + 1
            self.wealth = [each + 1.0 / (start * (start + 1)) for each in self.wealth]
        self.blocks += 1
        loss = relative_loss(policy_acted, share, residual, limits, self._tolerance)
        self.wealth = [
            each * (1.0 - size * loss) for each, size in zip(self.wealth, BET_SIZES, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON's types."""
        return {"wealth": list(self.wealth), "blocks": self.blocks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.wealth, self.blocks = list(state["wealth"]), state["blocks"]


def relative_loss(
    policy_acted: bool, share: float, residual: float, limits: Limits, tolerance: float
) -> float:
    """What a bet on the policy's being worse loses, of all that it can lose; at most 1.

    Over the draw of the arm its mean is zero if the residual does not depend on the arm and
    `tolerance` is 0, and not below zero if the policy's mean is no lower by more than that.
    """
    allowance = share * (1.0 - share) * tolerance
    loss = ((1.0 - share) if policy_acted else -share) * residual + allowance
    largest = max((1.0 - share) * limits[1], -share * limits[0]) + allowance
    # Rounding must not make it more than all.
    return min(loss / largest, 1.0)


def cautious_share(share: float, evidence: float) -> float:
    """A policy's share of the blocks, smaller the more evidence there is against it.

    The fallback's odds grow by the evidence, down to a share of one half, where the test is
    fastest. The test stays valid: the evidence is known before the block.

    Args:
        share: Without evidence, in [0, 1].
        evidence: Of `OutcomeTest`, >= 0; up to 1 it changes nothing.
    """
    if share <= 0.5 or evidence <= 1.0:
        return share
    return max(0.5, share / (share + (1.0 - share) * evidence))
