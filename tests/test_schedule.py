import math
from typing import Any

import pytest

from grpo_gym import GRPO
from grpo_gym.config import ConfigError
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.schedule import Schedule
from probe_envs import Recall


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


# What `learn` makes of it; an iteration of these is 2 groups of 4 episodes of 5 steps


def make(**config: Any) -> GRPO:
    return GRPO("linear", Recall, num_groups=2, group_size=4, **config)


def test_without_learn_there_is_no_span_and_no_fall() -> None:
    model = make()
    for _ in range(3):
        model.train_iteration()
        assert model.optimizer.param_groups[0]["lr"] == model.config.learning_rate


def test_learn_rounds_up_to_whole_iterations() -> None:
    assert make().learn(1).num_steps == 40
    assert make().learn(81).num_steps == 120
    assert make().learn(8e1).num_steps == 80


@pytest.mark.parametrize("total", [0, -5, 0.5, 10.5, float("nan"), float("inf")])
def test_steps_must_be_a_whole_number(total: float) -> None:
    with pytest.raises(ConfigError, match="total_steps must be a whole number >= 1"):
        make().learn(total)


def test_learning_twice_goes_on() -> None:
    rates: list[float] = []

    def watch(model: GRPO, stats: IterationStats) -> None:
        rates.append(model.optimizer.param_groups[0]["lr"])

    model = make(learning_rate=0.1, final_learning_rate=0.5).learn(80, callback=watch)
    before = model.weights_sha256()
    model.learn(80, callback=watch)
    assert (model.iteration, model.num_steps) == (4, 160)
    assert model.weights_sha256() != before
    assert rates == pytest.approx([0.1, 0.075, 0.1, 0.075])  # each call has a schedule of its own
