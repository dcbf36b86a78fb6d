import math
from pathlib import Path
from typing import Any

import pytest

from grpo_gym import GRPO
from grpo_gym.settings import ConfigError
from grpo_gym.trainers import grpo
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning.estimate import estimate_advantages
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
    with pytest.raises(ConfigError, match=r"total_steps must be .*, got"):
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


def test_the_discount_moves_evenly_to_its_end() -> None:
    found: list[float] = []
    model = make(discount=0.6, final_discount=1.0)
    assert model.discount == 0.6
    model.train_iteration()
    assert model.discount == 0.6  # without a span it stays
    model.learn(160, callback=lambda model, _: found.append(model.discount))
    assert found == pytest.approx([0.7, 0.8, 0.9, 1.0])


def test_returns_are_compared_with_the_discount_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []

    def spy(rollout: Any, config: Any, discount: float, *rest: Any) -> Any:
        used.append(discount)
        return estimate_advantages(rollout, config, discount, *rest)

    monkeypatch.setattr(grpo, "estimate_advantages", spy)
    make(discount=0.5, final_discount=0.9).learn(160)
    assert used == pytest.approx([0.5, 0.6, 0.7, 0.8])
    used.clear()
    make(discount=0.5).learn(160)
    assert used == [0.5] * 4


def test_a_run_that_goes_on_has_the_discount_of_the_whole_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"discount": 0.5, "final_discount": 1.0}
    whole = make(**settings).learn(160)
    half = make(**settings).learn(160, callback=lambda model, _: model.num_steps < 80)
    half.save(tmp_path / "half.grpo")
    resumed = GRPO.load(tmp_path / "half.grpo", env=Recall).resume()
    assert resumed.weights_sha256() == whole.weights_sha256()
