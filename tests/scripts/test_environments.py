"""scripts/environments.py: what works is done, what fails is told, and the rest goes on."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = {"num_groups": 1, "group_size": 2, "max_episode_steps": 8}
STEPS = ("train", "save and load", "resume", "predict", "evaluate")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script's module, imported as when the script runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr("os.fsync", lambda file: None)
        yield import_module("environments")


def one_dimensional() -> gym.Env[Any, Any]:
    return gym.wrappers.TransformObservation(
        gym.make("CartPole-v1"), lambda observed: observed[:1], gym.spaces.Box(-9, 9, (1,))
    )


class BreaksLater(gym.Env[Any, Any]):
    """It plays in training, whose seeds are others than those of evaluations, and breaks there."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.broken = seed is not None and 5_000_000 <= seed < 5_000_100
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.broken:
            raise ZeroDivisionError("worn out")
        return np.zeros(1, np.float32), float(action), True, False, {}


def trial_of(script: Any, monkeypatch: pytest.MonkeyPatch, env: Any) -> dict[str, Any]:
    trial = script.Trial(env, settings=SMALL, steps=32, episodes=3)
    monkeypatch.setitem(script.TRIALS, "tried", trial)
    result: dict[str, Any] = script.try_out("tried", 30.0)
    return result


def test_what_works_is_done(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = trial_of(script, monkeypatch, one_dimensional)
    assert {step: result[step] for step in STEPS} == dict.fromkeys(STEPS, "done")
    assert result["steps"] >= 32 and "play to a file" not in result
    low, high = result["difference_ci95"]
    assert low <= result["return"] - result["random_return"] <= high


def test_an_id_is_played_to_a_file_too(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert trial_of(script, monkeypatch, "CartPole-v1")["play to a file"] == "done"


def test_what_fails_is_told_and_the_rest_goes_on(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = trial_of(script, monkeypatch, BreaksLater)
    assert "ZeroDivisionError('worn out')" in result["evaluate"]
    assert [result[step] for step in STEPS[:-1]] == ["done"] * 4
    result = trial_of(script, monkeypatch, "CartPole-v9")
    assert result["train"].startswith("ConfigError: env must be a registered id")
    assert result["predict"] == "RuntimeError: there is no policy"


def test_the_page_shows_the_published_results(script: Any) -> None:
    docs = SCRIPTS.parent / "docs"
    published = json.loads((docs / "results" / "environments.json").read_text())
    page = (docs / "results" / "environments.md").read_text("utf-8")
    assert len(published) >= 25 and published.keys() <= script.TRIALS.keys()
    for name, result in published.items():
        wanted = [*STEPS, *(["play to a file"] if isinstance(script.TRIALS[name].env, str) else [])]
        assert [result[step] for step in wanted] == ["done"] * len(wanted), name
        assert f"| {name} | {result['steps']:,} | {result['cpu_seconds']:.0f} |" in page
