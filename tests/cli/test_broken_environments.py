"""A broken environment ends a command with one line that says where; what is whole is saved."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from grpo_gym.cli.evaluate import main as evaluate
from grpo_gym.cli.train import main as train
from grpo_gym.trainers.grpo import GRPO

MODULE = '''
import gymnasium as gym
import numpy as np


class Fragile(gym.Env):
    """One step; from call 201 on, and in the episode of seed 30, it pays what a file says."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    calls = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.own = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Fragile.calls += 1
        reward = float(action)
        if Fragile.calls > 200 or self.own == 30:
            reward = {"nan": float("nan"), "text": "one", "huge": 1.7e308}[open("kind").read()]
        return np.zeros(1, np.float32), reward, True, False, {}


gym.register("Fragile-v0", "a_fragile_module:Fragile")
'''
RULES = {
    "nan": "rewards must be finite, and at most 1e+100 in size, got nan",
    "text": "rewards must be numbers, got 'one'",
    "huge": "rewards must be finite, and at most 1e+100 in size, got 1.7e+308",
}


@pytest.fixture(params=RULES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Path("kind").write_text(request.param)
    Path("a_fragile_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield request.param
    sys.modules.pop("a_fragile_module", None)
    gym.registry.pop("Fragile-v0", None)


def test_evaluation_ends_with_one_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--env a_fragile_module:Fragile-v0 --policy random --episodes 100 --json out.json"
    assert evaluate(words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: Fragile-v0.step(), seed 30, step 1: {RULES[kind]}"
    assert not Path("out.json").exists()
    assert evaluate(words.replace("100", "30").split()) == 0


def test_training_saves_what_is_whole(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--env a_fragile_module:Fragile-v0 --run-dir run --total-steps 1000 --num-groups 2 "
        "--group-size 8 --evaluations 0"
    )
    assert train(words.split()) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Fragile-v0.step(), seed ")
    assert last.endswith(f", step 1: {RULES[kind]}")
    assert GRPO.load("run/checkpoints/latest.ckpt").num_steps == 16 * (200 // 16)
