"""Settings of online GRPO. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import Flag, Integer, Natural, Positive, PositiveFraction, checked_dataclass


@checked_dataclass
class OnlineConfig:
    """How a linear softmax policy learns from single decisions. The defaults fit all presets."""

    learning_rate: Positive = 0.05
    """Change of the weights per unit of gradient. Found on seeds 0 to 7 with the two limits
    below: it fits `flaky`, whose rewards are near 1, and `tiny-grpo`, where they are 20 to
    300 ms."""
    group_size: Annotated[Integer, Field(ge=2, le=8)] = 2
    """Distinct actions per decision, K, one of them executed (2: tiny-grpo)."""
    exploration: PositiveFraction = 0.1
    """Weight of the uniform distribution in the distribution that actions are drawn from
    (0.1: tiny-grpo)."""
    weight_limit: Positive | None = 6.0
    """Largest norm of the weights. It keeps the policy able to change, because the gradient of a
    softmax vanishes where it is certain. None: no limit, and tiny-grpo does not recover."""
    step_limit: Positive | None = 0.1
    """Largest norm of the change by one decision, against rare outliers among the rewards (a long
    queue). None: no limit."""
    importance_weights: Flag = True
    """Whether to correct for the probability of sampling a group; False: as tiny-grpo."""
    estimates: Literal["observed", "privileged"] = "observed"
    """Rewards of actions not executed: estimated from what a balancer can observe, or the
    simulator's truth."""
    seed: Natural = 0
    """Seed of everything random."""


TINY_GRPO = OnlineConfig(
    learning_rate=0.01, weight_limit=None, step_limit=None, importance_weights=False
)
"""The published program (github.com/karimluna/tiny-grpo), which recovers in 0 of 100 runs."""
