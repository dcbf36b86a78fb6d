"""Environments and networks of users may raise anything: one line, whole iterations are kept."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli.main import main
from grpo_gym.storage import checkpoint

CODE = """
import sys

import gymnasium as gym
import numpy as np
import torch

from grpo_gym import register_policy

FAULTS = {
    "exit": lambda: sys.exit(),
    "exit 0": lambda: sys.exit(0),
    "exit text": lambda: sys.exit("bye"),
    "value": lambda: int("two\\nlines"),
    "key": lambda: {}["x"],
    "recursion": lambda: FAULTS["recursion"](),
    "memory": lambda: raise_(MemoryError()),
    "generator": lambda: raise_(GeneratorExit()),
    "iteration": lambda: raise_(StopIteration()),
    "base": lambda: raise_(BaseException("base")),
    "colours": lambda: raise_(ValueError("\\x1b[31m red")),
    "surrogate": lambda: raise_(ValueError("\\udcff")),
    "group": lambda: raise_(ExceptionGroup("many", [ValueError("one")])),
}
CALLS = [0]

def raise_(error):
    raise error


class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault=None, where="step"):
        self.fault, self.where = fault, where
        self.fail("init", 0)

    def fail(self, where, after):
        CALLS[0] += 1
        if self.where == where and self.fault is not None and CALLS[0] > after:
            FAULTS[self.fault]()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.fail("reset", 500)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.fail("step", 500)
        self.steps += 1
        return np.zeros(1, np.float32), float(action), self.steps == 10, False, {}


class Net(torch.nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault, self.calls, self.layer = fault, 0, torch.nn.Linear(1, 2)

    def forward(self, rows):
        self.calls += 1
        if self.calls > 30:
            FAULTS[self.fault]()
        return self.layer(rows)


gym.register("Failing-v0", Failing)
register_policy("failing", lambda observations, actions, fault: Net(fault))
"""
FAULTS = (
    "exit", "exit 0", "exit text", "value", "key", "recursion", "memory", "generator", "iteration",
    "base", "colours", "surrogate", "group",
)  # fmt: skip
TRAIN = [
    *("train", "--env", "users_code:Failing-v0", "--num-groups", "2", "--group-size", "4"),
    *("--total-steps", "4000", "--evaluations", "0", "--final-episodes", "0", "--run-dir", "run"),
]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    Path("users_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(".")
    monkeypatch.delenv("GRPO_GYM_TRACEBACK", raising=False)
    users_code = import_module("users_code")
    users_code.CALLS[0] = 0
    return users_code.CALLS


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) in (1, 2)
    err = capsys.readouterr().err
    assert "Traceback" not in err and "\x1b" not in err
    *others, last = err.splitlines()
    assert last.startswith("error: "), err
    assert not any(line.startswith("error") for line in others), err
    return last


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_an_environment_raises_is_one_line(
    fault: str, capsys: pytest.CaptureFixture[str], calls: list[int]
) -> None:
    error = error_of(capsys, [*TRAIN, "--policy", "linear", "--env-kwargs", f"fault={fault}"])
    assert "Failing-v0.step(), seed " in error or "out of memory" in error
    latest = Path("run/checkpoints/latest.ckpt")
    assert checkpoint.load(latest, kind="grpo")["iteration"] >= 1
    for where in ("init", "reset", "step"):
        calls[0] = 0
        words = ["evaluate", "--env", "users_code:Failing-v0", "--policy", "random"]
        words += ["--env-kwargs", f"fault={fault}", f"where={where}"]
        error_of(capsys, words)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_network_raises_is_one_line(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ["--policy", "failing", "--policy-kwargs", f"fault={fault}"]
    error = error_of(capsys, [*TRAIN, *policy])
    assert "users_code.py, line " in error or "out of memory" in error


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_GYM_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main([*TRAIN, "--policy", "failing", "--policy-kwargs", "fault=key"])
