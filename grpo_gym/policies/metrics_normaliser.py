"""Scales named metrics by their known ranges, by running statistics, or by a logarithm.

Unlike `normaliser.RunningNormaliser`, which is part of a policy and sees rows of features, this
one knows metrics by name and runs before the policy, also in production.

Shapes: M metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from grpo_gym.settings import ConfigError

_DEVIATIONS = 3.0
# A deviation below this fraction of the mean is rounding.
_LEAST_SHARE = 1e-9


@dataclass
class _Statistics:
    """Running statistics of a metric of unknown range."""

    count: int = 0
    mean: float = 0.0
    sum_of_squares: float = 0.0
    """Of deviations from the mean."""

    def add(self, value: float) -> None:
        """Source: Welford (1962)."""
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.sum_of_squares += difference * (value - self.mean)


class MetricsNormaliser:
    """Scales metrics to about [-1, 1].

    - A metric of known range is mapped linearly to [-1, 1] and clipped.
    - Any other is standardised, so that three standard deviations become 1, and clipped, once
      `enough` values that are not all equal were observed.
    - Until then its signed logarithm sign(x) log(1 + |x|) is used, which is unbounded. To avoid the
      jump from one to the other, observe enough values before training.

    Attributes:
        ranges: Lowest and highest value by name, in the metric's own unit.
        enough: Values of a metric of unknown range after which its statistics are used; >= 2.
        frozen: Whether `observe` leaves the statistics as they are.
    """

    def __init__(
        self, ranges: Mapping[str, tuple[float, float]] | None = None, *, enough: int = 30
    ) -> None:
        """Start without observations.

        Raises:
            ConfigError: If a range is empty or not finite, or `enough` is too small.
        """
        if enough < 2:
            raise ConfigError(f"enough must be >= 2, got {enough}: one value has no spread")
        self.ranges = {name: _checked(name, limits) for name, limits in (ranges or {}).items()}
        self.enough = enough
        self.frozen = False
        self._statistics: dict[str, _Statistics] = {}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the statistics of those whose range is unknown, unless frozen.

        Raises:
            ValueError: If a metric is not finite; then none is added.
        """
        finite = {name: _finite(name, value) for name, value in metrics.items()}
        if self.frozen:
            return
        for name, value in finite.items():
            if name not in self.ranges:
                self._statistics.setdefault(name, _Statistics()).add(value)

    def normalise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Scaled metrics by name; the statistics stay as they are.

        Raises:
            ValueError: If a metric is not finite.
        """
        return {name: self._scaled(name, _finite(name, value)) for name, value in metrics.items()}

    def state(self) -> dict[str, Any]:
        """The complete state as plain values."""
        return {
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "enough": self.enough,
            "frozen": self.frozen,
            "statistics": {
                name: [seen.count, seen.mean, seen.sum_of_squares]
                for name, seen in self._statistics.items()
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "MetricsNormaliser":
        """Restore a normaliser from its `state()`.

        Raises:
            ConfigError: If a range is empty or not finite.
        """
        normaliser = cls(state["ranges"], enough=state["enough"])
        normaliser.frozen = state["frozen"]
        normaliser._statistics = {
            name: _Statistics(*numbers) for name, numbers in state["statistics"].items()
        }
        return normaliser

    def _scaled(self, name: str, value: float) -> float:
        if name in self.ranges:
            low, high = self.ranges[name]
            return _clipped((value - low) / (high - low) * 2.0 - 1.0)
        seen = self._statistics.get(name)
        if seen is not None and seen.count >= self.enough:
            deviation = math.sqrt(seen.sum_of_squares / seen.count)
            if deviation > _LEAST_SHARE * abs(seen.mean):
                return _clipped((value - seen.mean) / (_DEVIATIONS * deviation))
        return math.copysign(math.log1p(abs(value)), value)


class NormaliseMetrics(
    gym.ObservationWrapper[np.ndarray, Any, dict[str, Any]], gym.utils.RecordConstructorArgs
):
    """Turns observations of named metrics into one row of scaled features, in the space's order.

    Statistics of metrics of unknown range change as they are observed, so the same state would look
    different later, and to other members of a group. For GRPO, observe first, then freeze:

        ```python
        normaliser = MetricsNormaliser({"cpu_percent": (0.0, 100.0)})
        env = NormaliseMetrics(RawMetrics(), normaliser)
        ...  # a few episodes
        normaliser.frozen = True
        model = GRPO("gru", lambda: NormaliseMetrics(RawMetrics(), normaliser), frame_history=60)
        model.metrics_normaliser = normaliser  # saved with the policy
        ```

    Attributes:
        normaliser: The normaliser, which may be shared.
        names: Names of the metrics, in order.
    """

    def __init__(self, env: gym.Env[Any, Any], normaliser: MetricsNormaliser) -> None:
        """Wrap an environment.

        Args:
            env: Its observations are a Dict of Boxes or Discretes of one number each.
            normaliser: Observes unless it is frozen.

        Raises:
            ConfigError: If the observation space is not a Dict of metrics.
        """
        gym.utils.RecordConstructorArgs.__init__(self, normaliser=normaliser)
        super().__init__(env)
        self.normaliser = normaliser
        self.names = _metric_names(env.observation_space)
        known = [name in normaliser.ranges for name in self.names]
        bounds = np.where(known, 1.0, np.inf).astype(np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)

    def observation(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Scaled metrics, shape (M,), float32.

        Raises:
            ValueError: If a metric is not finite.
        """
        metrics = {name: float(np.asarray(observation[name]).item()) for name in self.names}
        self.normaliser.observe(metrics)
        scaled = self.normaliser.normalise(metrics)
        return np.array([scaled[name] for name in self.names], np.float32)


def _metric_names(space: gym.Space[Any]) -> tuple[str, ...]:
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    numbers = [
        isinstance(part, spaces.Discrete)
        or (isinstance(part, spaces.Box) and math.prod(part.shape) == 1)
        for part in parts.values()
    ]
    if not parts or not all(numbers):
        raise ConfigError(
            "observation space must be a Dict of metrics, each a Box of one number or a Discrete, "
            f"got {space}"
        )
    return tuple(parts)


def _checked(name: str, limits: Any) -> tuple[float, float]:
    low, high = (float(limit) for limit in limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"the range of {name!r} must be two finite numbers, the lower first, got "
            f"{(low, high)}: leave the metric out if its range is unknown"
        )
    return low, high


def _finite(name: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"metric {name!r} must be finite, got {number}: look at what measures it")
    return number


def _clipped(value: float) -> float:
    return min(max(value, -1.0), 1.0)
