"""Schedules of learning rate and discount over the environment steps of a call of `learn`."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """The environment steps that one call of `learn` spans.

    Attributes:
        start: Steps taken before the call.
        end: Steps at which the call ends.
    """

    start: int
    end: int

    def progress(self, num_steps: int) -> float:
        """Fraction of the span that is done, in [0, 1].

        Without a span, as in `train_iteration` before any `learn`, it is 0.
        """
        if self.end <= self.start:
            return 0.0
        return min(max((num_steps - self.start) / (self.end - self.start), 0.0), 1.0)

    def factor(
        self, num_steps: int, kind: Literal["constant", "linear", "cosine"], final: float
    ) -> float:
        """Factor on the learning rate: 1 at the start, `final` at the end of the span."""
        progress = self.progress(num_steps)
        if kind == "constant":
            return 1.0
        if kind == "linear":
            return 1.0 + (final - 1.0) * progress
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
