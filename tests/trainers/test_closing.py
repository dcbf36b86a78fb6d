"""Environments may hold processes, windows and files: whatever is made is closed, once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.experiments import shipped_settings, train

ENV = "Holding-v0"


class Holding(gym.Env[Any, Any]):
    """Counts how often each of its kind was closed; fails where it is told to."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    closings: ClassVar[list[int]] = []
    fails: ClassVar[str] = ""

    def __init__(self) -> None:
        self.number = len(self.closings)
        if self.fails == "init" and self.number % 5 == 4:
            raise OSError("no more of them")
        self.closings.append(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._fail("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self._fail("step")
        return np.zeros(1, np.float32), 1.0, True, False, {}

    def close(self) -> None:
        self.closings[self.number] += 1
        self._fail("close")

    def _fail(self, call: str) -> None:
        if self.fails == call:
            raise OSError(f"{call} failed")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Holding, "closings", [])
    gym.register(ENV, entry_point=Holding)  # type: ignore[arg-type]
    yield
    del gym.registry[ENV]


def make(env: Any = ENV, **settings: Any) -> GRPO:
    return GRPO("linear", env, num_groups=2, group_size=2, **settings)


def all_closed_once() -> bool:
    return Holding.closings == [1] * len(Holding.closings)


@pytest.mark.parametrize("env", [ENV, Holding])
def test_a_model_closes_what_it_made(env: Any) -> None:
    with make(env) as model:
        model.learn(8)
        assert Holding.closings.count(0) == 4
    assert all_closed_once()
    model.close()
    assert all_closed_once()


def test_training_goes_on_with_new_environments_after_closing() -> None:
    model, other = make(), make()
    model.learn(8)
    other.learn(8)
    model.close()
    for each in (model, other):
        each.learn(8)
        each.close()
    assert model.weights_sha256() == other.weights_sha256()
    assert all_closed_once()


def test_training_that_fails_closes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("reset", "step"):
        monkeypatch.setattr(Holding, "fails", call)
        with pytest.raises(EnvError, match=f"{call} failed"), make() as model:
            model.learn(8)
        assert all_closed_once()


def test_evaluations_close_what_they_make(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    model.evaluate(3)
    assert all_closed_once()
    monkeypatch.setattr(Holding, "fails", "step")
    with pytest.raises(EnvError, match="step failed"):
        model.evaluate(3)
    assert all_closed_once()


def test_those_made_before_one_cannot_be_made_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holding, "fails", "init")
    with pytest.raises(ConfigError, match="no more of them"):
        make_batch(ENV, None, 6)
    assert all_closed_once()
    with pytest.raises(OSError, match="no more of them"):
        make_batch(Holding, None, 6)
    assert all_closed_once()


class Odd(Holding):
    action_space = spaces.Text(3)  # type: ignore[assignment]


@pytest.mark.parametrize("env", [Odd, lambda: gym.wrappers.NormalizeReward(Holding())])
def test_refused_ones_are_closed(env: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make(env).prepare()
    assert Holding.closings
    assert all_closed_once()


def test_all_are_closed_though_closing_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(Holding, None, 3)
    monkeypatch.setattr(Holding, "fails", "close")
    with pytest.raises(OSError, match="close failed"):
        batch.close()
    assert all_closed_once()


def test_experiments_close_theirs() -> None:
    settings = shipped_settings(ENV, grpo={"num_groups": 1, "group_size": 2})
    train(settings, 0, iterations=2)
    assert Holding.closings
    assert all_closed_once()


def test_no_process_is_left() -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Process(Holding):
        def __init__(self) -> None:
            super().__init__()
            code = "import sys; sys.stdin.read()"
            self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            started.append(self.process)

        def close(self) -> None:
            self.process.communicate()

    with make(Process) as model:
        model.learn(4)
        model.evaluate(1)
    assert len(started) > 4
    assert all(process.poll() is not None for process in started)
