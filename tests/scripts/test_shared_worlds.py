"""scripts/shared_worlds.py: the variance of the gradient that it compares."""

from importlib import import_module
from pathlib import Path

import pytest

from grpo_gym.trainers.settings import TrainSettings

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_variances_of_two_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = import_module("shared_worlds")
    settings = TrainSettings(env="LoadBalancer-v0", env_kwargs={"episode_length": 25})
    measured = script.gradient_variance(settings, 0.0, script.Options(rollouts=2))
    assert set(measured) == {"shared", "unrelated"}
    assert all(value["variance"] > 0.0 for value in measured.values())
