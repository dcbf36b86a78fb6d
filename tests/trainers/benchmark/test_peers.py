"""Trainings to a target: when they end, and what counts."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn
from typing_extensions import override

from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.trainers.benchmark import peers
from grpo_gym.trainers.benchmark.peers import Stopwatch, Target, until_target
from grpo_gym.trainers.comparison.training import Training


class Stepping(Training):
    """Takes 100 steps an iteration, and learns nothing."""

    network = nn.Identity()

    def __init__(self) -> None:
        self.steps = 0

    @override
    def learn(self, total_steps: int, record: Callable[[int], None]) -> int:
        while self.steps < total_steps:
            self.steps += 100
            record(self.steps)
        return self.steps

    @override
    def action_function(self, deterministic: bool) -> ActionFunction:
        return lambda observations, *_: (np.zeros(len(observations), np.int64), None)


def train(monkeypatch: pytest.MonkeyPatch, returns: list[float], total_steps: int) -> object:
    played = iter(returns)
    monkeypatch.setitem(peers.TARGETS, "CartPole-v1", Target(475.0, 250, 2, 1_000))
    monkeypatch.setattr(peers, "evaluate", lambda *_: SimpleNamespace(mean_return=next(played)))
    found = until_target(Stepping(), "CartPole-v1", total_steps)
    assert not list(played), "evaluations that were not made"
    return found["steps"], found["reached"]


def test_a_training_ends_with_the_second_success_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every 250 steps, but between iterations: after 300, 600, ...
    assert train(monkeypatch, [500.0, 400.0, 475.0, 480.0], 9_000) == (1_200, True)


def test_a_training_that_never_succeeds_ends_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, [500.0, 474.0, 500.0], 1_000) == (900, False)


def test_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([10.0, 13.0, 20.0, 24.0])
    processor = itertools.chain([1.0, 2.0, 5.0, 5.5])
    fake = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(processor))
    monkeypatch.setattr(peers, "time", fake)
    watch = Stopwatch()
    for _ in range(2):
        watch.start()
        watch.pause()
    assert watch.read() == {"seconds": 7.0, "cpu_seconds": 1.5}
