"""scripts/shared_worlds.py: the gradient variances that it compares."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.trainers.settings import TrainSettings

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_variance_and_signal_of_two_rollouts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = import_module("shared_worlds")
    gradients = iter([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
    starts = []

    def policy_gradient(model: Any, rollout: Any) -> np.ndarray:
        starts.append(rollout.observations[0])
        return np.array(next(gradients))

    monkeypatch.setattr(script, "policy_gradient", policy_gradient)
    settings = TrainSettings(env="LoadBalancer-v0", env_kwargs={"episode_length": 25})
    measured = script.gradient_variance(settings, 0.0, script.Options(rollouts=2))
    # The mean (2, 0) has squared norm 4, of which half the variance is noise.
    assert measured["shared"] == {"variance": 2.0, "signal": 3.0}
    assert measured["unrelated"] == {"variance": 0.0, "signal": 16.0}
    are_equal = [bool((start == start[:, :1]).all()) for start in starts]
    assert are_equal == [True, True, False, False]
