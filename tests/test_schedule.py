import math
from typing import Any

import pytest

from grpo_gym.trainers.schedule import Schedule


@pytest.mark.parametrize(
    ("kind", "at_quarter"),
    [("constant", 1.0), ("linear", 0.775), ("cosine", 0.1 + 0.45 * (1 + math.cos(math.pi / 4)))],
)
def test_factors_by_hand(kind: Any, at_quarter: float) -> None:
    schedule = Schedule(start=1_000, end=2_000)
    final = 1.0 if kind == "constant" else 0.1
    factors = [schedule.factor(n, kind, 0.1) for n in (1_000, 1_250, 2_000, 2_500)]
    assert factors == pytest.approx([1.0, at_quarter, final, final])


def test_progress_is_the_share_of_steps() -> None:
    schedule = Schedule(start=100, end=300)
    assert [schedule.progress(n) for n in (0, 100, 150, 300, 900)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert Schedule(start=0, end=0).progress(0) == 0.0
